#pragma once
/// @file matmul.cuh
/// Products with weights on CUDA: own tile kernels on the space's stream, no scratch.

#include <hybridmoe/ops/cuda/product.cuh>
#include <hybridmoe/ops/matmul.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

template <class T, Index out, Index in>
struct Matmul<exec::On<Kokkos::Cuda>, T, out, in> {
  using Space = exec::On<Kokkos::Cuda>;

  static constexpr Index workspace_bytes(Index /*rows*/, bool /*training*/) { return 0; }

  static void forward(const Space& space, Arena, Index rows, const T* x, const Array<T, out, in>& w, const T* bias, T* y) {
    forward_from(space, rows, x, cuda::Strided<T, in, 1>{w.data}, bias, y);
  }
  static void forward(const Space& space, Arena, Index rows, const T* x, const Panels<T, out, in>& w, const T* bias, T* y) {
    forward_from(space, rows, x, cuda::Panelled<T, in>{w.data}, bias, y);
  }
  static void backward_input(const Space& space, Arena, Index rows, const T* dy, const Array<T, out, in>& w, T* dx) {
    using A = cuda::Strided<T, out, 1>;
    using B = cuda::Strided<T, 1, in>;
    const cuda::ProductTask<T, A, B> task{A{dy}, B{w.data}, dx, nullptr, nullptr, rows, in, out, 0, 0};
    cuda::launch<cuda::Split::nothing, cuda::From::c>(space, 1, rows, task);
  }
  static void backward_weight(const Space& space, Arena, Index rows, const T* x, const T* dy, Array<T, out, in>& dw, T* dbias) {
    using A = cuda::Strided<T, 1, out>;
    using B = cuda::Strided<T, 1, in>;
    const cuda::ProductTask<T, A, B> task{A{dy}, B{x}, dw.data, nullptr, nullptr, out, in, rows, 0, 0};
    cuda::launch<cuda::Split::nothing, cuda::From::c>(space, 1, out, task);
    if (dbias != nullptr) {
      const auto blocks = static_cast<unsigned>(divide_up(out, cuda::product_threads));
      cuda::add_rows<<<blocks, cuda::product_threads, 0, cuda::stream_of(space)>>>(rows, out, dy, dbias);
    }
  }

 private:
  template <class B>
  static void forward_from(const Space& space, Index rows, const T* x, const B& w, const T* bias, T* y) {
    using A = cuda::Strided<T, in, 1>;
    const cuda::ProductTask<T, A, B> task{A{x}, w, y, bias, nullptr, rows, out, in, 0, 0};
    if (bias == nullptr)
      cuda::launch<cuda::Split::nothing, cuda::From::zero>(space, 1, rows, task);
    else
      cuda::launch<cuda::Split::nothing, cuda::From::bias>(space, 1, rows, task);
  }
};

template <class T, Index groups, Index out, Index in>
struct GroupedMatmul<exec::On<Kokkos::Cuda>, T, groups, out, in> {
  using Space = exec::On<Kokkos::Cuda>;

  static constexpr Index workspace_bytes(Index /*rows*/, bool /*training*/) { return 0; }

  static void forward(const Space& space, Arena, Index rows, const Index* offset, const T* x,
                      const Stacked<Array<T, out, in>, groups>& w, T* y) {
    forward_from(space, rows, offset, x, cuda::Strided<T, in, 1>{w[0].data}, Array<T, out, in>::size, y);
  }
  static void forward(const Space& space, Arena, Index rows, const Index* offset, const T* x,
                      const Stacked<Panels<T, out, in>, groups>& w, T* y) {
    forward_from(space, rows, offset, x, cuda::Panelled<T, in>{w[0].data}, Panels<T, out, in>::size, y);
  }
  static void backward_input(const Space& space, Arena, Index rows, const Index* offset, const T* dy,
                             const Stacked<Array<T, out, in>, groups>& w, T* dx) {
    using A = cuda::Strided<T, out, 1>;
    using B = cuda::Strided<T, 1, in>;
    const cuda::ProductTask<T, A, B> task{A{dy}, B{w[0].data}, dx, nullptr, offset, rows, in, out, out * in, 0};
    cuda::launch<cuda::Split::m, cuda::From::c>(space, groups, rows, task);
  }
  static void backward_weight(const Space& space, Arena, Index rows, const Index* offset, const T* x, const T* dy,
                              Stacked<Array<T, out, in>, groups>& dw) {
    using A = cuda::Strided<T, 1, out>;
    using B = cuda::Strided<T, 1, in>;
    if (rows <= 0) return;
    const cuda::ProductTask<T, A, B> task{A{dy}, B{x}, dw[0].data, nullptr, offset, out, in, 0, 0, out * in};
    cuda::launch<cuda::Split::k, cuda::From::c>(space, groups, out, task);
  }

 private:
  template <class B>
  static void forward_from(const Space& space, Index rows, const Index* offset, const T* x, const B& w, Index w_size, T* y) {
    using A = cuda::Strided<T, in, 1>;
    const cuda::ProductTask<T, A, B> task{A{x}, w, y, nullptr, offset, rows, out, in, w_size, 0};
    cuda::launch<cuda::Split::m, cuda::From::zero>(space, groups, rows, task);
  }
};

}  // namespace hybridmoe::ops
