#pragma once
/// @file embed.hpp
/// Rows of a table by token, and their gradient without atomics.

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

inline constexpr Index embed_rows = 32;

/// y[row] = table[token[row]] (+ positions[position of row] unless null). The table is flat, or the head's panels when tied.
template <class T, Index vocab, Index width, class Storage>
struct Embed {
  Batch batch;
  const std::int32_t* token;
  const T* table;
  const T* positions;
  T* y;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * embed_rows);
    for (Index row = item * embed_rows; row < last; ++row) {
      const Index v = token[row];
      T* const to = y + row * width;
      if constexpr (std::is_same_v<Storage, Packed>) {
        const T* const panel = table + v / panel_width * (panel_width * width) + v % panel_width;
        for (Index i = 0; i < width; ++i) to[i] = panel[i * panel_width];
      } else {
        for (Index i = 0; i < width; ++i) to[i] = table[v * width + i];
      }
      if (positions != nullptr) {
        const T* const p = positions + batch.row_position[row] * width;
        for (Index i = 0; i < width; ++i) to[i] += p[i];
      }
    }
  }
};

/// table_gradient[v] += Σ over rows with key[row] = v of d[row], in order of rows. One item owns a range of table rows and walks
/// all keys: no two items touch one row, and the order of a sum is fixed.
template <class T, class Key, Index width>
struct ScatterRows {
  static constexpr Index ranges = 64;
  Index rows, table_rows;
  const Key* key;
  const T* d;
  T* table_gradient;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index low = table_rows * item / ranges, high = table_rows * (item + 1) / ranges;
    if (low == high) return;
    for (Index row = 0; row < rows; ++row) {
      const Index v = static_cast<Index>(key[row]);
      if (v < low || v >= high) continue;
      for (Index i = 0; i < width; ++i) table_gradient[v * width + i] += d[row * width + i];
    }
  }
};

/// y[i] = x[row[i]]: rows that are wanted. One item: one row.
template <class T, Index width>
struct SelectRows {
  const T* x;
  const Index* row;
  T* y;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index i) const {
    for (Index j = 0; j < width; ++j) y[i * width + j] = x[row[i] * width + j];
  }
};

}  // namespace hybridmoe::ops
