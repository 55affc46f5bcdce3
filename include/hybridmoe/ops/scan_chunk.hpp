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
  Array<T, Sizes::heads, Sizes::chunk> decay;  ///< log decay from the begin of the position's block up to and with it
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

/// log(1 + t) for 0 ≤ t ≤ 1. Float: 2·artanh(t/(2 + t)) by its series (the argument is at most 1/3), which a loop vectorises.
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE float scan_log1p(float t) {
  const float s = t / (2.0f + t), square = s * s;
  float p = 1.0f / 15.0f;
  p = p * square + 1.0f / 13.0f;
  p = p * square + 1.0f / 11.0f;
  p = p * square + 1.0f / 9.0f;
  p = p * square + 1.0f / 7.0f;
  p = p * square + 1.0f / 5.0f;
  p = p * square + 1.0f / 3.0f;
  return 2.0f * (s * square * p + s);
}
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE double scan_log1p(double t) { return ::log1p(t); }

/// log(1 + eˣ), and x itself above 20.
template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T softplus(T x) {
  const T size = math::select(x < T(0), -x, x), smooth = math::select(x < T(0), T(0), x) + scan_log1p(math::exp(-size));
  return math::select(x > T(20), x, smooth);
}

/// step[i] = Δ_i and decay[i] = A·(Δ of i's block up to and with i), for first ≤ i < end of head h; what came before is read
/// where first > 0. (Sums over whole chunks would lose digits in the differences that neighbours need.) The rest of the chunk is
/// zeroed: blocks are computed whole, and what comes of a missing position is never used.
template <class T, class Sizes>
HYBRIDMOE_FUNCTION void scan_steps(const ScanInput<T>& input, const ScanChunk<Sizes::chunk>& chunk, int h, T* step, T* decay) {
  const T rate = -math::exp(input.decay_log[h]), bias = input.step_bias[h];
  const T* raw = input.step + chunk.row * input.step_stride + h;
  for (int i = chunk.first; i < chunk.end; ++i) step[i] = raw[(i - chunk.first) * input.step_stride];
  for (int i = chunk.first; i < chunk.end; ++i) step[i] = softplus(step[i] + bias);
  for (int i = chunk.first; i < chunk.end; ++i) {
    const T before = i % Sizes::block == 0 ? T(0) : decay[i - 1];
    decay[i] = before + step[i] * rate;
  }
  for (int i = chunk.end; i < Sizes::chunk; ++i) step[i] = decay[i] = T(0);
}

/// beyond[j] = e^{Σ A Δ over the positions after j and before `base`}, for j < base, a block's begin.
template <class T, class Sizes>
HYBRIDMOE_FUNCTION void scan_fade(int base, const T* decay, T* beyond) {
  T between = 0;
  for (int b = base - Sizes::block; b >= 0; b -= Sizes::block) {
    const T whole = decay[b + Sizes::block - 1];
    for (int l = 0; l < Sizes::block; ++l) beyond[b + l] = math::exp(between + (whole - decay[b + l]));
    between += whole;
  }
}

/// kept[i] = e^{Σ A Δ from the chunk's begin up to and with i}, for first ≤ i < end; returns that over the chunk if end is its
/// end.
template <class T, class Sizes>
HYBRIDMOE_FUNCTION T scan_kept(int first, int end, const T* decay, T* kept) {
  T before = 0;
  for (int b = 0; b < end; b += Sizes::block) {
    if (b + Sizes::block > first) {
      for (int l = 0; l < Sizes::block; ++l) kept[b + l] = math::exp(before + decay[b + l]);
    }
    before += decay[b + Sizes::block - 1];
  }
  return math::exp(before);
}

}  // namespace hybridmoe::ops
