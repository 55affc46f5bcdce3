#pragma once
/// @file kokkos_view.hpp
/// Views of Kokkos in and out. Nothing is copied or owned: views made here are unmanaged, views taken here have to outlive
/// the tensor made of them. Needs Kokkos.

#include <Kokkos_Core.hpp>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/exec/buffer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::interop {

/// T[extents…], the way Kokkos writes a shape.
template <class T, Index... extents>
struct Nested {
  using type = T;
};
template <class T, Index first, Index... rest>
struct Nested<T, first, rest...> {
  using type = typename Nested<T, rest...>::type[first];
};

/// A row-major view that does not own. Where: a memory or execution space of Kokkos.
template <class Data, class Where>
using Unmanaged = Kokkos::View<Data, Kokkos::LayoutRight, typename Where::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

/// [count, width], row-major.
template <class Where = Kokkos::HostSpace, class T, Index width>
Unmanaged<T* [width], Where> view_of(Rows<T, width> rows, Index count) {
  return Unmanaged<T* [width], Where>(rows.data, to_size(count));
}

/// The array's shape, row-major.
template <class Where = Kokkos::HostSpace, class T, Index... extents>
Unmanaged<typename Nested<T, extents...>::type, Where> view_of(Array<T, extents...>& array) {
  return Unmanaged<typename Nested<T, extents...>::type, Where>(array.data);
}
template <class Where = Kokkos::HostSpace, class T, Index... extents>
Unmanaged<typename Nested<const T, extents...>::type, Where> view_of(const Array<T, extents...>& array) {
  return Unmanaged<typename Nested<const T, extents...>::type, Where>(array.data);
}

/// All of a buffer as elements T, where the buffer's space is one of Kokkos.
template <class T, class Space>
Unmanaged<T*, typename Space::KokkosSpace> view_of(const exec::Buffer<Space>& buffer) {
  return {buffer.template as<T>(), to_size(buffer.bytes()) / sizeof(T)};
}

/// True if the view's elements follow each other in row-major order.
template <class View>
bool is_row_major(const View& view) {
  std::size_t stride = 1;
  for (unsigned d = View::rank; d-- > 0;) {
    if (view.extent(d) > 1 && view.stride(d) != stride) return false;
    stride *= view.extent(d);
  }
  return true;
}

/// The rows of a view [count, width] of any row-major layout and memory space.
template <Index width, class T, class... Properties>
  requires(Kokkos::View<T, Properties...>::rank == 2)
Result<Rows<typename Kokkos::View<T, Properties...>::value_type, width>> rows_of(const Kokkos::View<T, Properties...>& view) {
  if (to_index(view.extent(1)) != width)
    return Error{Code::bad_argument, "the view's rows have another width", view.label(), to_index(view.extent(1)), width};
  if (!is_row_major(view)) return Error{Code::bad_argument, "the view is not row-major without gaps", view.label()};
  return Rows<typename Kokkos::View<T, Properties...>::value_type, width>{view.data()};
}

/// A view as a tensor of static shape: `array_of<Array<float, 4, 8>>(view)`.
template <class Tensor, class T, class... Properties>
  requires(Kokkos::View<T, Properties...>::rank == Tensor::rank)
auto array_of(const Kokkos::View<T, Properties...>& view) {
  using Element = typename Kokkos::View<T, Properties...>::value_type;
  static_assert(std::is_same_v<std::remove_const_t<Element>, typename Tensor::Element>, "the view has another element type");
  using Target = std::conditional_t<std::is_const_v<Element>, const Tensor, Tensor>;
  using Answer = Result<Target*>;
  for (unsigned d = 0; d < unsigned(Tensor::rank); ++d)
    if (to_index(view.extent(d)) != Tensor::shape[d])
      return Answer(
          Error{Code::bad_argument, "the view has another shape", view.label(), to_index(view.extent(d)), Tensor::shape[d]});
  if (!is_row_major(view)) return Answer(Error{Code::bad_argument, "the view is not row-major without gaps", view.label()});
  return Answer(reinterpret_cast<Target*>(view.data()));
}

}  // namespace hybridmoe::interop
