#pragma once
/// @file dynamic_backward.hpp
/// Kernels of router::Dynamic's backward: from the gradients by weights, by ρ and by the unbounded sum to those by the scores'
/// parts, and sums over rows in blocks of fixed size.

#include <hybridmoe/router/dynamic_forward.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

/// What a channel mixer that reads more of a router than its choice hands back; null where there is nothing.
template <class T>
struct BeyondWeights {
  const T* probability = nullptr;  ///< [rows, count] the gradient by ρ
  const T* unbounded = nullptr;    ///< [rows] by Unbounded::sum
};

/// Sums over rows that one block of rows makes: for each expert Σ κ·dz·cos, then by κ, log T, a, o, and by p_c.
template <Index count, Index rank>
struct DynamicSums {
  static constexpr Index scale = count, temperature = count + 1, slope = count + 2, offset = count + 3, by_complexity = count + 4;
  static constexpr Index size = count + 4 + rank;
};

template <class T, Index count, Index most, Index rank>
struct DynamicBackwardKernel {
  using Sums = DynamicSums<count, rank>;
  Index rows;
  DynamicRule<T, most> rule;
  Semantic<T> semantic;
  T z_factor, price_factor;  ///< call.auxiliary·coefficient·2/rows; call.auxiliary/rows
  double price;              ///< per unit of weight of a row whose target is 0
  const T *projected, *score, *probability, *log_sum;
  const Threshold<T>* threshold;
  const Index* expert;
  const T *weight, *dweight;
  Unbounded<T, most> unbounded;
  BeyondWeights<T> beyond;
  T *d_score, *d_cosine, *d_projected;  ///< by W·x; dz·κ/(|a||C_e|); by a
  T* partial;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    T sum[Sums::size] = {};
    const Index end = smaller(rows, (block + 1) * dynamic_block);
    for (Index row = block * dynamic_block; row < end; ++row) one(row, sum);
    for (Index i = 0; i < Sums::size; ++i) partial[block * Sums::size + i] = sum[i];
  }

 private:
  /// What a row gathers on the way.
  struct Gathered {
    T dz[count] = {};
    T log_temperature = 0, least = 0, limit = 0;
  };

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void one(Index row, T* sum) const {
    const T *const z = score + row * count, *const rho = probability + row * count;
    const T inverse = T(1) / rule.temperature(), beta = rule.beta(row);
    Gathered g;
    const T cost = price_factor * price_of(price, rule.target.at(row, 0, T(1)));
    {
      T by_threshold = 0;
      for (Index i = row * most; i < (row + 1) * most && expert[i] >= 0; ++i)
        by_threshold -= gate(g, z, expert[i], threshold[row].value, weight[i], dweight[i] + cost, inverse);
      settle(g, z, threshold[row], by_threshold, true);
    }
    if (beyond.unbounded != nullptr) {
      const Threshold<T> all = unbounded.threshold[row];
      T by_threshold = 0;
      for (Index e = 0, filled = 0; e < count && filled < most; ++e) {
        if (!(z[e] > all.value)) continue;
        const T w = T(1) - math::exp((all.value - z[e]) * inverse);
        by_threshold -= gate(g, z, e, all.value, w, beyond.unbounded[row], inverse);
        ++filled;
      }
      settle(g, z, all, by_threshold, false);
    }
    T common = z_factor * log_sum[row];
    if (beyond.probability != nullptr) {
      const T* const d = beyond.probability + row * count;
      for (Index e = 0; e < count; ++e) g.dz[e] += rho[e] * d[e];
      common -= ops::dot(rho, d, count);
    }
    for (Index e = 0; e < count; ++e) g.dz[e] += rho[e] * common;

    T* const to = d_score + row * count;
    const Index turn = rule.turn(row, count);
    for (Index e = 0; e < count; ++e) to[e] = g.dz[e < count - turn ? e + turn : e + turn - count];
    const T c = rule.of_complexity(row);
    T by_c = 0;
    if constexpr (rank > 0) by_c = similarity(row, to, c, sum);
    sum[Sums::temperature] += g.log_temperature;
    if (rule.knot != nullptr) {
      sum[Sums::slope] += g.least * (T(0.5) - c);
      sum[Sums::offset] += g.least;
      by_c -= g.least * rule.slope[0];
    }
    if (rank > 0 || rule.knot != nullptr) rule.complexity.add_gradient(row, 0, by_c);
    const T fraction = rule.decisions.at(row, rule.decision, T(1));
    if (T(0) <= fraction && fraction <= T(1))
      rule.decisions.add_gradient(row, rule.decision, g.limit * rule.limit_slope(beta) * saving_of(rule.target.at(row, 0, T(1))));
  }

  /// A weight's gradient goes to its score; returns what goes to the threshold with the opposite sign.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static T gate(Gathered& g, const T* z, Index e, T threshold, T w, T dw, T inverse) {
    const T d = dw * (T(1) - w) * inverse;
    g.dz[e] += d;
    g.log_temperature -= d * (z[e] - threshold);
    return d;
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static void settle(Gathered& g, const T* z, const Threshold<T>& at, T d, bool limited) {
    if (at.upper < 0) {
      g.least += d;
      return;
    }
    g.dz[at.upper] += (T(1) - at.share) * d;
    g.dz[at.lower] += at.share * d;
    if (limited) g.limit += d * (z[at.lower] - z[at.upper]);
  }

  /// From dz to what cosines are made of; returns the gradient by c.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T similarity(Index row, const T* dz, T c, T* sum) const {
    const T* const a = projected + row * rank;
    const T inverse = inverse_length(a, rank), scale = semantic.scale[0];
    T da[rank] = {};
    T along = 0, by_scale = 0;
    for (Index e = 0; e < count; ++e) {
      const T* const centroid = semantic.centroid + e * rank;
      const T cosine = ops::dot(a, centroid, rank) * semantic.inverse[e] * inverse, d = scale * dz[e];
      const T direct = d * inverse * semantic.inverse[e];
      d_cosine[row * count + e] = direct;
      for (Index i = 0; i < rank; ++i) da[i] += direct * centroid[i];
      along += d * cosine;
      by_scale += dz[e] * cosine;
      sum[e] += d * cosine;
    }
    sum[Sums::scale] += by_scale;
    along *= inverse * inverse;
    for (Index i = 0; i < rank; ++i) da[i] -= along * a[i];
    T by_c = 0;
    for (Index i = 0; i < rank; ++i) {
      d_projected[row * rank + i] = da[i];
      sum[Sums::by_complexity + i] += c * da[i];
      by_c += da[i] * semantic.by_complexity[i];
    }
    return by_c;
  }
};

/// Adds up the blocks' sums in order, and what rules of their own read.
template <class T, Index count, Index rank>
struct DynamicGradientKernel {
  using Sums = DynamicSums<count, rank>;
  Index blocks;
  T auxiliary;
  Semantic<T> semantic;
  const T *partial, *load, *missing;
  T *centroid, *scale, *by_complexity, *bias, *log_temperature, *knot, *slope, *offset;  ///< gradients; null: absent

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    T sum[Sums::size] = {};
    for (Index block = 0; block < blocks; ++block)
      for (Index i = 0; i < Sums::size; ++i) sum[i] += partial[block * Sums::size + i];
    if constexpr (rank > 0) {
      for (Index e = 0; e < count; ++e) {
        const T along = sum[e] * semantic.inverse[e] * semantic.inverse[e];
        for (Index i = 0; i < rank; ++i) centroid[e * rank + i] -= along * semantic.centroid[e * rank + i];
      }
      *scale += sum[Sums::scale];
      for (Index i = 0; i < rank; ++i) by_complexity[i] += sum[Sums::by_complexity + i];
    }
    *log_temperature += sum[Sums::temperature];
    T mean = 0;
    for (Index e = 0; e < count; ++e) mean += load[e] / static_cast<T>(count);
    for (Index e = 0; e < count; ++e) bias[e] += auxiliary * (load[e] - mean);
    if (knot == nullptr) return;
    for (Index k = 0; k < budget_knots; ++k) knot[k] += auxiliary * missing[k];
    *slope += sum[Sums::slope];
    if (offset != nullptr) *offset += sum[Sums::offset];
  }
};

}  // namespace hybridmoe::router
