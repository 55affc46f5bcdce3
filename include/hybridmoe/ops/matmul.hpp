#pragma once
/// @file matmul.hpp
/// Products with weights, forward and backward, for one weight and for groups (experts). Sums run over k strictly in order with
/// fused multiply-adds, whatever the number of rows, so one row and many rows give the same bits.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Products with one weight W: [out, in]. `rows` is a host value.
template <class Space, class T, Index out, Index in>
struct Matmul {
  /// Bytes of scratch that any of these functions takes from its arena for at most `rows` rows.
  static constexpr Index workspace_bytes(Index rows, bool training);
  /// y[rows, out] = x[rows, in]·Wᵀ (+ bias[out] unless null).
  HYBRIDMOE_FUNCTION static void forward(const Space&, Arena, Index rows, const T* x, const Array<T, out, in>& w, const T* bias, T* y);
  HYBRIDMOE_FUNCTION static void forward(const Space&, Arena, Index rows, const T* x, const Panels<T, out, in>& w, const T* bias, T* y);
  /// dx[rows, in] += dy[rows, out]·W
  HYBRIDMOE_FUNCTION static void backward_input(const Space&, Arena, Index rows, const T* dy, const Array<T, out, in>& w, T* dx);
  /// dw[out, in] += dyᵀ·x; dbias[out] += Σ_rows dy unless null.
  HYBRIDMOE_FUNCTION static void backward_weight(const Space&, Arena, Index rows, const T* x, const T* dy, Array<T, out, in>& dw, T* dbias);
};

/// Products with `groups` weights; rows offset[g] … offset[g+1]−1 of x belong to group g (offset: [groups + 1], read by the
/// kernels where they run; offset[groups] ≤ rows, which is a host upper bound). Rows beyond offset[groups] are left alone.
template <class Space, class T, Index groups, Index out, Index in>
struct GroupedMatmul {
  static constexpr Index workspace_bytes(Index rows, bool training);
  HYBRIDMOE_FUNCTION static void forward(const Space&, Arena, Index rows, const Index* offset, const T* x,
                                         const Stacked<Array<T, out, in>, groups>& w, T* y);
  HYBRIDMOE_FUNCTION static void forward(const Space&, Arena, Index rows, const Index* offset, const T* x,
                                         const Stacked<Panels<T, out, in>, groups>& w, T* y);
  HYBRIDMOE_FUNCTION static void backward_input(const Space&, Arena, Index rows, const Index* offset, const T* dy,
                                                const Stacked<Array<T, out, in>, groups>& w, T* dx);
  HYBRIDMOE_FUNCTION static void backward_weight(const Space&, Arena, Index rows, const Index* offset, const T* x, const T* dy,
                                                 Stacked<Array<T, out, in>, groups>& dw);
};

}  // namespace hybridmoe::ops
