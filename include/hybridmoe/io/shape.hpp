#pragma once
/// @file shape.hpp
/// Shapes known only at run time: of tensors in files.

#include <array>
#include <string>

#include <hybridmoe/core/tensor.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// At most eight extents; rank 0 is a single element.
struct Shape {
  static constexpr Index most = 8;
  Index rank = 0;
  std::array<Index, 8> extent{};

  template <Index... extents>
  static constexpr Shape of() {
    static_assert(sizeof...(extents) <= most, "a tensor of a file has at most eight extents");
    Shape shape;  // filled by a fold: nvcc loses an expansion in nested braces
    ((shape.extent[to_size(shape.rank++)] = extents), ...);
    return shape;
  }
  /// The product of the extents, taken from the left (a reader checks that this does not overflow).
  constexpr Index elements() const {
    Index product = 1;
    for (Index i = 0; i < rank; ++i) product *= extent[to_size(i)];
    return product;
  }
  /// Rows of a row-major tensor: the first extent (1 for rank 0).
  constexpr Index rows() const { return rank == 0 ? 1 : extent[0]; }
  /// Elements of one row: the product of the other extents; 0 if there are no elements at all, however large the extents are.
  constexpr Index row_elements() const { return elements() == 0 ? 0 : elements() / rows(); }
  constexpr Index operator[](Index i) const { return extent[to_size(i)]; }
  friend constexpr bool operator==(const Shape&, const Shape&) = default;

  std::string text() const {
    std::string result = "[";
    for (Index i = 0; i < rank; ++i) result += (i == 0 ? "" : ", ") + std::to_string(extent[to_size(i)]);
    return result + "]";
  }
};

/// The shape of an Array.
template <class Tensor>
inline constexpr Shape shape_of = [] {
  static_assert(Tensor::shape.size() <= to_size(Shape::most), "a tensor of a file has at most eight extents");
  Shape shape;
  for (const Index extent : Tensor::shape) shape.extent[to_size(shape.rank++)] = extent;
  return shape;
}();

}  // namespace hybridmoe::io
