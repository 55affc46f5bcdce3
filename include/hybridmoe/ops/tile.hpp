#pragma once
/// @file tile.hpp
/// Products of small tiles inside a kernel: one thread, static columns, any strides. Every element is a sum over k in ascending
/// order, one fused multiply-add per term, so neither the number of rows nor of columns in a call changes bits.

#include <hybridmoe/ops/cpu/block.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::tile {

using cpu::fused;

/// c[rows, columns] += a[rows, depth]·b[depth, columns], where element (r, k) of a is a[r·a_row + k·a_k], element (k, j) of b is
/// b[k·b_row + j] and element (r, j) of c is c[r·c_row + j]. A transposed a is a_row = 1; any rows ≥ 0 and depth ≥ 0.
template <class T, int columns>
HYBRIDMOE_FUNCTION void multiply_add(int rows, int depth, const T* a, Index a_row, Index a_k, const T* b, Index b_row, T* c,
                                     Index c_row) {
  cpu::Operands<T> operands{a, a_row, a_k, b, b_row, c, c_row, c, c_row};
  cpu::multiply_columns<T, columns>(rows, depth, operands);
}

/// c[rows, columns] = a[rows, depth]·b[depth, columns]; strides as multiply_add. What c held is not read.
template <class T, int columns>
HYBRIDMOE_FUNCTION void multiply(int rows, int depth, const T* a, Index a_row, Index a_k, const T* b, Index b_row, T* c,
                                 Index c_row) {
  cpu::Operands<T> operands{a, a_row, a_k, b, b_row, nullptr, 0, c, c_row};
  cpu::multiply_columns<T, columns>(rows, depth, operands);
}

}  // namespace hybridmoe::ops::tile
