#pragma once
/// @file product.hpp
/// The kernels of products with weights. Shapes are run-time values here, so that a program holds each kernel once, not once a
/// shape; the register block below them is what must be static.

#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/ops/cpu/block.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::cpu {

/// Rows that one item takes: their part of x stays in the second-level cache. (A device's item is one small block.)
inline constexpr Index row_block = HYBRIDMOE_VECTOR ? 48 : block_rows;
/// Terms summed before the next rows' turn. Longer strips than the first-level cache holds are faster: they are fetched ahead,
/// and sums are put down and taken up again less often.
inline constexpr Index depth_block = 512;
/// Multiply-adds that make an item worth handing out.
inline constexpr Index item_work = HYBRIDMOE_VECTOR ? Index{1} << 21 : 1;

/// Numbers of the panels that all rows are multiplied with before the next panels' turn.
inline constexpr Index chunk_numbers = Index{1} << 20;

/// How `count` pieces are shared out in equal parts of at most `most`.
struct Parts {
  Index count, size;
  HYBRIDMOE_FUNCTION constexpr Parts(Index pieces, Index most)
      : count(divide_up(pieces, larger(1, most))), size(count == 0 ? 0 : divide_up(pieces, count)) {}
};

/// Panels that an item takes, when it takes `rows` rows and `depth` terms.
HYBRIDMOE_FUNCTION constexpr Index panels_per_item(Index panels, Index rows, Index depth) {
  // One row costs as much as about 32 would: it waits for memory.
  return Parts(panels, item_work / (panel_width * larger(1, depth) * larger(rows, 32))).size;
}

/// c[rows, columns] = start + a·panel for at most row_block rows and 32 columns of a panel (b_row = 32).
template <class T>
HYBRIDMOE_FUNCTION void multiply_panel(Index rows, Index depth, Index columns, const Operands<T>& operands) {
  const Index step = rows > block_rows ? Parts(depth, depth_block).size : depth;
  const Index groups = columns / block_columns<T>, rest = columns % block_columns<T>;
  if (groups > 0) {
    multiply_groups(rows, smaller(step, depth), groups, operands);
    for (Index k = step; k < depth; k += step) multiply_groups(rows, smaller(step, depth - k), groups, operands.from_term(k));
  }
  if (rest > 0) {
    // The panel is padded, c is not.
    T edge[row_block * block_columns<T>];
    Operands<T> o = operands.from_column(groups * block_columns<T>);
    T* const c = o.c;
    if (o.start != nullptr) {
      for (Index r = 0; r < rows; ++r)
        for (Index j = 0; j < block_columns<T>; ++j)
          edge[r * block_columns<T> + j] = j < rest ? o.start[r * o.start_row + j] : T(0);
      o.start = edge;
      o.start_row = block_columns<T>;
    }
    o.c = edge;
    o.c_row = block_columns<T>;
    multiply_groups(rows, smaller(step, depth), 1, o);
    for (Index k = step; k < depth; k += step) multiply_groups(rows, smaller(step, depth - k), 1, o.from_term(k));
    for (Index r = 0; r < rows; ++r)
      for (Index j = 0; j < rest; ++j) c[r * operands.c_row + j] = edge[r * block_columns<T> + j];
  }
}

/// Which rows of which group an item has.
struct RowRange {
  Index group = 0, from = 0, count = 0;
};

/// Row block number `block` of all groups' row blocks, counted through; count 0 beyond the last.
HYBRIDMOE_FUNCTION inline RowRange find_rows(Index block, const Index* offset, Index first_group, Index groups, Index rows) {
  for (Index g = first_group; g < first_group + groups; ++g) {
    const Index begin = offset == nullptr ? 0 : offset[g], count = (offset == nullptr ? rows : offset[g + 1]) - begin;
    const Parts parts(count, row_block);
    if (block < parts.count) {
      const Index from = block * parts.size;
      return {g, begin + from, smaller(parts.size, count - from)};
    }
    block -= parts.count;
  }
  return {};
}

/// c = start + a·panels for all rows. One item: a row block times some panels.
template <class T>
struct ProductKernel {
  Index rows, depth, columns;
  const T* a;          ///< [rows, depth]
  const T* panels;     ///< [groups][count][depth][32]
  Index first, count;  ///< these panels of each group are at hand
  Index first_group, groups;
  const Index* offset;  ///< rows of the groups, or null: all rows, one group
  const T* bias;        ///< [columns] or null
  bool accumulate;      ///< c +=
  T* c;                 ///< [rows, columns]
  Index per_item = 0, panel_items = 0, row_items = 0, chunk = 0;

  /// Decides how the work is shared out; returns the number of items.
  HYBRIDMOE_FUNCTION Index plan() {
    const Index blocks = divide_up(rows, row_block);
    row_items = offset == nullptr ? blocks : smaller(rows, blocks + groups);
    per_item = panels_per_item(count, smaller(rows, row_block), depth);
    panel_items = divide_up(count, per_item);
    return row_items * panel_items;
  }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    // What is read again by the next item is the smaller of weights and rows.
    const bool panels_first = rows > columns && offset == nullptr;
    const Index row_item = panels_first ? item / panel_items : item % row_items;
    const Index panel_item = panels_first ? item % panel_items : item / row_items;
    const RowRange range = find_rows(row_item, offset, first_group, groups, rows);
    if (range.count == 0) return;
    const T* const group_panels = panels + (range.group - first_group) * count * depth * panel_width;
    const Index until = smaller(count, (panel_item + 1) * per_item);
    for (Index p = panel_item * per_item; p < until; ++p) {
      const Index column = (first + p) * panel_width;
      T* const to = c + range.from * columns + column;
      const T* const start = accumulate ? to : (bias == nullptr ? nullptr : bias + column);
      multiply_panel(range.count, depth, smaller(panel_width, columns - column),
                     Operands<T>{a + range.from * depth, depth, 1, group_panels + p * depth * panel_width, panel_width, start,
                                 accumulate ? columns : 0, to, columns});
    }
  }
};

/// dw[out, in] += dyᵀ·x over the rows of a chunk, for each group. One item: some rows of dw times some panels of x.
template <class T>
struct WeightGradientKernel {
  Index from, count;  ///< the rows of the chunk
  Index out, in;
  const T* dy;          ///< [rows, out]
  const T* panels;      ///< the chunk of x as panels [⌈in/32⌉][count][32]
  const Index* offset;  ///< rows of the groups, or null: all rows, one group
  T* dw;                ///< [groups][out, in]
  Index per_item = 0, panel_items = 0;

  /// Items enough for many threads; within that as many panels as possible, since each item copies its part of dy.
  HYBRIDMOE_FUNCTION Index plan(Index groups) {
    const Index all = divide_up(in, panel_width), row_parts = groups * divide_up(out, row_block);
    constexpr Index wanted = HYBRIDMOE_VECTOR ? 16 : Index{1} << 20;
    per_item = divide_up(all, smaller(all, divide_up(wanted, row_parts)));
    panel_items = divide_up(all, per_item);
    return row_parts * panel_items;
  }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Parts parts(out, row_block);
    const Index panel_item = item % panel_items, part = item / panel_items % parts.count;
    const Index group = item / panel_items / parts.count;
    const Index begin = offset == nullptr ? from : larger(from, offset[group]);
    const Index end = offset == nullptr ? from + count : smaller(from + count, offset[group + 1]);
    const Index row = part * parts.size, rows = smaller(parts.size, out - row);
    const Index last = smaller(divide_up(in, panel_width), (panel_item + 1) * per_item);
    for (Index k = begin; k < end; k += copied_terms) {
      const Index terms = smaller(copied_terms, end - k);
      T left[row_block * copied_terms];
      copy_left(k, terms, row, rows, left);
      for (Index p = panel_item * per_item; p < last; ++p) {
        const Index column = p * panel_width;
        for (Index r = 0; r < rows; r += block_rows) {
          T* const to = dw + (group * out + row + r) * in + column;
          multiply_panel(smaller(block_rows, rows - r), terms, smaller(panel_width, in - column),
                         Operands<T>{left + r * copied_terms, 1, block_rows, panels + (p * count + k - from) * panel_width,
                                     panel_width, to, in, to, in});
        }
      }
    }
  }

 private:
  /// Terms of a part of dy that an item holds a copy of.
  static constexpr Index copied_terms = HYBRIDMOE_VECTOR ? 2048 / sizeof(T) : 256;

  /// Columns row … row+rows−1 of dy as blocks [block_rows][terms] whose terms are neighbours: in dy itself they lie a whole row
  /// apart, often at distances that fall on the same lines of the cache.
  HYBRIDMOE_FUNCTION void copy_left(Index k, Index terms, Index row, Index rows, T* left) const {
    for (Index r = 0; r < rows; r += block_rows) {
      const Index width = smaller(block_rows, rows - r);
      const T* source = dy + k * out + row + r;
      T* to = left + r * copied_terms;
      if (width == block_rows) {
        for (Index t = 0; t < terms; ++t, source += out, to += block_rows)
          for (int i = 0; i < block_rows; ++i) to[i] = source[i];
      } else {
        for (Index t = 0; t < terms; ++t, source += out, to += block_rows)
          for (Index i = 0; i < width; ++i) to[i] = source[i];
      }
    }
  }
};

/// sum[columns] += Σ_rows of matrix[rows, columns], rows in order. One item: some columns.
template <class T>
struct ColumnSumKernel {
  static constexpr Index columns_per_item = 64;
  Index rows, columns;
  const T* matrix;
  T* sum;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index from = item * columns_per_item, count = smaller(columns_per_item, columns - from);
    T partial[columns_per_item] = {};
    for (Index row = 0; row < rows; ++row) {
      const T* const piece = matrix + row * columns + from;
      for (Index j = 0; j < count; ++j) partial[j] += piece[j];
    }
    for (Index j = 0; j < count; ++j) sum[from + j] += partial[j];
  }
};

}  // namespace hybridmoe::ops::cpu
