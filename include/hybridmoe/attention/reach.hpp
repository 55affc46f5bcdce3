#pragma once
/// @file reach.hpp
/// How far each row of adaptive attention reaches: its window and, where the layer may choose its mechanism, the weights of key
/// tokens and of all tokens; what that costs; and the way back.

#include <hybridmoe/attention/window.hpp>
#include <hybridmoe/ops/weighted_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// Rows of one item of these kernels.
inline constexpr Index reach_rows = 64;

/// Where rows report what they use. Null: nobody asks.
template <class T>
struct ReachReport {
  T *window, *key_tokens, *global;
  Index stride;

  template <class Space>
  HYBRIDMOE_FUNCTION static ReachReport of(const Call<Space>& call) {
    return {call.side.template report<T>(call.layer, Used::window), call.side.template report<T>(call.layer, Used::key_tokens),
            call.side.template report<T>(call.layer, Used::global), call.side.used_width};
  }
};

/// reach[row] = {w, s^K, s^G}, or {w}.
template <class T, class Shape, class Policy, Index least, Index most>
struct ReachKernel {
  Batch batch;
  WindowStreams<T> streams;
  ReachReport<T> report;
  T* reach;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(batch.rows, (item + 1) * reach_rows);
    for (Index row = item * reach_rows; row < end; ++row) {
      T* const to = reach + row * Shape::columns;
      const T w = Policy::template size<least, most, T>(streams, row, batch.row_position[row]);
      const T cap = streams.template cap<least, most>(row), below = w < cap ? w : cap;
      to[Shape::window] = below > T(least) ? below : T(least);
      if constexpr (Shape::all) {
        to[Shape::key_tokens] = streams.decisions.at(row, column(Decision::key_tokens), T(1));
        to[Shape::global] = streams.decisions.at(row, column(Decision::global), T(1));
      }
      if (report.window == nullptr) continue;
      report.window[row * report.stride] = to[Shape::window];
      report.key_tokens[row * report.stride] = Shape::all ? to[Shape::columns - 2] : Shape::entries > 0 ? T(1) : T(0);
      report.global[row * report.stride] = Shape::all ? to[Shape::columns - 1] : T(0);
    }
  }

  HYBRIDMOE_FUNCTION Index column(Index decision) const { return streams.column - Decision::window + decision; }
};

/// The keys that a row's choices pay for: those in its window, and its block's key tokens and all tokens by their weights.
/// (What a row always pays is no choice: in a layer without s^K and s^G only the window counts.)
template <class T, class Shape>
struct ReachCost {
  Batch batch;
  const T* reach;
  StreamRows<T> target;
  ops::KeyLists<T, Shape::entries, Shape::grid> lists;
  double price;
  T flops;  ///< of one key in one row

  /// The price of a key, times a factor.
  HYBRIDMOE_FUNCTION T of_key(Index row) const { return price_of(price, target.at(row, 0, T(1))) * flops; }
  HYBRIDMOE_FUNCTION T seen(Index row) const { return static_cast<T>(batch.row_position[row] + 1); }
  HYBRIDMOE_FUNCTION T key_tokens(Index row) const {
    if constexpr (Shape::entries == 0) {
      return T(0);
    } else {
      const Index s = batch.row_sequence[row];
      return static_cast<T>(lists.count[lists.list_of(s, batch.begin[s], batch.start[s], batch.row_position[row])]);
    }
  }
  HYBRIDMOE_FUNCTION T of(Index row) const {
    const T* const r = reach + row * Shape::columns;
    T keys = r[Shape::window] < seen(row) ? r[Shape::window] : seen(row);
    if constexpr (Shape::all) keys += r[Shape::key_tokens] * key_tokens(row) + r[Shape::global] * seen(row);
    return of_key(row) * keys;
  }
};

/// partial[item] = Σ of the rows' costs
template <class T, class Shape>
struct ReachCostKernel {
  ReachCost<T, Shape> cost;
  T* partial;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(cost.batch.rows, (item + 1) * reach_rows);
    T sum = 0;
    for (Index row = item * reach_rows; row < end; ++row) sum += cost.of(row);
    partial[item] = sum;
  }
};

/// value = the mean over rows, and the losses of `sequences` sequences beside it, if any.
template <class T>
struct ReachCostTotal {
  Index rows, sequences;
  const T *partial, *beside;
  T* value;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    T sum = 0;
    for (Index i = 0; i < divide_up(rows, reach_rows); ++i) sum += partial[i];
    sum /= static_cast<T>(rows);
    if (beside != nullptr)
      for (Index s = 0; s < sequences; ++s) sum += beside[s];
    *value = sum;
  }
};

/// Gradients by what rows reached, of all kv heads and of the price, to the streams that chose it.
template <class T, class Shape, class Policy, Index least, Index most, int kv_heads>
struct ReachBackward {
  ReachCost<T, Shape> cost;
  WindowStreams<T> streams;
  T auxiliary;       ///< scale of the price's gradient, for one row
  const T* d_reach;  ///< [rows, kv_heads, columns]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(cost.batch.rows, (item + 1) * reach_rows);
    for (Index row = item * reach_rows; row < end; ++row) {
      T d[Shape::columns] = {};
      for (int h = 0; h < kv_heads; ++h)
        for (Index c = 0; c < Shape::columns; ++c) d[c] += d_reach[(row * kv_heads + h) * Shape::columns + c];
      const T price = auxiliary * cost.of_key(row), seen = cost.seen(row);
      if (cost.reach[row * Shape::columns + Shape::window] < seen) d[Shape::window] += price;
      Policy::template backward<least, most, T>(streams, row, d[Shape::window]);
      if constexpr (Shape::all) {
        const Index first = streams.column - Decision::window;
        streams.decisions.add_gradient(row, first + Decision::key_tokens, d[Shape::key_tokens] + price * cost.key_tokens(row));
        streams.decisions.add_gradient(row, first + Decision::global, d[Shape::global] + price * seen);
      }
    }
  }
};

}  // namespace hybridmoe::attention
