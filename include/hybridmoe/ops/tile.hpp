#pragma once
/// @file tile.hpp
/// Products of small tiles inside a kernel: one thread, static columns, any strides. Every element is a sum over k in ascending
/// order, one fused multiply-add per term, so neither the number of rows nor of columns in a call changes bits.

#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::tile {

/// a·b + c: rounded once where the target has such an instruction, rounded twice (everywhere alike) where it has not.
template <Scalar T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T fused(T a, T b, T c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  return math::fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// c[rows, columns] += a[rows, depth]·b[depth, columns], where element (r, k) of a is a[r·a_row + k·a_k], element (k, j) of b is
/// b[k·b_row + j] and element (r, j) of c is c[r·c_row + j]. A transposed a is a_row = 1; any rows ≥ 0 and depth ≥ 0.
template <class T, int columns>
HYBRIDMOE_FUNCTION void multiply_add(int rows, int depth, const T* a, Index a_row, Index a_k, const T* b, Index b_row, T* c,
                                     Index c_row) {
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < depth; ++k) {
      const T value = a[r * a_row + k * a_k];
      for (int j = 0; j < columns; ++j) c[r * c_row + j] = fused(value, b[k * b_row + j], c[r * c_row + j]);
    }
  }
}

/// c[rows, columns] = a[rows, depth]·b[depth, columns]; strides as multiply_add. What c held is not read.
template <class T, int columns>
HYBRIDMOE_FUNCTION void multiply(int rows, int depth, const T* a, Index a_row, Index a_k, const T* b, Index b_row, T* c,
                                 Index c_row) {
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < columns; ++j) c[r * c_row + j] = T(0);
  multiply_add<T, columns>(rows, depth, a, a_row, a_k, b, b_row, c, c_row);
}

}  // namespace hybridmoe::ops::tile
