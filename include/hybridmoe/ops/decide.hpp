#pragma once
/// @file decide.hpp
/// How a controller's network gets what it reads, block by block of a sequence, and how its outputs become fractions.

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/ops/history.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows of one item of kernels that go by rows.
inline constexpr Index decide_block = 32;

/// The rows of a call that lie in block `block` (positions block·size …) of a sequence.
struct BlockRows {
  Index begin, end;  ///< rows of the call

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static BlockRows of(const Batch& batch, Index sequence, Index block, Index size) {
    const Index first = batch.begin[sequence], start = batch.start[sequence], count = batch.begin[sequence + 1] - first;
    const Index from = larger(0, block * size - start), to = smaller(count, (block + 1) * size - start);
    return {first + from, first + to};
  }
};

/// own[row] = value[row], or ½ where there is none.
template <class T>
struct OwnComplexityKernel {
  Index rows;
  const T* value;
  T* own;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * decide_block);
    for (Index row = item * decide_block; row < end; ++row) own[row] = value == nullptr ? T(0.5) : value[row];
  }
};

/// What the network may read; what it may not is replaced by a constant.
struct DecideReads {
  bool context, complexity, budget, target;
};

/// input[rows, 4] = ln(1 + bB)/ln(1 + context), the mean complexity of block b − 1 (½ before the first), β, q.
/// One item: one block of one sequence; blocks_of(longest) items for each sequence.
template <class T, Index size, Index context, Index ring_rows>
struct DecideInputsKernel {
  Batch batch;
  Index blocks;  ///< items per sequence
  DecideReads reads;
  History<T, 1, ring_rows> complexity;
  const T *budget, *target;  ///< [rows], null: 1
  T* input;

  /// A piece of so many rows reaches into so many blocks, wherever it starts.
  HYBRIDMOE_FUNCTION static constexpr Index blocks_of(Index longest) { return divide_up(longest, size) + 1; }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index sequence = item / blocks, block = batch.start[sequence] / size + item % blocks;
    const BlockRows rows = BlockRows::of(batch, sequence, block, size);
    if (rows.begin >= rows.end) return;
    T mean = T(0.5);
    if (block > 0 && reads.complexity) {
      const Past<T, 1, ring_rows> past = complexity.of(batch, sequence);
      T sum = 0;
      for (Index p = (block - 1) * size; p < block * size; ++p) sum += *past[p];
      mean = sum / static_cast<T>(size);
    }
    const T length = reads.context
                         ? static_cast<T>(math::log(1.0 + static_cast<double>(block * size)) / math::log(1.0 + double{context}))
                         : T(0.5);
    for (Index row = rows.begin; row < rows.end; ++row) {
      T* const to = input + row * 4;
      to[0] = length;
      to[1] = mean;
      to[2] = budget == nullptr || !reads.budget ? T(1) : math::within_unit(budget[row]);
      to[3] = target == nullptr || !reads.target ? T(1) : math::within_unit(target[row]);
    }
  }
};

/// Adds to the gradient of block b − 1's complexities what block b's inputs got. Whole sequences. Items as above.
template <class T, Index size>
struct DecideInputsBackwardKernel {
  Batch batch;
  Index blocks;
  const T* d_input;
  T* d_complexity;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index sequence = item / blocks, block = batch.start[sequence] / size + item % blocks;
    const BlockRows to = BlockRows::of(batch, sequence, block, size), from = BlockRows::of(batch, sequence, block + 1, size);
    if (to.begin >= to.end || from.begin >= from.end) return;
    T sum = 0;
    for (Index row = from.begin; row < from.end; ++row) sum += d_input[row * 4 + 1];
    for (Index row = to.begin; row < to.end; ++row) d_complexity[row] += sum / static_cast<T>(size);
  }
};

/// Outputs o of a network as decisions, in place: per layer [window, experts, slices: σ(o + 3); two weights of attention: hs(o);
/// norm: o], then emphasis of scales: hs(o). hs(o) = clamp(1.2·σ(o + 2) − 0.1, 0, 1) reaches 0 and 1, and is no constant at 0.
template <class T, Index layers, Index fields, Index scales>
struct DecideKernel {
  static constexpr Index columns = layers * fields + scales;
  static_assert(fields == 6);
  Index rows;
  T* value;
  T* d;  ///< zeroed unless null

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * decide_block);
    for (Index row = item * decide_block; row < end; ++row) {
      T* const v = value + row * columns;
      for (Index l = 0; l < layers; ++l) {
        for (Index i = 0; i < 3; ++i) v[l * fields + i] = math::sigmoid(v[l * fields + i] + T(3));
        for (Index i = 3; i < 5; ++i) v[l * fields + i] = hard(v[l * fields + i]);
      }
      for (Index i = layers * fields; i < columns; ++i) v[i] = hard(v[i]);
      if (d != nullptr)
        for (Index i = 0; i < columns; ++i) d[row * columns + i] = T(0);
    }
  }

 private:
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static T hard(T o) {
    const T v = T(1.2) * math::sigmoid(o + T(2)) - T(0.1);
    return v < T(0) ? T(0) : v > T(1) ? T(1) : v;
  }
};

/// d becomes the gradient by o.
template <class T, Index layers, Index fields, Index scales>
struct DecideBackwardKernel {
  static constexpr Index columns = layers * fields + scales;
  Index rows;
  const T* value;
  T* d;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * decide_block);
    for (Index row = item * decide_block; row < end; ++row) {
      const T* const v = value + row * columns;
      T* const to = d + row * columns;
      for (Index l = 0; l < layers; ++l) {
        for (Index i = l * fields; i < l * fields + 3; ++i) to[i] *= v[i] * (T(1) - v[i]);
        for (Index i = l * fields + 3; i < l * fields + 5; ++i) to[i] *= hard_slope(v[i]);
      }
      for (Index i = layers * fields; i < columns; ++i) to[i] *= hard_slope(v[i]);
    }
  }

 private:
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static T hard_slope(T v) {
    const T s = (v + T(0.1)) / T(1.2);
    return v > T(0) && v < T(1) ? T(1.2) * s * (T(1) - s) : T(0);
  }
};

}  // namespace hybridmoe::ops
