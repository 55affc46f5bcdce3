#pragma once
/// @file pack.hpp
/// Kernels that bring operands into panels [⌈columns/32⌉][k][32], the form in which products read their second operand. Columns
/// beyond the last are zeros.

#include <utility>

#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/ops/cpu/vector.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::cpu {

#if HYBRIDMOE_VECTOR
/// Swaps what an off-diagonal pair of blocks holds: of every 2·unit lanes, the first half of b goes behind that of a (low), or
/// the second half of a before that of b.
template <bool low, int unit, class V, int... lane>
HYBRIDMOE_INLINE V swap_blocks(V a, V b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  return __builtin_shufflevector(a, b, (lane % (2 * unit) < unit ? lane + (low ? 0 : unit) : lane + lanes - (low ? unit : 0))...);
}
/// The lower (upper) halves of every `part` lanes of a and b in turn, `unit` lanes at a time.
template <bool upper, int unit, int part, class V, int... lane>
HYBRIDMOE_INLINE V interleave(V a, V b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  return __builtin_shufflevector(a, b,
                                 (lane / part * part + (upper ? part / 2 : 0) + lane % part / (2 * unit) * unit + lane % unit +
                                  (lane / unit % 2) * lanes)...);
}

/// The rest of a transposition in which blocks of `unit` lanes are already transposed.
template <class T, int lanes, int unit>
HYBRIDMOE_INLINE void swap_parts(Vector<T, lanes> (&square)[lanes]) {
  if constexpr (unit < lanes) {
    constexpr auto sequence = std::make_integer_sequence<int, lanes>();
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i / unit % 2 != 0) continue;
      const Vector<T, lanes> a = square[i], b = square[i + unit];
      square[i] = swap_blocks<true, unit>(a, b, sequence);
      square[i + unit] = swap_blocks<false, unit>(a, b, sequence);
    }
    swap_parts<T, lanes, 2 * unit>(square);
  }
}

/// A square of registers, transposed. Within 16 bytes by interleaving, which most processors do at once; then blocks of that
/// size are swapped.
template <class T, int lanes>
HYBRIDMOE_INLINE void transpose_square(Vector<T, lanes> (&square)[lanes]) {
  constexpr auto sequence = std::make_integer_sequence<int, lanes>();
  constexpr int part = 16 / static_cast<int>(sizeof(T)) < lanes ? 16 / static_cast<int>(sizeof(T)) : lanes;
  Vector<T, lanes> next[lanes];
#pragma GCC unroll 8
  for (int i = 0; i < lanes; i += 2) {
    next[i] = interleave<false, 1, part>(square[i], square[i + 1], sequence);
    next[i + 1] = interleave<true, 1, part>(square[i], square[i + 1], sequence);
  }
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) square[i] = next[i];
  if constexpr (part == 4) {
#pragma GCC unroll 4
    for (int i = 0; i < lanes; i += 4) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        square[i + 2 * j] = interleave<false, 2, part>(next[i + j], next[i + j + 2], sequence);
        square[i + 2 * j + 1] = interleave<true, 2, part>(next[i + j], next[i + j + 2], sequence);
      }
    }
  }
  swap_parts<T, lanes, part>(square);
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
