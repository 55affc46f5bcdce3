#pragma once
/// @file scan.hpp
/// The state-space duality of Mamba-2 (Dao and Gu 2024) in chunks, forward. Per head, with Δ = softplus(step + bias), A =
/// −e^decay_log:
///
///   S_t = e^{Δ_t A} S_{t−1} + Δ_t B_t ⊗ x_t        y_t = S_tᵀ C_t + D x_t
///
/// computed, with L_i = A(Δ_first + … + Δ_i) summed from the chunk's begin and S the matrix there, as
///
///   y_i = e^{L_i} Sᵀ C_i + Σ_{j≤i} (C_i·B_j) e^{L_i−L_j} Δ_j x_j + D x_i        (j in the chunk)
///
/// Each row sums in one order, whichever rows share its call.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/scan_chunk.hpp>
#include <hybridmoe/ops/tile.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// The state of sequence s.
template <class Kernel>
HYBRIDMOE_FUNCTION auto* scan_state(const Kernel& kernel, Index s) {
  using State = std::remove_reference_t<decltype(*kernel.state)>;
  return reinterpret_cast<State*>(reinterpret_cast<std::byte*>(kernel.state) + kernel.batch.slot[s] * kernel.state_stride);
}

/// Where Bᵀ of a chunk lies, [groups, state, chunk].
template <class Kernel, class Chunk>
HYBRIDMOE_FUNCTION auto scan_turned(const Kernel& kernel, const Chunk& chunk, Index s, Index k) -> decltype(kernel.turned) {
  if (chunk.in_state(kernel.state != nullptr)) return scan_state(kernel, s)->b.data;
  return kernel.turned + Chunk::slot(kernel.batch, s, k) * decltype(kernel.state->b)::size;
}

/// One item: a group of a chunk. Turns the new rows of B and takes their products with C: scores[row, group, j] = C_row·B_j
/// for all j of the chunk up to the row (and rubbish beyond).
template <class T, class Sizes>
struct ScanScoreKernel {
  using Chunk = ScanChunk<Sizes::chunk>;
  Batch batch;
  ScanInput<T> input;
  Index chunks;  ///< at most, per sequence
  ScanState<T, Sizes>* state;
  Index state_stride;  ///< in bytes
  T* turned;           ///< [slots, groups, state, chunk] Bᵀ
  T* scores;           ///< [rows, groups, chunk]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    constexpr int length = Sizes::chunk, block = Sizes::block;
    const Index group = item % Sizes::groups, k = item / Sizes::groups % chunks, s = item / Sizes::groups / chunks;
    const Chunk chunk = Chunk::at(batch, s, k, state != nullptr);
    if (chunk.empty()) return;
    T* const bt = scan_turned(*this, chunk, s, k) + group * Sizes::state * length;
    const T* const b = input.values + chunk.row * input.values_stride + Sizes::inner + group * Sizes::state;
    const T* const c = b + Sizes::shared;
    for (int i = chunk.first; i < chunk.end; ++i) {
      for (int n = 0; n < Sizes::state; ++n) bt[n * length + i] = b[(i - chunk.first) * input.values_stride + n];
    }
    for (int i = chunk.first; i < chunk.end;) {
      const int next = (i / block + 1) * block, end = next < chunk.end ? next : chunk.end;
      T* const to = scores + ((chunk.row + i - chunk.first) * Sizes::groups + group) * length;
      for (int j = 0; j < end; j += block) {
        tile::multiply<T, block>(end - i, Sizes::state, c + (i - chunk.first) * input.values_stride, input.values_stride, 1,
                                 bt + j, length, to + j, Sizes::groups * length);
      }
      i = end;
    }
  }
};

/// One item: a head of a sequence, chunk after chunk. Rows of y, then the matrix of the next chunk.
template <class T, class Sizes>
struct ScanKernel {
  using Chunk = ScanChunk<Sizes::chunk>;
  static constexpr int length = Sizes::chunk, head = Sizes::head, block = Sizes::block;
  /// Elements of scratch that one item needs without a state: x, step and decay of a chunk.
  static constexpr Index item_elements = length * (head + 2);
  Batch batch;
  ScanInput<T> input;
  ScanState<T, Sizes>* state;
  Index state_stride;
  const T* turned;
  const T* scores;
  T* items;   ///< [sequences·heads, item_elements] without states
  T* matrix;  ///< [slots, heads, state, head] the matrix at each chunk's begin, without states
  T* y;       ///< [rows, heads, head]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index s = item / Sizes::heads;
    const int h = static_cast<int>(item % Sizes::heads);
    const bool stateful = state != nullptr;
    T* const x = stateful ? scan_state(*this, s)->x.data + h * length * head : items + item * item_elements;
    T* const step = stateful ? scan_state(*this, s)->step.data + h * length : x + length * head;
    T* const decay = stateful ? scan_state(*this, s)->decay.data + h * length : step + length;
    for (Index k = 0;; ++k) {
      const Chunk chunk = Chunk::at(batch, s, k, stateful);
      if (chunk.empty()) return;
      const Index slot = Chunk::slot(batch, s, k) * Sizes::heads + h;
      T* const here = stateful ? scan_state(*this, s)->matrix.data + h * Sizes::matrix : matrix + slot * Sizes::matrix;
      const T* const old = chunk.chunk > 0 ? here : nullptr;
      scan_steps<T, Sizes>(input, chunk, h, step, decay);
      for (int i = chunk.first; i < chunk.end; ++i) {
        const T* const from = input.values + (chunk.row + i - chunk.first) * input.values_stride + h * head;
        for (int p = 0; p < head; ++p) x[i * head + p] = from[p];
      }
      rows(chunk, h, old, x, step, decay);
      if (chunk.end < length || (!stateful && Chunk::at(batch, s, k + 1, false).empty())) return;
      const T* const bt = scan_turned(*this, chunk, s, k) + h / Sizes::per_group * Sizes::state * length;
      advance(bt, x, step, decay, old, stateful ? here : here + Sizes::heads * Sizes::matrix);
    }
  }

  HYBRIDMOE_FUNCTION void rows(const Chunk& chunk, int h, const T* old, const T* x, const T* step, const T* decay) const {
    const Index group = h / Sizes::per_group;
    T* const to = y + chunk.row * Sizes::inner + h * head;
    if (old != nullptr) {
      const T* const c = input.values + chunk.row * input.values_stride + Sizes::inner + Sizes::shared + group * Sizes::state;
      tile::multiply<T, head>(chunk.rows(), Sizes::state, c, input.values_stride, 1, old, head, to, Sizes::inner);
    }
    T weight[block * length], beyond[length];
    if (old != nullptr) scan_kept<T, Sizes>(chunk.first, chunk.end, decay, beyond);
    for (int i = chunk.first; i < chunk.end; ++i) {
      T* const row = to + (i - chunk.first) * Sizes::inner;
      for (int p = 0; p < head; ++p) row[p] = old != nullptr ? row[p] * beyond[i] : T(0);
    }
    // The decay between two rows goes through the begin of the later one's block, so that most pairs cost no exponential.
    for (int i = chunk.first; i < chunk.end;) {
      const int base = i / block * block, end = base + block < chunk.end ? base + block : chunk.end;
      scan_fade<T, Sizes>(base, decay, beyond);
      for (int j = 0; j < base; ++j) beyond[j] *= step[j];
      for (int r = i; r < end; ++r) {
        const T* const score = scores + ((chunk.row + r - chunk.first) * Sizes::groups + group) * length;
        T* const to_weight = weight + (r - i) * length;
        const T own = decay[r], within = math::exp(own);
        for (int j = 0; j < base; ++j) to_weight[j] = score[j] * (within * beyond[j]);
        for (int j = base; j < base + block; ++j) to_weight[j] = score[j] * math::exp(own - decay[j]) * step[j];
      }
      T* const row = to + (i - chunk.first) * Sizes::inner;
      tile::multiply_add<T, head>(end - i, base, weight, length, 1, x, head, row, Sizes::inner);
      for (int r = i; r < end; ++r) {
        T* const own = row + (r - i) * Sizes::inner;
        tile::multiply_add<T, head>(1, r - base + 1, weight + (r - i) * length + base, length, 1, x + base * head, head, own,
                                    Sizes::inner);
        for (int p = 0; p < head; ++p) own[p] += input.skip[h] * x[r * head + p];
      }
      i = end;
    }
  }

  /// next[n, p] = e^{L_end} old[n, p] + Σ_j B_j[n] (e^{L_end − L_j} Δ_j x_j[p]); old null: 0. next may be old.
  HYBRIDMOE_FUNCTION static void advance(const T* bt, const T* x, const T* step, const T* decay, const T* old, T* next) {
    T beyond[length];
    const T kept = scan_kept<T, Sizes>(0, length, decay, beyond);
    scan_fade<T, Sizes>(length, decay, beyond);
    for (int m = 0; m < Sizes::matrix; ++m) next[m] = old != nullptr ? old[m] * kept : T(0);
    T weighed[Sizes::batch * head];
    for (int j = 0; j < length; j += Sizes::batch) {
      for (int r = 0; r < Sizes::batch; ++r) {
        const T weight = beyond[j + r] * step[j + r];
        for (int p = 0; p < head; ++p) weighed[r * head + p] = weight * x[(j + r) * head + p];
      }
      tile::multiply_add<T, head>(Sizes::state, Sizes::batch, bt + j, length, 1, weighed, head, next, head);
    }
  }
};

/// One item: a group of a sequence. Where the call ends inside a chunk whose Bᵀ was gathered in scratch, takes it into the state.
template <class T, class Sizes>
struct ScanKeepKernel {
  using Chunk = ScanChunk<Sizes::chunk>;
  Batch batch;
  ScanState<T, Sizes>* state;
  Index state_stride;
  const T* turned;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index s = item / Sizes::groups, group = item % Sizes::groups;
    const Index rows = batch.begin[s + 1] - batch.begin[s], start = batch.start[s];
    if (rows == 0) return;
    const Index k = (start + rows - 1) / Sizes::chunk - start / Sizes::chunk;
    const Chunk chunk = Chunk::at(batch, s, k, true);
    if (chunk.in_state(true) || chunk.end == Sizes::chunk) return;
    const Index offset = group * Sizes::state * Sizes::chunk;
    const T* const from = turned + Chunk::slot(batch, s, k) * decltype(state->b)::size + offset;
    T* const to = scan_state(*this, s)->b.data + offset;
    for (int n = 0; n < Sizes::state; ++n) {
      for (int j = 0; j < chunk.end; ++j) to[n * Sizes::chunk + j] = from[n * Sizes::chunk + j];
    }
  }
};

/// What forward leaves for backward, and for itself.
template <class T, class Sizes>
struct ScanTape {
  T* scores = nullptr;  ///< [rows, groups, chunk]
  T* matrix = nullptr;  ///< [slots, heads, state, head], in training
  HYBRIDMOE_FUNCTION constexpr ScanTape(auto& arena, Extent e)
      : scores(arena.template take<T>(e.rows * Sizes::groups * Sizes::chunk)) {
    if (e.training)
      matrix = arena.template take<T>(ScanChunk<Sizes::chunk>::slots(e.rows, e.sequences) * Sizes::heads * Sizes::matrix);
  }
};

/// Scratch of forward.
template <class T, class Sizes>
struct ScanScratch {
  T* turned = nullptr;
  T* items = nullptr;
  HYBRIDMOE_FUNCTION constexpr ScanScratch(auto& arena, Extent e)
      : turned(arena.template take<T>(ScanChunk<Sizes::chunk>::slots(e.rows, e.sequences) * Sizes::shared * Sizes::chunk)) {
    if (e.training) items = arena.template take<T>(e.sequences * Sizes::heads * ScanKernel<T, Sizes>::item_elements);
  }
};

/// The scan, forward.
template <class Space, class T, class Sizes>
struct Scan {
  using State = ScanState<T, Sizes>;

  /// y[rows, heads, head] =. With states (slot s at state + s·state_stride bytes) sequences continue at batch.start; without,
  /// they are whole (training). Takes ScanScratch from the arena.
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena arena, const Batch& batch, const ScanInput<T>& input,
                                         State* state, Index state_stride, const ScanTape<T, Sizes>& tape, T* y) {
    HYBRIDMOE_ASSERT(state != nullptr || tape.matrix != nullptr);
    const ScanScratch<T, Sizes> scratch(arena, Extent::of(batch, state == nullptr));
    const Index chunks = ScanChunk<Sizes::chunk>::most(batch.longest);
    space.each(batch.sequences * chunks * Sizes::groups,
               ScanScoreKernel<T, Sizes>{batch, input, chunks, state, state_stride, scratch.turned, tape.scores});
    space.each(batch.sequences * Sizes::heads, ScanKernel<T, Sizes>{batch, input, state, state_stride, scratch.turned,
                                                                    tape.scores, scratch.items, tape.matrix, y});
    if (state != nullptr && batch.longest > 1) {
      space.each(batch.sequences * Sizes::groups, ScanKeepKernel<T, Sizes>{batch, state, state_stride, scratch.turned});
    }
  }
};

}  // namespace hybridmoe::ops
