#pragma once
/// @file dispatch.hpp
/// Tokens sorted to experts, moved there and combined again. No padding, no dropped token, no atomics, and every count stays
/// where the kernels run. The order is a stable sort (by expert, then by row), so it does not depend on how items are shared.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/cpu/vector.hpp>
#include <hybridmoe/ops/elementwise.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows that one item counts or fills, and rows that one item moves.
inline constexpr Index dispatch_block = 256;
inline constexpr Index move_block = 32;

template <Index experts, Index most>
struct CountExpertsKernel {
  Index rows;
  const Index* expert;
  Index* before;  // [blocks, experts]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    Index count[experts] = {};
    const Index end = smaller(rows, (block + 1) * dispatch_block);
    for (Index row = block * dispatch_block; row < end; ++row)
      for (Index i = 0; i < most && expert[row * most + i] >= 0; ++i) ++count[expert[row * most + i]];
    for (Index e = 0; e < experts; ++e) before[block * experts + e] = count[e];
  }
};

template <Index experts>
struct CountBeforeKernel {
  Index blocks;
  Index *before, *total;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index e) const {
    Index sum = 0;
    for (Index block = 0; block < blocks; ++block) {
      const Index count = before[block * experts + e];
      before[block * experts + e] = sum;
      sum += count;
    }
    total[e] = sum;
  }
};

template <Index experts, Index most>
struct FillPlacesKernel {
  Index rows;
  const Index *expert, *before, *total;
  Index *offset, *source, *place;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    Index next[experts];
    Index sum = 0;
    for (Index e = 0; e < experts; ++e) {
      next[e] = sum + before[block * experts + e];
      if (block == 0) offset[e] = sum;
      sum += total[e];
    }
    if (block == 0) offset[experts] = sum;
    const Index end = smaller(rows, (block + 1) * dispatch_block);
    for (Index row = block * dispatch_block; row < end; ++row) {
      Index i = 0;
      for (; i < most && expert[row * most + i] >= 0; ++i) {
        const Index at = next[expert[row * most + i]]++;
        place[row * most + i] = at;
        source[at] = row;
      }
      for (; i < most; ++i) place[row * most + i] = -1;
    }
  }
};

/// Sorts (row, slot) pairs by expert. `expert` is [rows, most]: each row's experts ascending, unused tail −1.
template <class Space, Index experts, Index most>
struct Dispatch {
  HYBRIDMOE_FUNCTION static constexpr Index blocks(Index rows) { return larger(1, divide_up(rows, dispatch_block)); }

  struct Scratch {
    Index *before, *total;
    HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows)
        : before(arena.template take<Index>(blocks(rows) * experts)), total(arena.template take<Index>(experts)) {}
  };
  HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Index rows) { return planned_bytes<Scratch>(rows); }

  /// Assigned: offset[experts + 1], where expert e owns the places offset[e] … offset[e + 1] − 1; source[place], the row there
  /// (rows·most entries, the first offset[experts] written); place[rows, most], −1 where a slot is unused.
  HYBRIDMOE_FUNCTION static void sort(const Space& space, Arena arena, Index rows, const Index* expert, Index* offset,
                                      Index* source, Index* place) {
    const Scratch scratch(arena, rows);
    space.each(blocks(rows), CountExpertsKernel<experts, most>{rows, expert, scratch.before});
    space.each(experts, CountBeforeKernel<experts>{blocks(rows), scratch.before, scratch.total});
    space.each(blocks(rows), FillPlacesKernel<experts, most>{rows, expert, scratch.before, scratch.total, offset, source, place});
  }
};

template <class T, Index width>
struct GatherKernel {
  const Index *places, *source;
  const T* x;
  T* gathered;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(*places, (block + 1) * move_block);
    for (Index at = block * move_block; at < end; ++at) {
      const T* from = x + source[at] * width;
      T* to = gathered + at * width;
      for (Index c = 0; c < width; ++c) to[c] = from[c];
    }
  }
};

template <class T, Index width>
struct ClearKernel {
  const Index* places;
  T* y;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(*places, (block + 1) * move_block);
    for (Index i = block * move_block * width; i < end * width; ++i) y[i] = 0;
  }
};

template <class T, Index width, Index most, bool add>
struct CombineKernel {
  Index rows;
  const Index* place;
  const T* weight;  // null: weights of one
  const T* out;
  T* y;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(rows, (block + 1) * move_block);
    for (Index row = block * move_block; row < end; ++row) {
      T* to = y + row * width;
      if constexpr (!add) cpu::clear<width>(to);
      for (Index i = 0; i < most && place[row * most + i] >= 0; ++i) {
        const T* from = out + place[row * most + i] * width;
        const T w = weight == nullptr ? T(1) : weight[row * most + i];
        for (Index c = 0; c < width; ++c) to[c] += w * from[c];
      }
    }
  }
};

template <class T, Index width, Index most>
struct CombineBackwardKernel {
  Index rows;
  const Index* place;
  const T *weight, *out, *dy;
  T *dout, *dweight;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(rows, (block + 1) * move_block);
    for (Index row = block * move_block; row < end; ++row) {
      const T* from = dy + row * width;
      Index i = 0;
      for (; i < most && place[row * most + i] >= 0; ++i) {
        const Index at = place[row * most + i];
        const T w = weight[row * most + i];
        T* to = dout + at * width;
        for (Index c = 0; c < width; ++c) to[c] = w * from[c];
        dweight[row * most + i] = dot(from, out + at * width, width);
      }
      for (; i < most; ++i) dweight[row * most + i] = 0;
    }
  }
};

/// Moves rows [rows, width] to their experts' places and back, by the tables of Dispatch. `places` points at the number of
/// places in use, Dispatch's offset[experts]; later places are neither read nor written.
template <class Space, class T, Index width, Index most>
struct ExpertRows {
  /// gathered[place] = x[source[place]]
  HYBRIDMOE_FUNCTION static void gather(const Space& space, Index rows, const Index* places, const Index* source, const T* x,
                                        T* gathered) {
    space.each(divide_up(rows * most, move_block), GatherKernel<T, width>{places, source, x, gathered});
  }
  /// y[place] = 0
  HYBRIDMOE_FUNCTION static void clear(const Space& space, Index rows, const Index* places, T* y) {
    space.each(divide_up(rows * most, move_block), ClearKernel<T, width>{places, y});
  }
  /// dx[row] += Σ dgathered[place] over the row's slots, in the order of expert numbers.
  HYBRIDMOE_FUNCTION static void gather_backward(const Space& space, Index rows, const Index* place, const T* dgathered, T* dx) {
    space.each(divide_up(rows, move_block), CombineKernel<T, width, most, true>{rows, place, nullptr, dgathered, dx});
  }
  /// y[row] = Σ weight[row, slot]·out[place] in the order of expert numbers (zero where a row has no expert); += if `add`.
  template <bool add>
  HYBRIDMOE_FUNCTION static void combine(const Space& space, Index rows, const Index* place, const T* weight, const T* out,
                                         T* y) {
    space.each(divide_up(rows, move_block), CombineKernel<T, width, most, add>{rows, place, weight, out, y});
  }
  /// dout[place] = weight·dy[row]; dweight[row, slot] = dy[row]·out[place] (0 for unused slots).
  HYBRIDMOE_FUNCTION static void combine_backward(const Space& space, Index rows, const Index* place, const T* weight,
                                                  const T* out, const T* dy, T* dout, T* dweight) {
    space.each(divide_up(rows, move_block), CombineBackwardKernel<T, width, most>{rows, place, weight, out, dy, dout, dweight});
  }
};

}  // namespace hybridmoe::ops
