#pragma once
/// @file dynamic_rule.hpp
/// The rule by which a row gets between none and `most` experts from its scores z: those above a threshold
///
///   θ = max(τ, (1 − f)·z₍m+1₎ + f·z₍m+2₎),   m = ⌊K̃⌋, f = K̃ − m, z₍i₎ the i-th highest,
///
/// each with weight 1 − exp(−(z − θ)/T), which reaches 0 where the choice flips. At most ⌈K̃⌉ experts lie above θ, ties
/// included. K̃ = K(β)·(1 − (1 − q)·(1 − the controller's fraction)), K(β) = ⌊β·most + ½⌋.

#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/side.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

/// What a hash of a row's position decides in the place of its scores: routers of equal cost that are not adaptive.
enum class Placebo {
  none,
  random_count,   ///< how many experts a row gets; which, the scores say
  random_experts  ///< which experts a row gets; how many and with which weights, the scores say
};

/// Knots of T(β), at β = 0, 0.2, …, 1.
inline constexpr Index budget_knots = 6;

/// Between knots `at` and at + 1, `share` of the way.
template <class T>
struct BetweenKnots {
  Index at;
  T share;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE explicit BetweenKnots(T budget) {
    const T place = math::within_unit(budget) * static_cast<T>(budget_knots - 1);
    at = smaller(budget_knots - 2, static_cast<Index>(place));
    share = place - static_cast<T>(at);
  }
};

/// A row's threshold and what it is made of: (1 − share)·z[upper] + share·z[lower], or τ where upper is negative.
template <class T>
struct Threshold {
  T value, share;
  Index upper, lower;
};

/// Whether a is the higher score; NaN is lower than any number, so that the kept ones stay sorted and the cap holds.
template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE bool scores_above(T a, T b) {
  return a > b || (b != b && a == a);
}

/// A row's highest scores, from which its thresholds come.
template <Index most, Index count, class T>
struct HighestScores {
  /// Up to so many scores, all are put in order: by counting who stands before whom, without a branch.
  static constexpr bool counted = count <= 16;
  T kept[counted ? count : most + 2];  ///< highest first; of equal ones the lower number is first
  Index expert[counted ? count : most + 2];

  /// The first `wanted` places are filled at least: as many as thresholds for up to wanted − 2 experts read.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE HighestScores(const T* z, Index wanted) {
    if constexpr (counted) {
      std::int32_t place[count] = {};
      T key[count];  // NaN is the lowest
      for (int e = 0; e < count; ++e) key[e] = math::select(z[e] == z[e], z[e], math::lowest<T>);
      for (int j = 0; j < count; ++j)
        for (int e = 0; e < count; ++e) place[e] += (key[j] > key[e]) | ((key[j] == key[e]) & (j < e));
      for (int e = 0; e < count; ++e) {
        kept[place[e]] = z[e];
        expert[place[e]] = e;
      }
    } else {
      Index filled = 0;
      for (Index e = 0; e < count; ++e) {
        if (filled == wanted && !scores_above(z[e], kept[wanted - 1])) continue;
        Index at = filled < wanted ? filled++ : wanted - 1;
        for (; at > 0 && scores_above(z[e], kept[at - 1]); --at) {
          kept[at] = kept[at - 1];
          expert[at] = expert[at - 1];
        }
        kept[at] = z[e];
        expert[at] = e;
      }
    }
  }
  /// θ for at most `limit` experts (0 ≤ limit ≤ most) and the least score τ.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE Threshold<T> threshold(T limit, T least) const {
    const Index m = static_cast<Index>(limit);
    const T share = limit - static_cast<T>(m), upper = kept[m], lower = kept[m + 1];
    T value = upper;  // rounding must not lift it above `upper` nor push it below `lower`: the cap hangs on it
    if (share > T(0)) {
      const T between = lower + (T(1) - share) * (upper - lower);
      value = between > upper ? upper : between;
    }
    if (least > value) return {least, T(0), -1, -1};
    return {value, share, expert[m], expert[m + 1]};
  }
};

/// The part of a row's choice that does not depend on its scores.
template <class T, Index most>
struct DynamicRule {
  StreamRows<T> complexity, decisions, budget, target;
  Index decision;         ///< the column of `decisions` that holds this layer's fraction
  const Index* position;  ///< absolute, by rows; read by placebos only
  Index layer;
  T goal;  ///< how many experts a row shall get in the mean, at full budget
  bool adaptive;
  Placebo placebo;
  const T *log_temperature, *knot, *slope, *offset;  ///< null: absent (knot: there is no τ)

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T beta(Index row) const { return math::within_unit(budget.at(row, 0, T(1))); }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T fraction(Index row) const {
    return spent_part(math::within_unit(decisions.at(row, decision, T(1))), target.at(row, 0, T(1)));
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T of_complexity(Index row) const { return complexity.at(row, 0, T(0.5)); }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T temperature() const { return math::exp(*log_temperature); }
  /// The mean number of experts wanted at budget β.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T wanted(T beta) const {
    return static_cast<T>(most_experts(most, beta)) * goal / static_cast<T>(most);
  }

  /// Words of a row: a function of its position and the layer.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE random::Block dice(Index row) const {
    constexpr random::Key key = random::key_of(random::hash("placebo"));
    return random::draw(key, static_cast<std::uint64_t>(layer), static_cast<std::uint64_t>(position[row]));
  }

  /// K̃, and its slope by the controller's fraction.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T limit(Index row, T beta, T fraction) const {
    const Index allowed = most_experts(most, beta);
    const T of_budget = static_cast<T>(allowed) * fraction;
    if (placebo == Placebo::random_count) {
      // v^(most/goal − 1) has the mean goal/most over v in (0, 1); rounding at random keeps the mean.
      const random::Block words = dice(row);
      const T power = static_cast<T>(most) / goal - T(1);
      const T part = math::exp(power * math::log(static_cast<T>(random::uniform(words.word[0]))));
      const T drawn = of_budget * part + static_cast<T>(random::uniform(words.word[1]));
      return static_cast<T>(smaller(allowed, static_cast<Index>(drawn)));
    }
    return adaptive ? of_budget : of_budget * goal / static_cast<T>(most);
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T limit_slope(T beta) const {
    if (placebo == Placebo::random_count) return T(0);
    return adaptive ? static_cast<T>(most_experts(most, beta)) : wanted(beta);
  }

  /// τ = o + T(β) + a·(½ − c)
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T least(Index row, T beta) const {
    if (knot == nullptr) return math::lowest<T>;
    const BetweenKnots<T> place(beta);
    const T of_budget = knot[place.at] + place.share * (knot[place.at + 1] - knot[place.at]);
    return of_budget + slope[0] * (T(0.5) - of_complexity(row)) + (offset == nullptr ? T(0) : offset[0]);
  }
  /// By how much a placebo turns the numbers of the experts.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE Index turn(Index row, Index count) const {
    if (placebo != Placebo::random_experts) return 0;
    return static_cast<Index>(dice(row).word[2]) % count;
  }
};

/// What a row would get without budget and controller: K̃ = most, β = 1. For a channel mixer that stands in for the difference.
/// Null arrays are not wanted.
template <class T, Index most>
struct Unbounded {
  Index* expert = nullptr;            ///< [rows, most] as Choice
  T* weight = nullptr;                ///< [rows, most]
  T* sum = nullptr;                   ///< [rows] the sum of those weights
  Threshold<T>* threshold = nullptr;  ///< [rows] for backward
};

}  // namespace hybridmoe::router
