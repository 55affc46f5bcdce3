#pragma once
/// @file pack.hpp
/// Kernels that bring operands into panels [⌈columns/32⌉][k][32], the form in which products read their second operand. Columns
/// beyond the last are zeros.

#include <utility>

#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/ops/cpu/vector.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::cpu {

#if HYBRIDMOE_VECTOR
/// The lower (upper) halves of a and b, element by element in turn.
template <bool upper, class V, int... lane>
HYBRIDMOE_INLINE V interleave(V a, V b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  return __builtin_shufflevector(a, b, (lane / 2 + (upper ? lanes / 2 : 0) + (lane % 2) * lanes)...);
}

/// A square of registers, transposed: interleaving row i with row i + lanes/2 rotates the index bits by one.
template <class T, int lanes>
HYBRIDMOE_INLINE void transpose_square(Vector<T, lanes> (&square)[lanes]) {
  constexpr auto sequence = std::make_integer_sequence<int, lanes>();
#pragma GCC unroll 4
  for (int turn = 1; turn < lanes; turn *= 2) {
    Vector<T, lanes> next[lanes];
#pragma GCC unroll 8
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave<false>(square[i], square[i + lanes / 2], sequence);
      next[2 * i + 1] = interleave<true>(square[i], square[i + lanes / 2], sequence);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) square[i] = next[i];
  }
}
#endif

/// panel[k][j] = rows[j·stride + k] for j < count ≤ 32 and k < depth, zero for the other j.
template <class T>
HYBRIDMOE_FUNCTION void transpose_panel(const T* rows, Index count, Index stride, Index depth, T* panel) {
  Index done = 0;
#if HYBRIDMOE_VECTOR
  constexpr int lanes = register_bytes / static_cast<int>(sizeof(T));
  done = depth / lanes * lanes;
  for (Index k = 0; k < done; k += lanes) {
    for (Index from = 0; from < panel_width; from += lanes) {
      Vector<T, lanes> square[lanes] = {};
      if (from < count) {
#pragma GCC unroll 16
        for (int j = 0; j < lanes; ++j)
          square[j] = from + j < count ? load<T, lanes>(rows + (from + j) * stride + k) : Vector<T, lanes>{};
        transpose_square<T, lanes>(square);
      }
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) store<T, lanes>(panel + (k + i) * panel_width + from, square[i]);
    }
  }
#endif
  for (Index k = done; k < depth; ++k) {
    for (Index j = 0; j < panel_width; ++j) panel[k * panel_width + j] = j < count ? rows[j * stride + k] : T(0);
  }
}

/// Weights [out, in] to panels of out, from panel `first` on. One item: a panel.
template <class T>
struct TransposeKernel {
  const T* weights;
  Index out, in, first, count;  ///< `count` panels of each group are wanted
  Index first_group;
  const Index* offset;  ///< groups without rows are left out; null: one group
  T* panels;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index group = first_group + item / count, column = (first + item % count) * panel_width;
    if (offset != nullptr && offset[group] == offset[group + 1]) return;
    transpose_panel(weights + (group * out + column) * in, smaller(panel_width, out - column), in, in,
                    panels + item * panel_width * in);
  }
};

/// Rows of a matrix [depth, columns] to panels of its columns, which keep the order of the rows. One item: some rows of a group.
template <class T>
struct StripKernel {
  static constexpr Index rows_per_item = 64;
  const T* source;
  Index stride, columns, depth;  ///< row stride of the source, columns wanted of it, rows of a group
  Index first_group;
  const Index* offset;
  T* panels;

  HYBRIDMOE_FUNCTION static constexpr Index items(Index depth, Index groups) { return groups * divide_up(depth, rows_per_item); }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index items_of_group = divide_up(depth, rows_per_item);
    const Index group = item / items_of_group, from = item % items_of_group * rows_per_item;
    if (offset != nullptr && offset[first_group + group] == offset[first_group + group + 1]) return;
    const T* const matrix = source + (first_group + group) * depth * stride;
    T* const to = panels + group * round_up(columns, panel_width) * depth;
    const Index until = smaller(depth, from + rows_per_item);
    for (Index k = from; k < until; ++k) {
      for (Index column = 0; column < columns; column += panel_width) {
        const T* const piece = matrix + k * stride + column;
        T* const line = to + column * depth + k * panel_width;
        if (columns - column >= panel_width) {
          for (Index j = 0; j < panel_width; ++j) line[j] = piece[j];
        } else {
          for (Index j = 0; j < panel_width; ++j) line[j] = j < columns - column ? piece[j] : T(0);
        }
      }
    }
  }
};

}  // namespace hybridmoe::ops::cpu
