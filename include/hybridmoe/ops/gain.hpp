#pragma once
/// @file gain.hpp
/// What computing more was worth to a row, as a quantile within the batch, and the loss that teaches a complexity c to tell it
/// beforehand: mean (c − quantile²)² (formulas of HybridMoE, section 10, but for the square). The gain is KL(full budget ‖ least
/// budget), which is what the full budget expects ℓ(least) − ℓ(full) to be: the difference itself is at the mercy of the one
/// token that came.
///
/// quantile = (number of smaller gains + half the number of equal ones, itself included)/count: the rank's middle, in (0, 1),
/// ties averaged; it does not change when losses are scaled. The square spreads the upper half and draws the lower half together:
/// once trained, most rows gain next to nothing, and which of them gains least is no reason to compute less there than here.
/// No atomics: ranks come from a merge
/// sort in passes, in which each value finds its own place, O(n log² n) in all.

#include <utility>

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Values that one item of these kernels takes.
inline constexpr Index rank_block = 64;

/// How many of the sorted from[0 … count−1] are below x, or not above it if `with_equal`.
HYBRIDMOE_FUNCTION inline Index count_below(const double* from, Index count, double x, bool with_equal) {
  Index low = 0, high = count;
  while (low < high) {
    const Index middle = low + (high - low) / 2;
    if (from[middle] < x || (with_equal && from[middle] == x))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// Merges neighbouring sorted runs of `run` values each.
struct MergeRuns {
  Index count, run;
  const double* from;
  double* to;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(count, (item + 1) * rank_block);
    for (Index i = item * rank_block; i < end; ++i) {
      const Index own = i / run * run;
      const bool right = i / run % 2 == 1;
      const Index other = right ? own - run : own + run, first = smaller(own, other);
      const Index length = other >= count ? 0 : smaller(run, count - other);
      to[first + (i - own) + count_below(from + other, length, from[i], right)] = from[i];
    }
  }
};

/// quantile[i] of value[i] among sorted[count].
struct QuantileOf {
  Index count;
  const double *value, *sorted;
  double* quantile;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(count, (item + 1) * rank_block);
    for (Index i = item * rank_block; i < end; ++i) {
      const Index below = count_below(sorted, count, value[i], false), up_to = count_below(sorted, count, value[i], true);
      quantile[i] = static_cast<double>(below + up_to) / static_cast<double>(2 * count);
    }
  }
};

/// quantile[count] of value[count] among themselves. (With a NaN among them the numbers mean nothing; no memory is harmed.)
template <class Space>
struct Quantiles {
  HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Index count) {
    return 2 * round_up(count * Index(sizeof(double)), arena_alignment);
  }
  HYBRIDMOE_FUNCTION static void run(const Space& space, Arena arena, Index count, const double* value, double* quantile) {
    double* sorted = arena.take<double>(count);
    double* other = arena.take<double>(count);
    const Index items = divide_up(count, rank_block);
    space.each(items, MergeRuns{count, 1, value, sorted});
    for (Index run = 2; run < count; run *= 2) {
      space.each(items, MergeRuns{count, run, sorted, other});
      std::swap(sorted, other);
    }
    space.each(items, QuantileOf{count, value, sorted, quantile});
  }
};

/// gain[i] = divergence[low[i] − first_low]
struct GainOfRows {
  Index count, first_low;
  const Index* low;
  const double* divergence;
  double* gain;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(count, (item + 1) * rank_block);
    for (Index i = item * rank_block; i < end; ++i) gain[i] = divergence[low[i] - first_low];
  }
};

/// What c is to tell of a row.
HYBRIDMOE_FUNCTION constexpr double complexity_of(double quantile) { return quantile * quantile; }

/// value[0] = mean (c[full[i]] − quantile[i]²)², in order. One item.
template <class T>
struct GainError {
  Index count;
  const Index* full;
  const T* complexity;
  const double* quantile;
  double* value;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    double sum = 0;
    for (Index i = 0; i < count; ++i) {
      const double error = static_cast<double>(complexity[full[i]]) - complexity_of(quantile[i]);
      sum += error * error;
    }
    value[0] = count > 0 ? sum / static_cast<double>(count) : 0.0;
  }
};

/// d[full[i]] += factor·(c[full[i]] − quantile[i]²).
template <class T>
struct GainErrorBackward {
  Index count;
  const Index* full;
  const T* complexity;
  const double* quantile;
  double factor;
  T* d;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(count, (item + 1) * rank_block);
    for (Index i = item * rank_block; i < end; ++i)
      d[full[i]] += static_cast<T>(factor * (static_cast<double>(complexity[full[i]]) - complexity_of(quantile[i])));
  }
};

/// The loss for `count` rows full[i] at the full budget, no row twice, whose twins at the least budget are low[i]; both arrays
/// where kernels read. Rows without a target are to be left out. c is read at the full rows: it depends on the tokens alone, so
/// the twins' are equal. The gains and the quantiles have no gradient.
template <class Space, class T>
struct GainLoss {
  HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Index count) {
    return round_up(count * Index(sizeof(double)), arena_alignment) + Quantiles<Space>::workspace_bytes(count);
  }
  /// divergence of the twin rows from first_low on → quantile[count]; value[0] = mean (c − quantile²)², unless value is
  /// null: nobody asks.
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena arena, Index count, const Index* full, const Index* low,
                                         Index first_low, const double* divergence, const T* complexity, double* quantile,
                                         double* value) {
    double* const gain = arena.take<double>(count);
    space.each(divide_up(count, rank_block), GainOfRows{count, first_low, low, divergence, gain});
    Quantiles<Space>::run(space, arena, count, gain, quantile);
    if (value != nullptr) space.each(1, GainError<T>{count, full, complexity, quantile, value});
  }
  /// d_complexity[rows] += scale·∂value/∂c.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Index count, const Index* full, const T* complexity,
                                          const double* quantile, double scale, T* d_complexity) {
    const double factor = count > 0 ? 2 * scale / static_cast<double>(count) : 0.0;
    space.each(divide_up(count, rank_block), GainErrorBackward<T>{count, full, complexity, quantile, factor, d_complexity});
  }
};

}  // namespace hybridmoe::ops
