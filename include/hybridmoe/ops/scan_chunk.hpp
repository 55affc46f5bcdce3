#pragma once
/// @file scan_chunk.hpp
/// What the kernels of the chunked scan share: sizes as a type, a sequence's state, the fixed grid of chunks, and the steps and
/// decays of one head in one chunk.

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/core/tensor.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// `heads` heads of `head` channels, each with a matrix [state, head]; the heads of a group share B and C. Chunks are the
/// positions [c·chunk, (c+1)·chunk) of a sequence, wherever calls begin and end.
template <int heads_, int head_, int state_, int groups_, int chunk_>
struct ScanSizes {
  static_assert(heads_ > 0 && head_ > 0 && state_ > 0 && groups_ > 0, "a scan's sizes must be positive");
  static_assert(heads_ % groups_ == 0, "the groups must divide the heads");
  static_assert(chunk_ > 0 && chunk_ % 8 == 0, "the chunk length must be a multiple of 8");
  static constexpr int heads = heads_, head = head_, state = state_, groups = groups_, chunk = chunk_;
  static constexpr int inner = heads * head, shared = groups * state, per_group = heads / groups, matrix = state * head;
  /// Rows and columns of the blocks that triangular products are cut into.
  static constexpr int block = chunk % 16 == 0 ? 16 : 8;
  /// Positions that are weighed together when a chunk joins the matrix.
  static constexpr int batch = chunk % 32 == 0 ? 32 : block;
};

/// What a sequence carries. Only `matrix` is read at a multiple of the chunk length; position 0 reads nothing, so a state needs
/// no initialisation. All of it lies where the position says: a sequence may go back within its current chunk by starting its
/// next call there.
template <class T, class Sizes>
struct ScanState {
  Array<T, Sizes::heads, Sizes::state, Sizes::head> matrix;  ///< at the last multiple of the chunk length
  Array<T, Sizes::heads, Sizes::chunk, Sizes::head> x;       ///< the inputs since then
  Array<T, Sizes::groups, Sizes::state, Sizes::chunk> b;
  Array<T, Sizes::heads, Sizes::chunk> step;
  Array<T, Sizes::heads, Sizes::chunk> decay;  ///< log decay from the chunk's begin up to and with each position
};

/// The part of a call's rows that lies in one chunk.
template <int length>
struct ScanChunk {
  Index chunk = 0;         ///< its number in the sequence
  int first = 0, end = 0;  ///< the call's rows in it, counted from the chunk's begin; first = end: none
  Index row = 0;           ///< row of the batch of position `first`
  bool later = false;      ///< the call has an earlier row in an earlier chunk

  /// Chunk `k` of those that sequence s touches in this call.
  HYBRIDMOE_FUNCTION static ScanChunk at(const Batch& batch, Index s, Index k, bool stateful) {
    const Index rows = batch.begin[s + 1] - batch.begin[s], start = stateful ? batch.start[s] : 0;
    ScanChunk result;
    result.chunk = start / length + k;
    const Index from = result.chunk * length;
    result.later = k > 0;
    result.first = static_cast<int>(k > 0 ? 0 : start - from);
    result.end = static_cast<int>(smaller(length, start + rows - from));
    result.row = batch.begin[s] + (k > 0 ? from - start : 0);
    if (result.end < result.first) result.end = result.first;
    return result;
  }
  HYBRIDMOE_FUNCTION bool empty() const { return first == end; }
  HYBRIDMOE_FUNCTION int rows() const { return end - first; }
  /// Bᵀ of such a chunk is gathered in the state at once; of others in scratch, since the state may still be needed.
  HYBRIDMOE_FUNCTION bool in_state(bool stateful) const { return stateful && !later && (first > 0 || end < length); }

  /// Upper bounds for planning and for `each`: chunks that one sequence can touch, and distinct slots() of a batch.
  HYBRIDMOE_FUNCTION static constexpr Index most(Index longest) { return (longest + length - 2) / length + 1; }
  HYBRIDMOE_FUNCTION static constexpr Index slots(Index rows, Index sequences) { return rows / length + 2 * sequences; }
  /// A number below slots() that no other chunk of the batch has.
  HYBRIDMOE_FUNCTION static Index slot(const Batch& batch, Index s, Index k) { return batch.begin[s] / length + 2 * s + k; }
};

/// What the scan reads; row r of each pointer is at pointer + r·stride.
template <class T>
struct ScanInput {
  const T* step = nullptr;  ///< [heads] per row: Δ before bias and softplus
  Index step_stride = 0;
  const T* values = nullptr;  ///< per row: x [heads, head] | B [groups, state] | C [groups, state]
  Index values_stride = 0;
  const T* step_bias = nullptr;  ///< [heads]
  const T* decay_log = nullptr;  ///< [heads] log(−A)
  const T* skip = nullptr;       ///< [heads] D
};

/// softplus(x) = log(1 + eˣ), x itself above 20. (u−1 is the eˣ that log(u) is for; their ratio mends the rounding of u.)
template <class T>
HYBRIDMOE_FUNCTION T softplus(T x) {
  if (x > T(20)) return x;
  const T e = math::exp(x), u = T(1) + e;
  return u == T(1) ? e : math::log(u) * (e / (u - T(1)));
}

/// step[i] and decay[i] for first ≤ i < end of head h; decay[first − 1] is read where first > 0. The rest up to `chunk` is
/// zeroed: blocks are computed whole, and what comes of a missing position is never used.
template <class T, class Sizes>
HYBRIDMOE_FUNCTION void scan_steps(const ScanInput<T>& input, const ScanChunk<Sizes::chunk>& chunk, int h, T* step, T* decay) {
  const T rate = -math::exp(input.decay_log[h]), bias = input.step_bias[h];
  const T* raw = input.step + chunk.row * input.step_stride + h;
  T sum = chunk.first > 0 ? decay[chunk.first - 1] : T(0);
  for (int i = chunk.first; i < chunk.end; ++i, raw += input.step_stride) {
    step[i] = softplus(*raw + bias);
    sum += step[i] * rate;
    decay[i] = sum;
  }
  for (int i = chunk.end; i < Sizes::chunk; ++i) step[i] = decay[i] = T(0);
}

}  // namespace hybridmoe::ops
