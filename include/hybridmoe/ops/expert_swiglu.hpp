#pragma once
/// @file expert_swiglu.hpp
/// h = silu(gate)·up (Shazeer, "GLU variants improve transformer", 2020) over rows whose number only the kernels know.

#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/activation.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows that one item activates.
inline constexpr Index expert_swiglu_block = 16;

/// Covers a row in pieces of a size that the compiler knows. A piece goes through a buffer of its own, so that input and output
/// may be one array and the loop still becomes vector instructions.
template <Index hidden, class Kernel>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void along(const Kernel& kernel, Index begin) {
  constexpr Index piece = 64, rest = hidden % piece;
  for (Index c = 0; c + piece <= hidden; c += piece) kernel.template piece<piece>(begin + c);
  if constexpr (rest > 0) kernel.template piece<rest>(begin + hidden - rest);
}

template <class T, Index hidden>
struct ExpertSwiGluKernel {
  const Index* rows;
  const T *gate, *up;
  T* h;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(*rows, (block + 1) * expert_swiglu_block);
    for (Index row = block * expert_swiglu_block; row < end; ++row) along<hidden>(*this, row * hidden);
  }
  template <Index size>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void piece(Index at) const {
    T value[size];
    for (Index i = 0; i < size; ++i) value[i] = activation::Silu::value(gate[at + i]) * up[at + i];
    for (Index i = 0; i < size; ++i) h[at + i] = value[i];
  }
};

template <class T, Index hidden>
struct ExpertSwiGluBackwardKernel {
  const Index* rows;
  const T *gate, *up, *dh;
  T *dgate, *dup;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(*rows, (block + 1) * expert_swiglu_block);
    for (Index row = block * expert_swiglu_block; row < end; ++row) along<hidden>(*this, row * hidden);
  }
  template <Index size>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void piece(Index at) const {
    T by_gate[size], by_up[size];
    for (Index i = 0; i < size; ++i) {
      const ValueAndSlope<T> f = activation::Silu::both(gate[at + i]);
      by_up[i] = dh[at + i] * f.value;
      by_gate[i] = dh[at + i] * up[at + i] * f.slope;
    }
    for (Index i = 0; i < size; ++i) {
      dgate[at + i] = by_gate[i];
      dup[at + i] = by_up[i];
    }
  }
};

/// Rows 0 … *rows − 1 of [most_rows, hidden]; the rest is left alone. Arguments may be the same array.
template <class Space, class T, Index hidden>
struct ExpertSwiGlu {
  /// h = silu(gate)·up
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Index most_rows, const Index* rows, const T* gate, const T* up,
                                         T* h) {
    space.each(divide_up(most_rows, expert_swiglu_block), ExpertSwiGluKernel<T, hidden>{rows, gate, up, h});
  }
  /// dgate and dup are assigned.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Index most_rows, const Index* rows, const T* gate, const T* up,
                                          const T* dh, T* dgate, T* dup) {
    space.each(divide_up(most_rows, expert_swiglu_block), ExpertSwiGluBackwardKernel<T, hidden>{rows, gate, up, dh, dgate, dup});
  }
};

}  // namespace hybridmoe::ops
