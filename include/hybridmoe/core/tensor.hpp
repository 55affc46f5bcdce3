#pragma once
/// @file tensor.hpp
/// Tensors of static shape. `Array` holds its elements in place: a layer's parameters are a struct of arrays that maps onto one
/// flat buffer. `Rows` is a pointer to rows of a static width.

#include <array>
#include <type_traits>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// A row-major tensor, elements in place. Trivial: a buffer of T can be viewed as a struct of Arrays.
template <class T, Index... extents>
struct Array {
  using Element = T;
  static constexpr Index rank = sizeof...(extents);
  static constexpr Index size = (Index{1} * ... * extents);
  static constexpr std::array<Index, sizeof...(extents)> shape{extents...};

  T data[size];

  HYBRIDMOE_FUNCTION constexpr T& operator[](Index i) { return data[i]; }
  HYBRIDMOE_FUNCTION constexpr const T& operator[](Index i) const { return data[i]; }
};

/// Rows of `width` contiguous elements each: an activation [rows, width]. Does not own.
template <class T, Index width_>
struct Rows {
  using Element = T;
  static constexpr Index width = width_;
  T* data = nullptr;

  HYBRIDMOE_FUNCTION constexpr T* operator[](Index row) const { return data + row * width; }
  HYBRIDMOE_FUNCTION constexpr operator Rows<const T, width_>() const
    requires(!std::is_const_v<T>)
  {
    return {data};
  }
  HYBRIDMOE_FUNCTION constexpr Rows from(Index row) const { return {data + row * width}; }
};

/// How a layer's weights lie in memory.
struct Flat {};    ///< [out, in] row-major: training, optimizer, files
struct Packed {};  ///< the product kernel's panels: inference; made by pack()

/// Columns of a product that one panel holds. One panel row is two 512-bit registers of float.
inline constexpr Index panel_width = 32;

/// A weight [out, in] as panels [⌈out/32⌉][in][32]; the last panel is padded with zeros.
template <class T, Index out_, Index in_>
struct Panels {
  using Element = T;
  static constexpr Index out = out_, in = in_;
  static constexpr Index rank = 2;
  static constexpr Index size = round_up(out_, panel_width) * in_;
  static constexpr std::array<Index, 2> shape{out_, in_};
  T data[size];
};

template <class T, class Storage, Index out, Index in>
struct WeightOf;
template <class T, Index out, Index in>
struct WeightOf<T, Flat, out, in> {
  using type = Array<T, out, in>;
};
template <class T, Index out, Index in>
struct WeightOf<T, Packed, out, in> {
  using type = Panels<T, out, in>;
};

/// The weight of y = x Wᵀ, W: [out, in], in the given storage.
template <class T, class Storage, Index out, Index in>
using Weight = typename WeightOf<T, Storage, out, in>::type;

/// A weight that inference multiplies by from both sides: packed, it has its panels, and its rows as in a flat one.
template <class T, Index out_, Index in_>
struct BothSides {
  using Element = T;
  static constexpr Index rank = 2;
  static constexpr std::array<Index, 2> shape{out_, in_};
  Panels<T, out_, in_> panels;
  Array<T, out_, in_> rows;
};
template <class T, class Storage, Index out, Index in>
using TwoSided = std::conditional_t<std::is_same_v<Storage, Packed>, BothSides<T, out, in>, Array<T, out, in>>;

/// A two-sided weight's rows, and what y = x Wᵀ multiplies by: its panels, if it has them.
template <class T, Index out, Index in>
HYBRIDMOE_FUNCTION const auto& rows_of(const Array<T, out, in>& weight) {
  return weight;
}
template <class T, Index out, Index in>
HYBRIDMOE_FUNCTION const auto& rows_of(const BothSides<T, out, in>& weight) {
  return weight.rows;
}
template <class T, Index out, Index in>
HYBRIDMOE_FUNCTION const auto& panels_of(const Array<T, out, in>& weight) {
  return weight;
}
template <class T, Index out, Index in>
HYBRIDMOE_FUNCTION const auto& panels_of(const BothSides<T, out, in>& weight) {
  return weight.panels;
}

/// `count` tensors of one kind, in place: experts.
template <class Tensor, Index count_>
struct Stacked {
  static constexpr Index count = count_;
  Tensor item[count_];
  HYBRIDMOE_FUNCTION constexpr Tensor& operator[](Index i) { return item[i]; }
  HYBRIDMOE_FUNCTION constexpr const Tensor& operator[](Index i) const { return item[i]; }
};

}  // namespace hybridmoe
