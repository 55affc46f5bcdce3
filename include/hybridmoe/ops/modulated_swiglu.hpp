#pragma once
/// @file modulated_swiglu.hpp
/// h = silu(gate)·up·(1 + m) over rows whose number only the kernels know: SwiGLU whose features another signal scales (as FiLM
/// does; Perez et al. 2018).

#include <hybridmoe/ops/expert_swiglu.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

template <class T, Index hidden>
struct ModulatedSwiGluKernel {
  const Index* rows;
  const T *gate, *up, *m;
  T* h;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(*rows, (block + 1) * expert_swiglu_block);
    for (Index row = block * expert_swiglu_block; row < end; ++row) along<hidden>(*this, row * hidden);
  }
  template <Index size>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void piece(Index at) const {
    T value[size];
    for (Index i = 0; i < size; ++i) value[i] = activation::Silu::value(gate[at + i]) * up[at + i] * (T(1) + m[at + i]);
    for (Index i = 0; i < size; ++i) h[at + i] = value[i];
  }
};

template <class T, Index hidden>
struct ModulatedSwiGluBackwardKernel {
  const Index* rows;
  const T *gate, *up, *m, *dh;
  T *dgate, *dup, *dm;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(*rows, (block + 1) * expert_swiglu_block);
    for (Index row = block * expert_swiglu_block; row < end; ++row) along<hidden>(*this, row * hidden);
  }
  template <Index size>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void piece(Index at) const {
    T by_gate[size], by_up[size], by_m[size];
    for (Index i = 0; i < size; ++i) {
      const ValueAndSlope<T> f = activation::Silu::both(gate[at + i]);
      const T inner = dh[at + i] * (T(1) + m[at + i]);
      by_up[i] = inner * f.value;
      by_gate[i] = inner * up[at + i] * f.slope;
      by_m[i] = dh[at + i] * f.value * up[at + i];
    }
    for (Index i = 0; i < size; ++i) {
      dgate[at + i] = by_gate[i];
      dup[at + i] = by_up[i];
      dm[at + i] = by_m[i];
    }
  }
};

/// Rows 0 … *rows − 1 of [most_rows, hidden]; the rest is left alone. h may be gate, and dgate may be dh.
template <class Space, class T, Index hidden>
struct ModulatedSwiGlu {
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Index most_rows, const Index* rows, const T* gate, const T* up,
                                         const T* m, T* h) {
    space.each(divide_up(most_rows, expert_swiglu_block), ModulatedSwiGluKernel<T, hidden>{rows, gate, up, m, h});
  }
  /// dgate, dup and dm are assigned.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Index most_rows, const Index* rows, const T* gate, const T* up,
                                          const T* m, const T* dh, T* dgate, T* dup, T* dm) {
    space.each(divide_up(most_rows, expert_swiglu_block),
               ModulatedSwiGluBackwardKernel<T, hidden>{rows, gate, up, m, dh, dgate, dup, dm});
  }
};

}  // namespace hybridmoe::ops
