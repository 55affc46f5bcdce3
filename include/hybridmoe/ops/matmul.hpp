#pragma once
/// @file matmul.hpp
/// Products with weights, forward and backward, for one weight and for groups (experts). Sums run over k strictly in order with
/// fused multiply-adds, whatever the number of rows, so one row and many rows give the same bits.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/tile.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

namespace matmul {

/// Element (n, k) of a weight in either storage.
template <class T, Index out, Index in>
HYBRIDMOE_FUNCTION T weight_at(const Array<T, out, in>& w, Index n, Index k) {
  return w.data[n * in + k];
}
template <class T, Index out, Index in>
HYBRIDMOE_FUNCTION T weight_at(const Panels<T, out, in>& w, Index n, Index k) {
  return w.data[(n / panel_width * in + k) * panel_width + n % panel_width];
}

/// The group whose rows contain `row`, or −1.
HYBRIDMOE_FUNCTION inline Index group_of(const Index* offset, Index groups, Index row) {
  for (Index g = 0; g < groups; ++g)
    if (row >= offset[g] && row < offset[g + 1]) return g;
  return -1;
}

/// One item: one row of y.
template <class T, class W, Index out, Index in>
struct ForwardKernel {
  const T* x;
  const W* w;
  Index groups;
  const Index* offset;
  const T* bias;
  T* y;
  HYBRIDMOE_FUNCTION void operator()(Index row) const {
    const Index g = offset == nullptr ? 0 : group_of(offset, groups, row);
    if (g < 0) return;
    for (Index n = 0; n < out; ++n) {
      T sum = bias == nullptr ? T(0) : bias[n];
      for (Index k = 0; k < in; ++k) sum = tile::fused(x[row * in + k], weight_at(w[g], n, k), sum);
      y[row * out + n] = sum;
    }
  }
};

/// One item: one row of dx.
template <class T, Index out, Index in>
struct BackwardInputKernel {
  const T* dy;
  const Array<T, out, in>* w;
  Index groups;
  const Index* offset;
  T* dx;
  HYBRIDMOE_FUNCTION void operator()(Index row) const {
    const Index g = offset == nullptr ? 0 : group_of(offset, groups, row);
    if (g < 0) return;
    for (Index n = 0; n < out; ++n)
      for (Index k = 0; k < in; ++k) {
        T& sum = dx[row * in + k];
        sum = tile::fused(dy[row * out + n], w[g].data[n * in + k], sum);
      }
  }
};

/// One item: one row of one group's dw.
template <class T, Index out, Index in>
struct BackwardWeightKernel {
  const T* x;
  const T* dy;
  const Index* offset;
  Index rows;
  Array<T, out, in>* dw;
  T* dbias;
  HYBRIDMOE_FUNCTION void operator()(Index item) const {
    const Index g = item / out, n = item % out;
    const Index from = offset == nullptr ? 0 : offset[g], to = offset == nullptr ? rows : offset[g + 1];
    for (Index row = from; row < to; ++row) {
      const T value = dy[row * out + n];
      if (dbias != nullptr) dbias[n] += value;
      for (Index k = 0; k < in; ++k) {
        T& sum = dw[g].data[n * in + k];
        sum = tile::fused(value, x[row * in + k], sum);
      }
    }
  }
};

}  // namespace matmul

/// Products with one weight W: [out, in]. `rows` is a host value.
template <class Space, class T, Index out, Index in>
struct Matmul {
  /// Bytes of scratch that any of these functions takes from its arena for at most `rows` rows.
  static constexpr Index workspace_bytes(Index /*rows*/, bool /*training*/) { return 0; }
  /// y[rows, out] = x[rows, in]·Wᵀ (+ bias[out] unless null).
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena, Index rows, const T* x, const Array<T, out, in>& w,
                                         const T* bias, T* y) {
    space.each(rows, matmul::ForwardKernel<T, Array<T, out, in>, out, in>{x, &w, 1, nullptr, bias, y});
  }
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena, Index rows, const T* x, const Panels<T, out, in>& w,
                                         const T* bias, T* y) {
    space.each(rows, matmul::ForwardKernel<T, Panels<T, out, in>, out, in>{x, &w, 1, nullptr, bias, y});
  }
  /// dx[rows, in] += dy[rows, out]·W
  HYBRIDMOE_FUNCTION static void backward_input(const Space& space, Arena, Index rows, const T* dy, const Array<T, out, in>& w,
                                                T* dx) {
    space.each(rows, matmul::BackwardInputKernel<T, out, in>{dy, &w, 1, nullptr, dx});
  }
  /// dw[out, in] += dyᵀ·x; dbias[out] += Σ_rows dy unless null.
  HYBRIDMOE_FUNCTION static void backward_weight(const Space& space, Arena, Index rows, const T* x, const T* dy,
                                                 Array<T, out, in>& dw, T* dbias) {
    space.each(out, matmul::BackwardWeightKernel<T, out, in>{x, dy, nullptr, rows, &dw, dbias});
  }
};

/// Products with `groups` weights; rows offset[g] … offset[g+1]−1 of x belong to group g (offset: [groups + 1], read by the
/// kernels where they run; offset[groups] ≤ rows, which is a host upper bound). Rows beyond offset[groups] are left alone.
template <class Space, class T, Index groups, Index out, Index in>
struct GroupedMatmul {
  static constexpr Index workspace_bytes(Index /*rows*/, bool /*training*/) { return 0; }
  /// y[rows, out] = x[rows, in]·W_gᵀ
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena, Index rows, const Index* offset, const T* x,
                                         const Stacked<Array<T, out, in>, groups>& w, T* y) {
    space.each(rows, matmul::ForwardKernel<T, Array<T, out, in>, out, in>{x, w.item, groups, offset, nullptr, y});
  }
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena, Index rows, const Index* offset, const T* x,
                                         const Stacked<Panels<T, out, in>, groups>& w, T* y) {
    space.each(rows, matmul::ForwardKernel<T, Panels<T, out, in>, out, in>{x, w.item, groups, offset, nullptr, y});
  }
  /// dx[rows, in] += dy[rows, out]·W_g
  HYBRIDMOE_FUNCTION static void backward_input(const Space& space, Arena, Index rows, const Index* offset, const T* dy,
                                                const Stacked<Array<T, out, in>, groups>& w, T* dx) {
    space.each(rows, matmul::BackwardInputKernel<T, out, in>{dy, w.item, groups, offset, dx});
  }
  /// dw_g[out, in] += dy_gᵀ·x_g over the rows of each group.
  HYBRIDMOE_FUNCTION static void backward_weight(const Space& space, Arena, Index rows, const Index* offset, const T* x,
                                                 const T* dy, Stacked<Array<T, out, in>, groups>& dw) {
    space.each(groups * out, matmul::BackwardWeightKernel<T, out, in>{x, dy, offset, rows, dw.item, nullptr});
  }
};

}  // namespace hybridmoe::ops
