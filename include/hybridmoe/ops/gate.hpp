#pragma once
/// @file gate.hpp
/// Gating by SiLU, forward and backward: gated[r, i] = x[r, i]·silu(z[r, i]). Rows have a stride, so that z may be some columns
/// of a wider product.

#include <hybridmoe/ops/norm.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows that an item of a gate takes.
template <int width>
constexpr Index gate_rows = width >= elementwise_block ? 1 : elementwise_block / width;

template <class T, int width>
struct SiluGateKernel {
  Index rows;
  Strided<const T> x, z;
  Strided<T> gated;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * gate_rows<width>);
    for (Index r = item * gate_rows<width>; r < end; ++r) {
      const T *const a = x.data + r * x.stride, *const b = z.data + r * z.stride;
      T* const to = gated.data + r * gated.stride;
      for (int i = 0; i < width; ++i) to[i] = a[i] * (b[i] * math::sigmoid(b[i]));
    }
  }
};

template <class T, int width>
struct SiluGateBackwardKernel {
  Index rows;
  Strided<const T> x, z, d_gated;
  Strided<T> dx, dz;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * gate_rows<width>);
    for (Index r = item * gate_rows<width>; r < end; ++r) {
      const T *const a = x.data + r * x.stride, *const b = z.data + r * z.stride, *const d = d_gated.data + r * d_gated.stride;
      T *const to_x = dx.data + r * dx.stride, *const to_z = dz.data + r * dz.stride;
      for (int i = 0; i < width; ++i) {
        const T open = math::sigmoid(b[i]);
        to_x[i] = d[i] * (b[i] * open);
        to_z[i] = d[i] * a[i] * (open * (T(1) + b[i] * (T(1) - open)));
      }
    }
  }
};

/// gated[rows, width] = x·silu(z).
template <int width, class Space, class T>
HYBRIDMOE_FUNCTION void gate(const Space& space, Index rows, Strided<const T> x, Strided<const T> z, Strided<T> gated) {
  space.each(divide_up(rows, gate_rows<width>), SiluGateKernel<T, width>{rows, x, z, gated});
}

/// dx = ∂ by x, dz = ∂ by z.
template <int width, class Space, class T>
HYBRIDMOE_FUNCTION void gate_backward(const Space& space, Index rows, Strided<const T> x, Strided<const T> z,
                                      Strided<const T> d_gated, Strided<T> dx, Strided<T> dz) {
  space.each(divide_up(rows, gate_rows<width>), SiluGateBackwardKernel<T, width>{rows, x, z, d_gated, dx, dz});
}

}  // namespace hybridmoe::ops
