#pragma once
/// @file matmul.hpp
/// Products with weights, forward and backward, for one weight and for groups (experts). Sums run over k strictly in order with
/// fused multiply-adds, whatever the number of rows, so one row and many rows give the same bits, and so do Flat and Packed.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/cpu/pack.hpp>
#include <hybridmoe/ops/cpu/product.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

namespace matmul {

/// Numbers of scratch that panels made on the fly may take; a weight beyond that is multiplied in parts.
inline constexpr Index panel_budget = Index{1} << 19;
/// The same for rows of x kept as panels while a weight's gradient is summed: longer parts are summed faster.
inline constexpr Index row_budget = Index{1} << 20;

/// The parts in which a weight of `columns` columns and `depth` terms is brought into panels.
constexpr cpu::Parts panel_parts(Index columns, Index depth) {
  return {divide_up(columns, panel_width), panel_budget / (panel_width * depth)};
}
/// The parts in which `groups` such weights are.
constexpr cpu::Parts group_parts(Index groups, Index columns, Index depth) {
  return {groups, panel_budget / (round_up(columns, panel_width) * depth)};
}
/// Rows of x that are kept as panels at a time.
constexpr Index chunk_rows(Index rows, Index in) {
  constexpr Index step = 512;  // chunks are multiples of this many rows
  return smaller(rows, larger(2 * step, row_budget / round_up(in, panel_width) / step * step));
}

/// All numbers of a stack of weights: a pointer to the whole, since one into the first item ends with it.
template <class T, class Stack>
HYBRIDMOE_FUNCTION auto numbers(Stack& stack) {
  static_assert(sizeof(stack.item) == sizeof(Stack) && sizeof(stack.item[0].data) == sizeof(stack.item[0]));
  return reinterpret_cast<std::conditional_t<std::is_const_v<Stack>, const T*, T*>>(&stack);
}

constexpr Index scratch_bytes(Index elements, Index size) { return round_up(elements * size, arena_alignment); }

/// dw_g += dy_gᵀ·x_g, chunk of rows by chunk of rows.
template <class Space, class T>
HYBRIDMOE_FUNCTION void add_weight_gradient(const Space& space, Arena arena, Index rows, Index groups, const Index* offset,
                                            Index out, Index in, const T* x, const T* dy, T* dw) {
  const Index most = chunk_rows(rows, in);
  T* const panels = arena.template take<T>(most * round_up(in, panel_width));
  for (Index from = 0; from < rows; from += most) {
    const Index count = smaller(most, rows - from);
    space.each(cpu::StripKernel<T>::items(count, 1), cpu::StripKernel<T>{x + from * in, in, in, count, 0, nullptr, panels});
    cpu::WeightGradientKernel<T> kernel{from, count, out, in, dy, panels, offset, dw};
    const Index items = kernel.plan(groups);
    space.each(items, kernel);
  }
}

}  // namespace matmul

/// Products with one weight W: [out, in]. `rows` is a host value. A space with better kernels specialises this class.
template <class Space, class T, Index out, Index in>
struct Matmul {
  /// Bytes of scratch that any of these functions takes from its arena for at most `rows` rows.
  static constexpr Index workspace_bytes(Index rows, bool training) {
    constexpr Index size = sizeof(T);
    const Index forward = matmul::scratch_bytes(matmul::panel_parts(out, in).size * panel_width * in, size);
    if (!training) return forward;
    const Index input = matmul::scratch_bytes(matmul::panel_parts(in, out).size * panel_width * out, size);
    const Index weight = matmul::scratch_bytes(matmul::chunk_rows(rows, in) * round_up(in, panel_width), size);
    return larger(forward, larger(input, weight));
  }

  /// y[rows, out] = x[rows, in]·Wᵀ (+ bias[out] unless null).
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena arena, Index rows, const T* x, const Array<T, out, in>& w,
                                         const T* bias, T* y) {
    if (rows == 0) return;
    constexpr cpu::Parts parts = matmul::panel_parts(out, in);
    T* const panels = arena.template take<T>(parts.size * panel_width * in);
    for (Index first = 0; first < divide_up(out, panel_width); first += parts.size) {
      const Index count = smaller(parts.size, divide_up(out, panel_width) - first);
      space.each(count, cpu::TransposeKernel<T>{w.data, out, in, first, count, 0, nullptr, panels});
      multiply(space, {rows, in, out, x, panels, first, count, 0, 1, nullptr, bias, false, y});
    }
  }
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena, Index rows, const T* x, const Panels<T, out, in>& w,
                                         const T* bias, T* y) {
    if (rows == 0) return;
    multiply(space, {rows, in, out, x, w.data, 0, divide_up(out, panel_width), 0, 1, nullptr, bias, false, y});
  }

  /// dx[rows, in] += dy[rows, out]·W
  HYBRIDMOE_FUNCTION static void backward_input(const Space& space, Arena arena, Index rows, const T* dy,
                                                const Array<T, out, in>& w, T* dx) {
    if (rows == 0) return;
    constexpr cpu::Parts parts = matmul::panel_parts(in, out);
    T* const panels = arena.template take<T>(parts.size * panel_width * out);
    for (Index first = 0; first < divide_up(in, panel_width); first += parts.size) {
      const Index count = smaller(parts.size, divide_up(in, panel_width) - first), column = first * panel_width;
      space.each(cpu::StripKernel<T>::items(out, 1),
                 cpu::StripKernel<T>{w.data + column, in, smaller(count * panel_width, in - column), out, 0, nullptr, panels});
      multiply(space, {rows, out, in, dy, panels, first, count, 0, 1, nullptr, nullptr, true, dx});
    }
  }

  /// dw[out, in] += dyᵀ·x; dbias[out] += Σ_rows dy unless null.
  HYBRIDMOE_FUNCTION static void backward_weight(const Space& space, Arena arena, Index rows, const T* x, const T* dy,
                                                 Array<T, out, in>& dw, T* dbias) {
    if (rows == 0) return;
    matmul::add_weight_gradient(space, arena, rows, 1, nullptr, out, in, x, dy, dw.data);
    if (dbias != nullptr) {
      using Kernel = cpu::ColumnSumKernel<T>;
      space.each(divide_up(out, Kernel::columns_per_item), Kernel{rows, out, dy, dbias});
    }
  }

  /// The panels of a weight: what `pack` of a model does for each of its weights.
  HYBRIDMOE_FUNCTION static void pack(const Space& space, const Array<T, out, in>& w, Panels<T, out, in>& packed) {
    constexpr Index count = divide_up(out, panel_width);
    space.each(count, cpu::TransposeKernel<T>{w.data, out, in, 0, count, 0, nullptr, packed.data});
  }

 private:
  HYBRIDMOE_FUNCTION static void multiply(const Space& space, cpu::ProductKernel<T> kernel) {
    const Index items = kernel.plan(static_cast<Index>(space.concurrency()));
    space.each(items, kernel);
  }
};

/// Products with `groups` weights; rows offset[g] … offset[g+1]−1 of x belong to group g (offset: [groups + 1], read by the
/// kernels where they run; offset[groups] ≤ rows, which is a host upper bound). Rows beyond offset[groups] are left alone.
template <class Space, class T, Index groups, Index out, Index in>
struct GroupedMatmul {
  static constexpr Index workspace_bytes(Index rows, bool training) {
    constexpr Index size = sizeof(T);
    const Index forward =
        matmul::scratch_bytes(matmul::group_parts(groups, out, in).size * round_up(out, panel_width) * in, size);
    if (!training) return forward;
    const Index input = matmul::scratch_bytes(matmul::group_parts(groups, in, out).size * round_up(in, panel_width) * out, size);
    const Index weight = matmul::scratch_bytes(matmul::chunk_rows(rows, in) * round_up(in, panel_width), size);
    return larger(forward, larger(input, weight));
  }

  /// y[rows, out] = x[rows, in]·W_gᵀ
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena arena, Index rows, const Index* offset, const T* x,
                                         const Stacked<Array<T, out, in>, groups>& w, T* y) {
    if (rows == 0) return;
    constexpr Index count = divide_up(out, panel_width);
    constexpr cpu::Parts parts = matmul::group_parts(groups, out, in);
    T* const panels = arena.template take<T>(parts.size * count * panel_width * in);
    for (Index first = 0; first < groups; first += parts.size) {
      const Index part = smaller(parts.size, groups - first);
      space.each(part * count, cpu::TransposeKernel<T>{matmul::numbers<T>(w), out, in, 0, count, first, offset, panels});
      multiply(space, {rows, in, out, x, panels, 0, count, first, part, offset, nullptr, false, y});
    }
  }
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena, Index rows, const Index* offset, const T* x,
                                         const Stacked<Panels<T, out, in>, groups>& w, T* y) {
    if (rows == 0) return;
    multiply(space,
             {rows, in, out, x, matmul::numbers<T>(w), 0, divide_up(out, panel_width), 0, groups, offset, nullptr, false, y});
  }

  /// dx[rows, in] += dy[rows, out]·W_g
  HYBRIDMOE_FUNCTION static void backward_input(const Space& space, Arena arena, Index rows, const Index* offset, const T* dy,
                                                const Stacked<Array<T, out, in>, groups>& w, T* dx) {
    if (rows == 0) return;
    constexpr Index count = divide_up(in, panel_width);
    constexpr cpu::Parts parts = matmul::group_parts(groups, in, out);
    T* const panels = arena.template take<T>(parts.size * count * panel_width * out);
    for (Index first = 0; first < groups; first += parts.size) {
      const Index part = smaller(parts.size, groups - first);
      space.each(cpu::StripKernel<T>::items(out, part),
                 cpu::StripKernel<T>{matmul::numbers<T>(w), in, in, out, first, offset, panels});
      multiply(space, {rows, out, in, dy, panels, 0, count, first, part, offset, nullptr, true, dx});
    }
  }

  /// dw_g[out, in] += dy_gᵀ·x_g over the rows of each group.
  HYBRIDMOE_FUNCTION static void backward_weight(const Space& space, Arena arena, Index rows, const Index* offset, const T* x,
                                                 const T* dy, Stacked<Array<T, out, in>, groups>& dw) {
    if (rows == 0) return;
    matmul::add_weight_gradient(space, arena, rows, groups, offset, out, in, x, dy, matmul::numbers<T>(dw));
  }

 private:
  HYBRIDMOE_FUNCTION static void multiply(const Space& space, cpu::ProductKernel<T> kernel) {
    const Index items = kernel.plan(static_cast<Index>(space.concurrency()));
    space.each(items, kernel);
  }
};

}  // namespace hybridmoe::ops
