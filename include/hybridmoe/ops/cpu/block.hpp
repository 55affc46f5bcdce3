#pragma once
/// @file block.hpp
/// The register block: the one loop in which all products of the library are summed. A few rows times a few registers of
/// columns are held in registers while k runs upward, one fused multiply-add per term.

#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/ops/cpu/vector.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::cpu {

/// c = start + a·b on a block. Element (r, k) of a is a[r·a_row + k·a_k], (k, j) of b is b[k·b_row + j], (r, j) of c is
/// c[r·c_row + j]; `start` is as c with its own row stride (0: one row for all, a bias), or null for zero; it may be c itself.
/// What is wanted next is fetched meanwhile: numbers at `next`, going on by next_k numbers a term, and the place of the results
/// that are c_ahead numbers from c on (0: those below this block).
template <class T>
struct Operands {
  const T* a;
  Index a_row, a_k;
  const T* b;
  Index b_row;
  const T* start;
  Index start_row;
  T* c;
  Index c_row;
  const T* next = nullptr;
  Index next_k = 0, c_ahead = 0;

  /// Moves to another row or column of the same product. (In place: copies are read before the stores that made them are done.)
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void move_rows(Index by) {
    a += by * a_row;
    if (start != nullptr) start += by * start_row;
    c += by * c_row;
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void move_columns(Index by) {
    b += by;
    if (start != nullptr) start += by;
    c += by;
  }
};

#if HYBRIDMOE_VECTOR

/// Numbers in a register.
template <class T>
inline constexpr int register_lanes = register_bytes / static_cast<int>(sizeof(T));
/// Rows of a block of two registers of columns, such that the sums, a piece of b and a number of a fit in the registers.
inline constexpr int block_rows = register_count == 32 ? 13 : 6;
/// Rows of the blocks to which the gradient of a weight copies its left side (12 numbers are copied faster than 13).
inline constexpr int gradient_rows = block_rows > 12 ? 12 : block_rows;
/// Rows of a block of four registers of columns, or 0 where the narrow block is as good for few rows.
inline constexpr int wide_rows = register_count == 32 ? 0 : 3;
/// Panels of T that one row takes side by side. A row waits for memory, and where registers are few and short a processor brings
/// more by two streams that it finds itself than by one that is asked for.
template <class T>
inline constexpr Index row_panels = register_count == 16 && panel_width == 4 * register_lanes<T> ? 2 : 1;
/// Columns that the narrow block takes at a time.
template <class T>
inline constexpr int block_columns = 2 * register_lanes<T>;

/// A block of static rows. a_step: a_k where it is known and b is a panel, which leaves more registers for addresses; else 0.
template <class T, int lanes, int rows, int registers, int a_step = 0>
[[gnu::noinline]] void multiply_block(Index depth, const Operands<T>& operands) {
  using V = Vector<T, lanes>;
  const auto [a, a_row, any_a_k, b, any_b_row, start, start_row, c, c_row, next, next_k, c_ahead] = operands;
  const Index a_k = a_step > 0 ? a_step : any_a_k, b_row = a_step > 0 ? panel_width : any_b_row;
  V sum[rows][registers];
#pragma GCC unroll 13
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < registers; ++j) sum[r][j] = start == nullptr ? V{} : load<T, lanes>(start + r * start_row + j * lanes);
  }
  // Four rows share a pointer, so that many rows need few address registers.
  constexpr int pointers = (rows + 3) / 4;
  const Index stride = a_row;
  Index third = 3 * a_row;
  keep_number(third);
  const T* row[pointers];
#pragma GCC unroll 4
  for (int g = 0; g < pointers; ++g) row[g] = a + 4 * g * a_row;
  const auto number = [&](int r) { return row[r / 4][r % 4 == 3 ? third : r % 4 * stride]; };
  const T* line = b;
  // The next block's results are wanted when this one is done: by then their place has come from afar.
  if constexpr (lanes == register_lanes<T>) {
    if (depth >= 128) {
      T* const wanted = c + (c_ahead == 0 ? rows * c_row : c_ahead);
#pragma GCC unroll 13
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < registers; ++j) prefetch<true>(wanted + r * c_row + j * lanes);
      }
    }
  }
  // Processors fetch ahead within a page only, and a page of a panel is used up within a few hundred cycles. Full passes find
  // their panel in the second-level cache, which is near.
  constexpr bool near_by = a_step > 0 && rows == (a_step == 1 ? block_rows : gradient_rows);
  constexpr Index fetched_terms = near_by ? 8 : 32, cache_line = 64 / sizeof(T);
  const Index ahead = b_row == panel_width ? fetched_terms * panel_width : 0;
  const T* soon = next == nullptr ? b : next;
  for (Index k = 0; k < depth; ++k) {
    if constexpr (lanes == register_lanes<T>) {
#pragma GCC unroll 4
      for (int j = 0; j < registers * lanes; j += cache_line) prefetch(line + ahead + j);
      prefetch_second_level(soon);
      soon += next_k;
    }
    // Whichever of a's column and b's line is shorter stays in registers; the other passes through one.
    if constexpr (rows < registers) {
      V factor[rows];
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        factor[r] = splat<T, lanes>(number(r));
        keep(factor[r]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < registers; ++j) {
        V term = load<T, lanes>(line + j * lanes);
        keep(term);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) sum[r][j] = fused_lanes(factor[r], term, sum[r][j]);
      }
    } else {
      V term[registers];
#pragma GCC unroll 4
      for (int j = 0; j < registers; ++j) {
        term[j] = load<T, lanes>(line + j * lanes);
        keep(term[j]);
      }
#pragma GCC unroll 13
      for (int r = 0; r < rows; ++r) {
        const V factor = splat<T, lanes>(number(r));
#pragma GCC unroll 4
        for (int j = 0; j < registers; ++j) sum[r][j] = fused_lanes(factor, term[j], sum[r][j]);
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < pointers; ++g) row[g] += a_k;
    line += b_row;
  }
#pragma GCC unroll 13
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < registers; ++j) store<T, lanes>(c + r * c_row + j * lanes, sum[r][j]);
  }
}

/// One row times whole panels, the next one `apart` numbers behind each.
template <class T, Index panels>
[[gnu::noinline]] void multiply_row(Index depth, Index apart, const Operands<T>& operands) {
  constexpr int lanes = register_lanes<T>, registers = static_cast<int>(panel_width) / lanes;
  using V = Vector<T, lanes>;
  const auto [a, a_row, a_k, b, b_row, start, start_row, c, c_row, next, next_k, c_ahead] = operands;
  V sum[panels][registers];
#pragma GCC unroll 3
  for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 4
    for (int j = 0; j < registers; ++j) sum[p][j] = start == nullptr ? V{} : load<T, lanes>(start + p * panel_width + j * lanes);
  }
  const T* line = b;
  for (Index k = 0; k < depth; ++k, line += panel_width) {
    const V factor = splat<T, lanes>(a[k * a_k]);
#pragma GCC unroll 3
    for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 4
      for (int j = 0; j < registers; ++j)
        sum[p][j] = fused_lanes(factor, load<T, lanes>(line + p * apart + j * lanes), sum[p][j]);
    }
  }
#pragma GCC unroll 3
  for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 4
    for (int j = 0; j < registers; ++j) store<T, lanes>(c + p * panel_width + j * lanes, sum[p][j]);
  }
}

/// A block of 1 … most rows.
template <class T, int lanes, int registers, int most, int a_step = 0>
void multiply_rows(Index rows, Index depth, const Operands<T>& operands) {
  if constexpr (most > 0) {
    if (rows == most) {
      multiply_block<T, lanes, most, registers, a_step>(depth, operands);
    } else {
      multiply_rows<T, lanes, registers, most - 1, a_step>(rows, depth, operands);
    }
  }
}

/// Any number of rows, as blocks that are nearly alike: of 13 rows, 7 and 6. Leaves the operands
/// where they were, as all of these functions do.
template <class T, int lanes, int registers>
HYBRIDMOE_INLINE void multiply_tall(Index rows, Index depth, Operands<T>& operands) {
  if constexpr (lanes == register_lanes<T> && registers == 2) {
    // The passes of products with weights and of their gradients.
    if (operands.b_row == panel_width && operands.a_k == 1 && rows <= block_rows)
      return multiply_rows<T, lanes, 2, block_rows, 1>(rows, depth, operands);
    if (operands.b_row == panel_width && operands.a_k == gradient_rows && rows == gradient_rows)
      return multiply_block<T, lanes, gradient_rows, 2, gradient_rows>(depth, operands);
  }
  if (rows <= block_rows) return multiply_rows<T, lanes, registers, block_rows>(rows, depth, operands);
  for (Index left = rows; left > 0;) {
    const Index taken = divide_up(left, divide_up(left, block_rows));
    multiply_rows<T, lanes, registers, block_rows>(taken, depth, operands);
    operands.move_rows(taken);
    left -= taken;
  }
  operands.move_rows(-rows);
}

/// Any number of rows times `groups` groups of block_columns.
template <class T>
HYBRIDMOE_INLINE void multiply_groups(Index rows, Index depth, Index groups, Operands<T>& operands) {
  constexpr int lanes = register_lanes<T>;
  Index wide = 0;
  if constexpr (wide_rows > 0) {
    // Up to three rows beyond the multiple of six keep the multipliers busy only in wide blocks.
    const Index over = rows % block_rows;
    if (groups > 1 && over <= wide_rows) wide = over == 1 && rows > block_rows ? wide_rows : over;
  }
  const Index tall = rows - wide;
  if (tall > 0) {
    for (Index g = 0; g < groups; ++g) {
      multiply_tall<T, lanes, 2>(tall, depth, operands);
      operands.move_columns(block_columns<T>);
    }
    operands.move_columns(-groups * block_columns<T>);
  }
  if constexpr (wide_rows > 0) {
    if (wide == 0) return;
    operands.move_rows(tall);
    Index g = 0;
    for (; g + 2 <= groups; g += 2) {
      multiply_rows<T, lanes, 4, wide_rows>(wide, depth, operands);
      operands.move_columns(2 * block_columns<T>);
    }
    if (g < groups) multiply_tall<T, lanes, 2>(wide, depth, operands);
    operands.move_columns(-g * block_columns<T>);
    operands.move_rows(-tall);
  }
}

/// Any number of rows times fewer than block_columns columns, in ever smaller registers.
template <class T, int columns, int lanes = register_lanes<T>>
void multiply_rest(Index rows, Index depth, Operands<T>& operands) {
  if constexpr (columns > 0) {
    if constexpr (lanes * sizeof(T) <= 8) {
      multiply_tall<T, 1, columns>(rows, depth, operands);
    } else {
      constexpr int whole = columns / lanes * lanes;
      if constexpr (whole > 0) multiply_tall<T, lanes, 1>(rows, depth, operands);
      constexpr int next = lanes * sizeof(T) > 16 ? lanes / 2 : 1;
      operands.move_columns(whole);
      multiply_rest<T, columns - whole, next>(rows, depth, operands);
      operands.move_columns(-whole);
    }
  }
}

#else

template <class T>
inline constexpr int block_columns = 8;
template <class T>
inline constexpr Index row_panels = 1;
inline constexpr int block_rows = 4, gradient_rows = block_rows;

/// Any number of rows times `columns` ≤ block_columns columns, for compilers without vector extensions and for devices.
template <class T>
HYBRIDMOE_FUNCTION void multiply_plain(Index rows, Index depth, Index columns, Operands<T> o) {
  for (Index from = 0; from < rows; from += block_rows, o.move_rows(block_rows)) {
    const Index count = smaller(block_rows, rows - from);
    T sum[block_rows][block_columns<T>];
    for (int r = 0; r < block_rows; ++r) {
      for (int j = 0; j < block_columns<T>; ++j)
        sum[r][j] = o.start != nullptr && r < count && j < columns ? o.start[r * o.start_row + j] : T(0);
    }
    for (Index k = 0; k < depth; ++k) {
      T term[block_columns<T>];
      for (int j = 0; j < block_columns<T>; ++j) term[j] = j < columns ? o.b[k * o.b_row + j] : T(0);
      for (int r = 0; r < block_rows; ++r) {
        const T factor = r < count ? o.a[r * o.a_row + k * o.a_k] : T(0);
        for (int j = 0; j < block_columns<T>; ++j) sum[r][j] = fused(factor, term[j], sum[r][j]);
      }
    }
    for (int r = 0; r < block_rows; ++r) {
      for (int j = 0; j < block_columns<T>; ++j)
        if (r < count && j < columns) o.c[r * o.c_row + j] = sum[r][j];
    }
  }
}

template <class T>
HYBRIDMOE_FUNCTION void multiply_groups(Index rows, Index depth, Index groups, Operands<T> operands) {
  for (Index g = 0; g < groups; ++g, operands.move_columns(block_columns<T>))
    multiply_plain(rows, depth, block_columns<T>, operands);
}

template <class T, int columns>
HYBRIDMOE_FUNCTION void multiply_rest(Index rows, Index depth, const Operands<T>& operands) {
  if constexpr (columns > 0) multiply_plain(rows, depth, columns, operands);
}

#endif  // HYBRIDMOE_VECTOR

/// Any number of rows times static columns. (The operands are used up.)
template <class T, int columns>
HYBRIDMOE_FUNCTION void multiply_columns(Index rows, Index depth, Operands<T>& operands) {
  constexpr int groups = columns / block_columns<T>;
  if constexpr (groups > 0) multiply_groups(rows, depth, groups, operands);
  operands.move_columns(groups * block_columns<T>);
  multiply_rest<T, columns % block_columns<T>>(rows, depth, operands);
}

}  // namespace hybridmoe::ops::cpu
