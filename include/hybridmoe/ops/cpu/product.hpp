#pragma once
/// @file product.hpp
/// The kernels of products with weights. Shapes are run-time values here, so that a program holds each kernel once, not once a
/// shape; the register block below them is what must be static.

#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/ops/cpu/block.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::cpu {

/// Rows that are multiplied with a panel before the next rows' turn.
inline constexpr Index pass_rows = HYBRIDMOE_VECTOR ? larger(block_rows, 12) : block_rows;
/// Rows that one item takes: their part of x stays in the second-level cache. (A device's item is one small block.)
inline constexpr Index row_block = HYBRIDMOE_VECTOR ? 4 * pass_rows : block_rows;
/// Terms summed before the next panel's turn. Longer strips of a panel than the first-level cache holds are faster: they are
/// fetched ahead, and sums are put down and taken up again less often.
inline constexpr Index depth_block = 1024;
/// Rows whose stride is a multiple of this many bytes fall on the same lines of a first-level cache, more of them in a pass than
/// it can hold there: such rows are copied to where they do not, if several panels are multiplied with them.
inline constexpr Index alias_bytes = 4096;
/// Multiply-adds that make an item worth handing out.
inline constexpr Index item_work = HYBRIDMOE_VECTOR ? Index{1} << 21 : 1;

/// How `count` pieces are shared out in equal parts of at most `most`.
struct Parts {
  Index count, size;
  HYBRIDMOE_FUNCTION constexpr Parts(Index pieces, Index most)
      : count(pieces <= most ? smaller(1, pieces) : divide_up(pieces, larger(1, most))),
        size(count <= 1 ? pieces : divide_up(pieces, count)) {}
};

/// Columns of a panel that fill no whole blocks: the panel is padded, c is not.
template <class T, Index groups>
HYBRIDMOE_FUNCTION void multiply_edge(Index rows, Index depth, Index columns, Operands<T>& o) {
  constexpr Index width = groups * block_columns<T>;
  T edge[pass_rows * width];
  T* const c = o.c;
  const Index c_row = o.c_row;
  if (o.start != nullptr) {
    for (Index r = 0; r < rows; ++r)
      for (Index j = 0; j < width; ++j) edge[r * width + j] = j < columns ? o.start[r * o.start_row + j] : T(0);
    o.start = edge;
    o.start_row = width;
  }
  o.c = edge;
  o.c_row = width;
  multiply_groups(rows, depth, groups, o);
  for (Index r = 0; r < rows; ++r)
    for (Index j = 0; j < columns; ++j) c[r * c_row + j] = edge[r * width + j];
}

/// c[rows, columns] = start + a·panel for at most pass_rows rows and 32 columns of a panel (b_row = 32).
template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void multiply_panel(Index rows, Index depth, Index columns, Operands<T> operands) {
  const Index groups = columns / block_columns<T>, rest = columns % block_columns<T>;
#if HYBRIDMOE_VECTOR
  // So few rows wait for their sums: two blocks' columns take no longer than one's.
  if constexpr (wide_rows > 0 && panel_width == 2 * block_columns<T>)
    if (rows <= wide_rows && groups == 1 && rest > 0) return multiply_edge<T, 2>(rows, depth, columns, operands);
#endif
  if (groups > 0) multiply_groups(rows, depth, groups, operands);
  if (rest > 0) {
    operands.move_columns(groups * block_columns<T>);
    multiply_edge<T, 1>(rows, depth, rest, operands);
  }
}

#if HYBRIDMOE_VECTOR
/// c[columns] = start + one row times panels that lie depth·32 numbers apart; null start: zeros. The last panel may be cut.
template <class T>
HYBRIDMOE_INLINE void multiply_single(Index terms, Index depth, Index columns, const T* a, const T* panels, const T* start,
                                      T* c) {
  constexpr Index pair = row_panels<T>, most = pair + 1;
  T edge[most * panel_width];
  for (Index done = 0; done < columns;) {
    // Two and two, and three at the end rather than two and one: one alone waits for its sums.
    const Index left = divide_up(columns - done, panel_width), taken = left == most ? most : smaller(left, pair);
    const Index here = smaller(columns - done, taken * panel_width);
    const bool whole = here == taken * panel_width;
    Operands<T> operands{a, 0, 1, panels + done * depth, panel_width, start == nullptr ? nullptr : start + done, 0, c + done, 0};
    if (!whole) {
      operands.c = edge;
      if (start != nullptr) {
        for (Index j = 0; j < here; ++j) edge[j] = operands.start[j];
        for (Index j = here; j < taken * panel_width; ++j) edge[j] = T(0);
        operands.start = edge;
      }
    }
    if (taken == most) {
      multiply_row<T, most>(terms, depth * panel_width, operands);
    } else if (taken == pair) {
      multiply_row<T, pair>(terms, depth * panel_width, operands);
    } else {
      multiply_row<T, 1>(terms, depth * panel_width, operands);
    }
    if (!whole)
      for (Index j = 0; j < here; ++j) c[done + j] = edge[j];
    done += here;
  }
}
#endif

/// Which rows of which group an item has.
struct RowRange {
  Index group = 0, from = 0, count = 0;
};

/// Block number `block` of all groups' blocks of at most `most` rows, counted through; count 0 beyond the last.
HYBRIDMOE_FUNCTION inline RowRange find_rows(Index block, const Index* offset, Index first_group, Index groups, Index rows,
                                             Index most) {
  for (Index g = first_group; g < first_group + groups; ++g) {
    const Index begin = offset == nullptr ? 0 : offset[g], count = (offset == nullptr ? rows : offset[g + 1]) - begin;
    const Index blocks =
        count <= most ? smaller(1, count) : divide_up(count, most);  // a division takes as long as small products
    if (block < blocks) return {g, begin + block * most, smaller(most, count - block * most)};
    block -= blocks;
  }
  return {};
}

/// c = start + a·panels for all rows. One item: some rows times some panels.
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
  Index rows_per_item = 0, row_items = 0, panels_per_item = 0, panel_items = 0;

  /// Decides how the work is shared out among `threads`; returns the number of items.
  HYBRIDMOE_FUNCTION Index plan(Index threads) {
    // Small products are one item: to find that out by the divisions below takes as long as some of them.
    if (offset == nullptr && rows <= (threads == 1 ? row_block : 2 * pass_rows) &&
        panel_width * depth * larger(rows, 32) * count <= item_work) {
      rows_per_item = row_block;
      panels_per_item = count;
      return row_items = panel_items = 1;
    }
    const Index of_group = divide_up(rows, groups);
    // The fuller its passes and the more panels an item has, the better; but threads want shares of the same size.
    rows_per_item = row_block;
    Index shares = of_group > 8 * threads * row_block ? 1 : smaller(threads, larger(1, count / 4));
    const Index more = offset == nullptr ? 0 : smaller(rows, groups);
    while (shares < threads && rows_per_item > 2 * pass_rows && shares * (divide_up(rows, rows_per_item) + more) < 4 * threads)
      rows_per_item /= 2;
    row_items = divide_up(rows, rows_per_item) + more;
    if (!HYBRIDMOE_VECTOR || shares * row_items < threads) shares = smaller(count, divide_up(threads, row_items));
    // One row costs as much as about 32 would: it waits for memory.
    const Index least = divide_up(item_work, panel_width * larger(1, depth) * larger(smaller(of_group, rows_per_item), 32));
    panels_per_item = of_group > pass_rows ? larger(least, divide_up(count, shares)) : least;
    panels_per_item = larger(1, Parts(count, panels_per_item).size);
    if (of_group == 1) panels_per_item = larger(panels_per_item, row_panels<T>);
    panel_items = divide_up(count, panels_per_item);
    return row_items * panel_items;
  }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    if (offset != nullptr && offset[first_group] == offset[first_group + groups]) return;  // no expert was chosen
    // What is read again by the next item is the smaller of weights and rows.
    const bool panels_first = rows > columns && offset == nullptr;
    const Index row_item = panel_items == 1 ? item : panels_first ? item / panel_items : item % row_items;
    const Index panel_item = panel_items == 1 ? 0 : panels_first ? item % panel_items : item / row_items;
    const RowRange range = find_rows(row_item, offset, first_group, groups, rows, rows_per_item);
    if (range.count == 0) return;
    const Index begin = panel_item * panels_per_item, until = smaller(count, begin + panels_per_item);
    const T* const left = a + range.from * depth;
#if HYBRIDMOE_VECTOR
    if (range.count > pass_rows && until - begin > 2 && depth * static_cast<Index>(sizeof(T)) % alias_bytes == 0)
      return multiply_copies(range, begin, until);
#endif
    const Index step = range.count > pass_rows ? Parts(depth, depth_block).size : depth;
    for (Index k = 0; k < depth; k += step) multiply(range, begin, until, k, smaller(step, depth - k), left + k, depth);
  }

 private:
  /// Terms k … k+terms−1 of some rows (they begin at `left`) times some panels, one panel after the other.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void multiply(RowRange range, Index begin, Index until, Index k, Index terms, const T* left,
                                                    Index left_row) const {
    const T* const group_panels = panels + (range.group - first_group) * count * depth * panel_width;
    const Parts passes(range.count, pass_rows);
    // Each pass fetches its share of the next strip: all of it at once would have to wait for memory.
    const Index share = passes.count > 1 ? divide_up(panel_width, passes.count) : 0;
    const bool onward = accumulate || k > 0;
#if HYBRIDMOE_VECTOR
    if constexpr (row_panels<T> > 1) {
      if (range.count == 1) {
        const Index column = (first + begin) * panel_width, until_column = smaller(columns, (first + until) * panel_width);
        T* const to = c + range.from * columns + column;
        return multiply_single(terms, depth, until_column - column, left, group_panels + (begin * depth + k) * panel_width,
                               onward ? to : (bias == nullptr ? nullptr : bias + column), to);
      }
    }
#endif
    for (Index p = begin; p < until; ++p) {
      const Index column = (first + p) * panel_width;
      const T* const strip = group_panels + (p * depth + k) * panel_width;
      const T* next = strip;
      if (p + 1 < until) {
        next += depth * panel_width;
      } else if (k + terms < depth) {
        next = group_panels + (begin * depth + k + terms) * panel_width;
      }
      for (Index r = 0; r < range.count; r += passes.size) {
        const Index taken = smaller(passes.size, range.count - r);
        T* const to = c + (range.from + r) * columns + column;
        const T* const start = onward ? to : (bias == nullptr ? nullptr : bias + column);
        const Index ahead = r + taken < range.count ? taken * columns : panel_width - r * columns;
        multiply_panel(taken, terms, smaller(panel_width, columns - column),
                       Operands<T>{left + r * left_row, left_row, 1, strip, panel_width, start, onward ? columns : 0, to, columns,
                                   next, share, ahead});
        next += share * terms;
      }
    }
  }

#if HYBRIDMOE_VECTOR
  /// The same for all terms, by copies of the rows that do not fall on the same lines of the cache. (It takes up to 216 KB: a
  /// function of its own, so that nobody's stack needs them who has no such rows.)
  [[gnu::noinline]] void multiply_copies(RowRange range, Index begin, Index until) const {
    constexpr Index most = 4096 / sizeof(T), stride = most + 64 / sizeof(T);
    alignas(64) T copy[row_block * stride];
    for (Index k = 0; k < depth; k += most) {
      const Index terms = smaller(most, depth - k);
      const T* const left = a + range.from * depth + k;
      // Rows in turn, so that many lines are on their way at a time.
      for (Index r = 0; r < range.count; r += pass_rows)
        for (Index t = 0; t < terms; t += register_lanes<T>)
          for (Index i = r; i < smaller(range.count, r + pass_rows); ++i)
            store<T, register_lanes<T>>(copy + i * stride + t, load<T, register_lanes<T>>(left + i * depth + t));
      multiply(range, begin, until, k, terms, copy, stride);
    }
  }
#endif
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
  /// Rows of dw that one item takes.
  static constexpr Index copied_rows = HYBRIDMOE_VECTOR ? 48 : gradient_rows;

  /// Items enough for many threads; within that as many panels as possible, since each item copies its part of dy.
  HYBRIDMOE_FUNCTION Index plan(Index groups) {
    const Index all = divide_up(in, panel_width), row_parts = groups * divide_up(out, copied_rows);
    constexpr Index wanted = HYBRIDMOE_VECTOR ? 16 : Index{1} << 20;
    per_item = divide_up(all, smaller(all, divide_up(wanted, row_parts)));
    panel_items = divide_up(all, per_item);
    return row_parts * panel_items;
  }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Parts parts(out, copied_rows);
    const Index panel_item = item % panel_items, part = item / panel_items % parts.count;
    const Index group = item / panel_items / parts.count;
    const Index begin = offset == nullptr ? from : larger(from, offset[group]);
    const Index end = offset == nullptr ? from + count : smaller(from + count, offset[group + 1]);
    const Index row = part * parts.size, rows = smaller(parts.size, out - row);
    const Index last = smaller(divide_up(in, panel_width), (panel_item + 1) * per_item);
    for (Index k = begin; k < end; k += copied_terms) {
      const Index terms = smaller(copied_terms, end - k);
      T left[copied_rows * copied_terms];
      copy_left(k, terms, row, rows, left);
      const Index passes = divide_up(rows, gradient_rows), share = divide_up(panel_width, passes);
      for (Index p = panel_item * per_item; p < last; ++p) {
        const Index column = p * panel_width;
        const T* const strip = panels + (p * count + k - from) * panel_width;
        const T* next = p + 1 < last ? strip + count * panel_width : strip;
        for (Index r = 0; r < rows; r += gradient_rows) {
          T* const to = dw + (group * out + row + r) * in + column;
          multiply_panel(smaller(gradient_rows, rows - r), terms, smaller(panel_width, in - column),
                         Operands<T>{left + r * copied_terms, 1, gradient_rows, strip, panel_width, to, in, to, in, next, share,
                                     r + gradient_rows < rows ? 0 : panel_width - r * in});
          next += share * terms;
        }
      }
    }
  }

 private:
  /// Terms of a part of dy that an item holds a copy of.
  static constexpr Index copied_terms = HYBRIDMOE_VECTOR ? 2048 / sizeof(T) : 256;

  /// Columns row … row+rows−1 of dy as blocks [gradient_rows][terms] whose terms are neighbours: in dy itself they lie a whole
  /// row apart, often at distances that fall on the same lines of the cache.
  HYBRIDMOE_FUNCTION void copy_left(Index k, Index terms, Index row, Index rows, T* left) const {
    for (Index r = 0; r < rows; r += gradient_rows) {
      const Index width = smaller(gradient_rows, rows - r);
      const T* source = dy + k * out + row + r;
      T* to = left + r * copied_terms;
      if (width == gradient_rows) {
        for (Index t = 0; t < terms; ++t, source += out, to += gradient_rows)
          for (int i = 0; i < gradient_rows; ++i) to[i] = source[i];
      } else {
        for (Index t = 0; t < terms; ++t, source += out, to += gradient_rows)
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
