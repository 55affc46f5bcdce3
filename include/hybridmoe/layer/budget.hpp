#pragma once
/// @file budget.hpp
/// What a compute budget β in [0, 1] allows. A budget is a hard cap: layers choose below these, whatever was learned, so the
/// cost of a token is at most a function C(β) of the type. β outside [0, 1] counts as the nearer end, NaN as 0.

#include <array>

#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// K(β) = ⌊β·most + ½⌋: the most routed experts of a token.
template <class T>
HYBRIDMOE_FUNCTION constexpr Index most_experts(Index most, T beta) {
  return static_cast<Index>(math::within_unit(beta) * static_cast<T>(most) + T(0.5));
}

/// n̂(β) = max(1, ⌈β·slices⌉): the most slices of an elastic shared expert.
template <class T>
HYBRIDMOE_FUNCTION constexpr Index most_slices(Index slices, T beta) {
  const T wanted = math::within_unit(beta) * static_cast<T>(slices);
  const Index whole = static_cast<Index>(wanted);
  return larger(1, static_cast<T>(whole) < wanted ? whole + 1 : whole);
}

/// W(β) = least + β·(most − least): the widest window in keys, a real number between least and most.
template <class T>
HYBRIDMOE_FUNCTION constexpr T widest_window(Index least, Index most, T beta) {
  return static_cast<T>(least) + math::within_unit(beta) * static_cast<T>(most - least);
}

/// 1 − q for a performance target q in [0, 1], from where targets act: how much a row is asked to save. A target outside counts
/// as the nearer end, NaN as 1.
template <class T>
HYBRIDMOE_FUNCTION constexpr T saving_of(T target) {
  return !(target < T(1)) ? T(0) : T(1) - math::within_unit(target);
}
/// What a learned fraction in [0, 1] makes of a row's cap: 1 − (1 − q)·(1 − fraction). At q = 1 the budget is spent, whatever was
/// learned to save; at q = 0 the fraction holds.
template <class T>
HYBRIDMOE_FUNCTION constexpr T spent_part(T fraction, T target) {
  return T(1) - saving_of(target) * (T(1) - fraction);
}

/// Budgets are searched among 0, 1/64, …, 1.
inline constexpr Index budget_steps = 64;

/// C(0), C(1/64), …, C(1) of a cost: a function of β, or already such a table.
using CostTable = std::array<double, to_size(budget_steps + 1)>;
template <class Cost>
constexpr CostTable cost_table(const Cost& cost) {
  CostTable table{};
  for (Index i = 0; i <= budget_steps; ++i) {
    if constexpr (requires { cost(0.5); })
      table[to_size(i)] = cost(static_cast<double>(i) / static_cast<double>(budget_steps));
    else
      table[to_size(i)] = cost[to_size(i)];
  }
  return table;
}

/// The largest β in {0, 1/64, …, 1} with C(β) ≤ budget·C(1), where budget is the part of the full cost (FLOPs, or bytes) that
/// may be spent. Below least_budget no β is cheap enough, and this is 0.
template <class Cost>
constexpr double beta_for(double budget, const Cost& cost) {
  const CostTable table = cost_table(cost);
  Index i = budget_steps;
  while (i > 0 && !(table[to_size(i)] <= budget * table[to_size(budget_steps)])) --i;
  return static_cast<double>(i) / static_cast<double>(budget_steps);
}

/// C(0)/C(1): the smallest budget that beta_for can keep.
template <class Cost>
constexpr double least_budget(const Cost& cost) {
  const CostTable table = cost_table(cost);
  return table[0] / table[to_size(budget_steps)];
}

/// The most forward FLOPs of one token at a budget, of a part L. One that does not say so itself has no choice, and its
/// flops_per_token is a mean over the positions of a sequence: the last token, which sees the most, costs the difference of two
/// sums.
template <class L>
constexpr double most_flops(Index context, double budget) {
  if constexpr (requires { L::capped_flops(context, budget); }) {
    return static_cast<double>(L::capped_flops(context, budget));
  } else {
    const double mean = L::flops_per_token(context).forward;
    if (context < 2) return mean;
    const double rest = static_cast<double>(context - 1);
    return mean + rest * (mean - L::flops_per_token(context - 1).forward);
  }
}

}  // namespace hybridmoe
