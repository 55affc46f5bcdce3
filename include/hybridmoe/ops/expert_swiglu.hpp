#pragma once
/// @file expert_swiglu.hpp
/// h = silu(gate)·up (Shazeer, "GLU variants improve transformer", 2020) over rows whose number only the kernels know.

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows that one item activates.
inline constexpr Index expert_swiglu_block = 16;

template <class T, Index hidden>
struct ExpertSwiGluKernel {
  const Index* rows;
  const T *gate, *up;
  T* h;

  HYBRIDMOE_FUNCTION void operator()(Index block) const {
    const Index begin = block * expert_swiglu_block, end = smaller(*rows, begin + expert_swiglu_block);
    for (Index i = begin * hidden; i < end * hidden; ++i) h[i] = gate[i] * math::sigmoid(gate[i]) * up[i];
  }
};

template <class T, Index hidden>
struct ExpertSwiGluBackwardKernel {
  const Index* rows;
  const T *gate, *up, *dh;
  T *dgate, *dup;

  HYBRIDMOE_FUNCTION void operator()(Index block) const {
    const Index begin = block * expert_swiglu_block, end = smaller(*rows, begin + expert_swiglu_block);
    for (Index i = begin * hidden; i < end * hidden; ++i) {
      const T s = math::sigmoid(gate[i]), d = dh[i];
      dup[i] = d * gate[i] * s;
      dgate[i] = d * up[i] * s * (T(1) + gate[i] * (T(1) - s));
    }
  }
};

/// Rows 0 … *rows − 1 of [most_rows, hidden]; the rest is left alone. Arguments may be the same array.
template <class Space, class T, Index hidden>
struct ExpertSwiGlu {
  /// h = silu(gate)·up
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Index most_rows, const Index* rows, const T* gate, const T* up, T* h) {
    space.each(divide_up(most_rows, expert_swiglu_block), ExpertSwiGluKernel<T, hidden>{rows, gate, up, h});
  }
  /// dgate and dup are assigned.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Index most_rows, const Index* rows, const T* gate, const T* up,
                                          const T* dh, T* dgate, T* dup) {
    space.each(divide_up(most_rows, expert_swiglu_block), ExpertSwiGluBackwardKernel<T, hidden>{rows, gate, up, dh, dgate, dup});
  }
};

}  // namespace hybridmoe::ops
