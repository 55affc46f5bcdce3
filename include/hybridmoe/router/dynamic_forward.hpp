#pragma once
/// @file dynamic_forward.hpp
/// Kernels of router::Dynamic's forward: scores, choice, and what a training call keeps of them.

#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/router/dynamic_rule.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

/// Rows that one item of a choice handles, and rows whose sums one item makes.
inline constexpr Index dynamic_rows = 16;
inline constexpr Index dynamic_block = 64;
/// Added to squared lengths under a cosine.
inline constexpr double cosine_epsilon = 1e-6;

template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T inverse_length(const T* v, Index size) {
  return T(1) / math::sqrt(ops::sum_of_squares(v, size) + T(cosine_epsilon));
}

/// inverse[e] = 1/|C_e|
template <class T, Index rank>
struct CentroidLengthKernel {
  const T* centroid;
  T* inverse;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index e) const { inverse[e] = inverse_length(centroid + e * rank, rank); }
};

/// The semantic score: κ·cos(a, C_e), a = P_x·x + P_s·context + p_c·c. Null centroid: none.
template <class T>
struct Semantic {
  const T *centroid, *inverse;  ///< [count, rank], [count] 1/|C_e|
  const T* scale;               ///< [1] κ
  const T* by_complexity;       ///< [rank] p_c
};

/// z, its softmax ρ, the row's experts and their weights.
template <class T, Index count, Index most, Index rank>
struct DynamicChoiceKernel {
  Index rows;
  DynamicRule<T, most> rule;
  Semantic<T> semantic;
  const T* bias;             ///< [count] u
  const T* from_context;     ///< [rows, rank] P_s·context, or null
  T* projected;              ///< [rows, rank] in: P_x·x, out: a
  T* score;                  ///< [rows, count] in: W·x, out: z
  T *probability, *log_sum;  ///< [rows, count], [rows] or null
  Threshold<T>* threshold;   ///< [rows] or null
  Index* expert;
  T* weight;
  Unbounded<T, most> unbounded;
  T *used_experts, *used_weight;  ///< null: nobody asks
  Index used_width;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * dynamic_rows);
    const T inverse_temperature = T(1) / rule.temperature();
    for (Index row = item * dynamic_rows; row < end; ++row) choose(row, inverse_temperature);
  }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void choose(Index row, T inverse) const {
    T* const to = score + row * count;
    T z[count];
    for (Index e = 0; e < count; ++e) z[e] = to[e];
    if constexpr (rank > 0) add_similarity(row, z);
    const Index turn = rule.turn(row, count);
    for (Index e = 0; e < count; ++e) to[e < count - turn ? e + turn : e + turn - count] = z[e];
    for (Index e = 0; e < count; ++e) to[e] += bias[e];
    for (Index e = 0; e < count; ++e) z[e] = to[e];
    soften(row, z);

    const T beta = rule.beta(row);
    const T limit = rule.limit(row, beta, rule.fraction(row));
    const HighestScores<most, count, T> highest(z, (unbounded.sum == nullptr ? static_cast<Index>(limit) : most) + 2);
    const Threshold<T> own = highest.threshold(limit, rule.least(row, beta));
    if (threshold != nullptr) threshold[row] = own;
    Index chosen = 0;
    const T sum = list(z, own.value, inverse, expert + row * most, weight + row * most, chosen);
    if (used_experts != nullptr) used_experts[row * used_width] = static_cast<T>(chosen);
    if (used_weight != nullptr) used_weight[row * used_width] = sum;
    if (unbounded.sum == nullptr) return;
    const Threshold<T> all = highest.threshold(rule.limit(row, T(1), T(1)), rule.least(row, T(1)));
    if (unbounded.threshold != nullptr) unbounded.threshold[row] = all;
    Index numbers[most];
    T weights[most];
    const bool kept = unbounded.expert != nullptr;
    unbounded.sum[row] = list(z, all.value, inverse, kept ? unbounded.expert + row * most : numbers,
                              kept ? unbounded.weight + row * most : weights, chosen);
  }

 private:
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void add_similarity(Index row, T* z) const {
    T* const a = projected + row * rank;
    const T c = rule.of_complexity(row);
    for (Index i = 0; i < rank; ++i) a[i] += semantic.by_complexity[i] * c;
    if (from_context != nullptr)
      for (Index i = 0; i < rank; ++i) a[i] += from_context[row * rank + i];
    const T inverse = inverse_length(a, rank) * semantic.scale[0];
    for (Index e = 0; e < count; ++e) z[e] += ops::dot(a, semantic.centroid + e * rank, rank) * semantic.inverse[e] * inverse;
  }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void soften(Index row, const T* z) const {
    T highest = z[0];
    for (Index e = 1; e < count; ++e) highest = z[e] > highest ? z[e] : highest;
    T power[count];
    for (Index e = 0; e < count; ++e) power[e] = math::exp_nonpositive(z[e] - highest);
    T all = 0;
    for (Index e = 0; e < count; ++e) all += power[e];
    const T share = T(1) / all;
    for (Index e = 0; e < count; ++e) probability[row * count + e] = power[e] * share;
    if (log_sum != nullptr) log_sum[row] = highest + math::log(all);
  }

  /// Experts above the threshold, ascending, and their weights; returns the weights' sum.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static T list(const T* z, T threshold, T inverse_temperature, Index* numbers, T* weights,
                                                    Index& filled) {
    Index above[count + 1] = {};
    filled = 0;
    for (Index e = 0; e < count; ++e) {
      above[filled] = e;
      filled += z[e] > threshold;
    }
    filled = smaller(filled, most);
    T score[most], sum = 0;
    for (Index i = 0; i < most; ++i) score[i] = z[above[i]];
    for (Index i = 0; i < most; ++i) {
      const T weight = T(1) - math::exp_nonpositive((threshold - score[i]) * inverse_temperature);
      weights[i] = math::select(i < filled, weight, T(0));
    }
    for (Index i = 0; i < most; ++i) {
      numbers[i] = i < filled ? above[i] : -1;
      sum += weights[i];
    }
    return sum;
  }
};

/// What a training call measures, in blocks of rows: [blocks, count + 2 + 2·knots]: rows that chose e; Σ log_sum²; the price of
/// the weights; for each knot the rows near it whose target is 1, and by how many experts they fell short of what is wanted.
template <class T, Index count, Index most>
struct DynamicSumKernel {
  static constexpr Index sums = count + 2 + 2 * budget_knots;
  Index rows;
  DynamicRule<T, most> rule;
  double price;  ///< per unit of weight of a row whose target is 0
  const Index* expert;
  const T *weight, *log_sum;
  T* partial;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    T sum[sums] = {};
    T *const rows_near = sum + count + 2, *const short_of = rows_near + budget_knots;
    const Index end = smaller(rows, (block + 1) * dynamic_block);
    for (Index row = block * dynamic_block; row < end; ++row) {
      T total = 0;
      Index chosen = 0;
      for (; chosen < most && expert[row * most + chosen] >= 0; ++chosen) {
        sum[expert[row * most + chosen]] += T(1);
        total += weight[row * most + chosen];
      }
      const T target = rule.target.at(row, 0, T(1)), beta = rule.beta(row);
      sum[count] += log_sum[row] * log_sum[row];
      sum[count + 1] += price_of(price, target) * total;
      if (target < T(1)) continue;
      const BetweenKnots<T> place(beta);
      const T missing = rule.wanted(beta) - static_cast<T>(chosen);
      rows_near[place.at] += T(1) - place.share;
      rows_near[place.at + 1] += place.share;
      short_of[place.at] += (T(1) - place.share) * missing;
      short_of[place.at + 1] += place.share * missing;
    }
    for (Index i = 0; i < sums; ++i) partial[block * sums + i] = sum[i];
  }
};

template <class T, Index count>
struct DynamicTotalKernel {
  static constexpr Index sums = count + 2 + 2 * budget_knots;
  Index rows, blocks;
  T z;
  const T* partial;
  T *load, *missing, *value;  ///< [count], [knots], [1]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    T sum[sums] = {};
    for (Index block = 0; block < blocks; ++block)
      for (Index i = 0; i < sums; ++i) sum[i] += partial[block * sums + i];
    const T share = rows > 0 ? T(1) / static_cast<T>(rows) : T(0);
    for (Index e = 0; e < count; ++e) load[e] = sum[e] * share;
    for (Index k = 0; k < budget_knots; ++k) {
      const T rows_near = sum[count + 2 + k];
      missing[k] = sum[count + 2 + budget_knots + k] / (rows_near > T(1) ? rows_near : T(1));
    }
    *value = (z * sum[count] + sum[count + 1]) * share;
  }
};

}  // namespace hybridmoe::router
