#pragma once
/// @file recent_features.hpp
/// What a text was like just now, as numbers of each row: the standardised features of its window (ops/squash.hpp), then
/// surprisal and gain of context of the row's own token and of the tokens before it, each less the mean of its feature.

#include <hybridmoe/ops/squash.hpp>
#include <hybridmoe/ops/window_features.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// to[rows, features + 2·last]; 0 where there is no token so far back. One item: squash_block rows.
template <class T, Index features, Index last, Index steps, Index ring_rows>
struct RecentFeaturesKernel {
  static constexpr Index size = features + 2 * last;
  Batch batch;
  Squash<T, features> squash;
  const T* feature;  ///< [rows, features], of WindowFeaturesKernel
  History<T, 1, ring_rows> surprisal, gain;
  T* to;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    T inverse[features];
    for (Index i = 0; i < features; ++i) inverse[i] = squash.inverse_deviation(i);
    const Index end = smaller(batch.rows, (item + 1) * squash_block);
    for (Index row = item * squash_block; row < end; ++row) {
      const Index sequence = batch.row_sequence[row], position = batch.row_position[row];
      const Past<T, 1, ring_rows> s = surprisal.of(batch, sequence), g = gain.of(batch, sequence);
      T* const of = to + row * size;
      for (Index i = 0; i < features; ++i) of[i] = (feature[row * features + i] - squash.mean[i]) * inverse[i];
      for (Index back = 0; back < last; ++back) {
        const bool there = back <= position;
        of[features + 2 * back] = there ? in_steps<steps>(*s[position - back]) - squash.mean[window_feature::surprisal] : T(0);
        of[features + 2 * back + 1] = there ? in_steps<steps>(*g[position - back]) - squash.mean[window_feature::gain] : T(0);
      }
    }
  }
};

}  // namespace hybridmoe::ops
