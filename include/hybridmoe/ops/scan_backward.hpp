#pragma once
/// @file scan_backward.hpp
/// The chunked scan's gradients. With dS′ the gradient by the matrix at a chunk's end, S the matrix at its begin,
/// E_ij = e^{L_i−L_j}, w_j = e^{L_end−L_j} Δ_j, sums over j ≤ i of one chunk:
///
///   s_ij  = C_i·B_j                          M_ij = s_ij E_ij Δ_j
///   dM_ij = dy_i·x_j                         ds_ij = Σ_heads dM_ij E_ij Δ_j
///   dx_j  = Σ_i M_ij dy_i + D dy_j + w_j dS′ᵀ B_j
///   dC_i  = Σ_j ds_ij B_j + Σ_heads e^{L_i} S dy_i
///   dB_j  = Σ_i ds_ij C_i + Σ_heads w_j dS′ x_j
///   dS    = e^{L_end} dS′ + Σ_i e^{L_i} C_i ⊗ dy_i
///
/// and the derivatives by Δ and L beside them. The matrices' gradients come first, a head of a sequence an item, last chunk
/// first; then every group of every chunk is an item of its own that walks its heads in order.

#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/ops/scan.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Where the scan's gradients go; strides as ScanInput.
template <class T>
struct ScanGradient {
  T* step = nullptr;  ///< = by Δ before bias and softplus
  Index step_stride = 0;
  T* values = nullptr;  ///< = by x | B | C
  Index values_stride = 0;
  T *step_bias = nullptr, *decay_log = nullptr, *skip = nullptr;  ///< += [heads] each
};

/// One item: a head of a sequence. carried[slot] = ∂ by the matrix at the chunk's begin, for all chunks but the first.
template <class T, class Sizes>
struct ScanCarryKernel {
  using Chunk = ScanChunk<Sizes::chunk>;
  static constexpr int length = Sizes::chunk, head = Sizes::head;
  Batch batch;
  ScanInput<T> input;
  const T* dy;  ///< [rows, heads, head]
  T* carried;   ///< [slots, heads, state, head]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index s = item / Sizes::heads;
    const int h = static_cast<int>(item % Sizes::heads);
    const Index rows = batch.begin[s + 1] - batch.begin[s], last = divide_up(rows, length) - 1;
    T step[length], decay[length], kept[length], weighed[Sizes::batch * head];
    for (Index k = last; k > 0; --k) {
      const Chunk chunk = Chunk::at(batch, s, k, false);
      scan_steps<T, Sizes>(input, chunk, h, step, decay);
      T* const to = carried + (Chunk::slot(batch, s, k) * Sizes::heads + h) * Sizes::matrix;
      const T* const from = to + Sizes::heads * Sizes::matrix;
      const T whole = scan_kept<T, Sizes>(0, chunk.end, decay, kept);
      for (int m = 0; m < Sizes::matrix; ++m) to[m] = k == last ? T(0) : from[m] * whole;
      const T* const c =
          input.values + chunk.row * input.values_stride + Sizes::inner + Sizes::shared + h / Sizes::per_group * Sizes::state;
      for (int j = 0; j < chunk.end; j += Sizes::batch) {
        const int count = Sizes::batch < chunk.end - j ? Sizes::batch : chunk.end - j;
        for (int r = 0; r < count; ++r) {
          const T* const row = dy + (chunk.row + j + r) * Sizes::inner + h * head;
          for (int p = 0; p < head; ++p) weighed[r * head + p] = kept[j + r] * row[p];
        }
        tile::multiply_add<T, head>(Sizes::state, count, c + j * input.values_stride, 1, input.values_stride, weighed, head, to,
                                    head);
      }
    }
  }
};

/// One item: a group of a chunk.
template <class T, class Sizes>
struct ScanGradientKernel {
  using Chunk = ScanChunk<Sizes::chunk>;
  static constexpr int length = Sizes::chunk, head = Sizes::head, states = Sizes::state, block = Sizes::block;
  Batch batch;
  ScanInput<T> input;
  Index chunks;      ///< at most, per sequence
  const T* scores;   ///< of forward
  const T* matrix;   ///< of forward
  const T* carried;  ///< of ScanCarryKernel
  const T* dy;
  ScanGradient<T> gradient;
  T* items;     ///< [slots, groups, item_elements]
  T* partials;  ///< [slots, 2, heads]: ∂ by decay_log and skip

  /// The scratch of an item.
  struct Work {
    T *x, *xt, *dy, *dyt;    // of one head: [chunk, head] and turned
    T *m, *dm;               // [chunk, chunk]
    T* turned;               // [state, chunk]: a head's share of dC or dB
    T *ct, *dct, *dbt, *ds;  // of the group: Cᵀ, dCᵀ, dBᵀ [state, chunk], ds [chunk, chunk]
    static constexpr Index elements = 4 * length * head + 3 * length * length + 4 * states * length;
    HYBRIDMOE_FUNCTION explicit Work(T* base)
        : x(base),
          xt(x + length * head),
          dy(xt + length * head),
          dyt(dy + length * head),
          m(dyt + length * head),
          dm(m + length * length),
          turned(dm + length * length),
          ct(turned + states * length),
          dct(ct + states * length),
          dbt(dct + states * length),
          ds(dbt + states * length) {}
  };
  static constexpr Index item_elements = Work::elements;

  /// Of one head.
  struct Line {
    T step[length], decay[length], d_step[length], d_decay[length];
    T kept[length], beyond[length], whole;  // decay since the chunk's begin, until its end, over all of it
  };

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const int group = static_cast<int>(item % Sizes::groups);
    const Index k = item / Sizes::groups % chunks, s = item / Sizes::groups / chunks;
    const Chunk chunk = Chunk::at(batch, s, k, false);
    if (chunk.empty()) return;
    const bool ended = Chunk::at(batch, s, k + 1, false).empty();
    const Index slot = Chunk::slot(batch, s, k);
    const Work work(items + (slot * Sizes::groups + group) * item_elements);
    const T* const b = input.values + chunk.row * input.values_stride + Sizes::inner + group * states;
    const T* const c = b + Sizes::shared;
    turn<states>(c, input.values_stride, chunk.end, work.ct);
    for (int i = 0; i < states * length; ++i) work.dct[i] = work.dbt[i] = T(0);
    for (int i = 0; i < length * length; ++i) work.ds[i] = T(0);
    for (int h = group * Sizes::per_group; h < (group + 1) * Sizes::per_group; ++h) {
      const Index at = (slot * Sizes::heads + h) * Sizes::matrix;
      const T* const old = k > 0 ? matrix + at : nullptr;
      const T* const d_next = ended ? nullptr : carried + at + Sizes::heads * Sizes::matrix;
      Line line;
      scan_steps<T, Sizes>(input, chunk, h, line.step, line.decay);
      line.whole = scan_kept<T, Sizes>(0, length, line.decay, line.kept);
      scan_fade<T, Sizes>(length, line.decay, line.beyond);
      for (int i = 0; i < length; ++i) line.d_step[i] = line.d_decay[i] = T(0);
      gather(input.values + chunk.row * input.values_stride + h * head, input.values_stride, chunk.end, work.x, work.xt);
      gather(dy + chunk.row * Sizes::inner + h * head, Sizes::inner, chunk.end, work.dy, work.dyt);
      pairs(chunk, group, line, work);
      inputs(chunk, h, b, d_next, line, work);
      if (old != nullptr) from_matrix(old, line, work);
      if (d_next != nullptr) into_matrix(chunk, old, d_next, line, work);
      finish(chunk, h, line, work, partials + slot * 2 * Sizes::heads + h);
    }
    T* const db = gradient.values + chunk.row * gradient.values_stride + Sizes::inner + group * states;
    T* const dc = db + Sizes::shared;
    for (int i = 0; i < chunk.end; ++i) {
      for (int n = 0; n < states; ++n) {
        db[i * gradient.values_stride + n] = work.dbt[n * length + i];
        dc[i * gradient.values_stride + n] = work.dct[n * length + i];
      }
    }
    for (int i = 0; i < chunk.end; i += block) {
      const int end = i + block < chunk.end ? i + block : chunk.end;
      tile::multiply_add<T, states>(end - i, end, work.ds + i * length, length, 1, b, input.values_stride,
                                    dc + i * gradient.values_stride, gradient.values_stride);
      tile::multiply_add<T, states>(end - i, chunk.end - i, work.ds + i * length + i, 1, length, c + i * input.values_stride,
                                    input.values_stride, db + i * gradient.values_stride, gradient.values_stride);
    }
  }

  /// turned[n, i] = from[i, n] for the chunk's rows, and 0 beyond them.
  template <int columns>
  HYBRIDMOE_FUNCTION static void turn(const T* from, Index stride, int rows, T* turned) {
    for (int n = 0; n < columns; ++n) {
      for (int i = 0; i < rows; ++i) turned[n * length + i] = from[i * stride + n];
      for (int i = rows; i < length; ++i) turned[n * length + i] = T(0);
    }
  }
  HYBRIDMOE_FUNCTION static void gather(const T* from, Index stride, int rows, T* to, T* turned) {
    for (int i = 0; i < rows; ++i) {
      for (int p = 0; p < head; ++p) to[i * head + p] = from[i * stride + p];
    }
    turn<head>(to, head, rows, turned);
  }

  /// dM, M, ds, and what they say about Δ and L. As in forward, decays go through the begin of a block.
  HYBRIDMOE_FUNCTION void pairs(const Chunk& chunk, int group, Line& line, const Work& work) const {
    T beyond[length], column[length] = {}, score[block], fade[block];
    for (int base = 0; base < chunk.end; base += block) {
      const int end = base + block < chunk.end ? base + block : chunk.end;
      for (int j = 0; j < base + block; j += block) {
        tile::multiply<T, block>(end - base, head, work.dy + base * head, head, 1, work.xt + j, length,
                                 work.dm + base * length + j, length);
      }
      scan_fade<T, Sizes>(base, line.decay, beyond);
      for (int i = base; i < end; ++i) {
        const T* const own_scores = scores + ((chunk.row + i) * Sizes::groups + group) * length;
        T *const m = work.m + i * length, *const ds = work.ds + i * length;
        const T* const dm = work.dm + i * length;
        const T own = line.decay[i];
        T lane[block] = {};
        pair_row(base, own_scores, dm, beyond, line.step, math::exp(own), m, ds, column, lane);
        for (int l = 0; l < block; ++l) {
          const T any = math::exp(own - line.decay[base + l]);
          fade[l] = math::select(base + l < i, any, T(0));
          score[l] = math::select(base + l < i, own_scores[base + l], T(0));
        }
        pair_row(block, score, dm + base, fade, line.step + base, T(1), m + base, ds + base, column + base, lane);
        line.d_decay[i] += tree(lane);
        m[i] = own_scores[i] * line.step[i];  // a row with itself knows no decay: nothing that would have to cancel
        ds[i] += dm[i] * line.step[i];
        line.d_step[i] += dm[i] * own_scores[i];
      }
    }
    for (int j = 0; j < length; ++j) {
      line.d_step[j] += column[j];
      line.d_decay[j] -= column[j] * line.step[j];
    }
  }

  /// Pairs of one row with `count` positions, a multiple of `block`, whose e^{L_i−L_j} is within·beyond[j].
  HYBRIDMOE_FUNCTION static void pair_row(int count, const T* __restrict__ score, const T* __restrict__ dm,
                                          const T* __restrict__ beyond, const T* __restrict__ step, T within, T* __restrict__ m,
                                          T* __restrict__ ds, T* __restrict__ column, T* __restrict__ lane) {
    for (int j = 0; j < count; j += block) {
      for (int l = 0; l < block; ++l) {
        const T fade = within * beyond[j + l], by_step = dm[j + l] * (score[j + l] * fade);
        m[j + l] = score[j + l] * fade * step[j + l];
        ds[j + l] += dm[j + l] * (fade * step[j + l]);
        column[j + l] += by_step;
        lane[l] += by_step * step[j + l];
      }
    }
  }

  HYBRIDMOE_FUNCTION static T tree(T (&lane)[block]) {
    for (int width = block / 2; width > 0; width /= 2) {
      for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    }
    return lane[0];
  }

  /// dx, and what the matrix's share of it says about Δ and L.
  HYBRIDMOE_FUNCTION void inputs(const Chunk& chunk, int h, const T* b, const T* d_next, Line& line, const Work& work) const {
    T* const dx = gradient.values + chunk.row * gradient.values_stride + h * head;
    const Index stride = gradient.values_stride;
    const int rows = chunk.end;
    if (d_next != nullptr) {
      tile::multiply<T, head>(rows, states, b, input.values_stride, 1, d_next, head, dx, stride);
      for (int j = 0; j < rows; ++j) {
        const T fade = line.beyond[j], weight = fade * line.step[j], along = dot(dx + j * stride, work.x + j * head, head);
        line.d_step[j] += fade * along;
        if (j < length - 1) {
          line.d_decay[j] -= weight * along;
          line.d_decay[length - 1] += weight * along;
        }
        for (int p = 0; p < head; ++p) dx[j * stride + p] *= weight;
      }
    } else {
      for (int j = 0; j < rows; ++j) {
        for (int p = 0; p < head; ++p) dx[j * stride + p] = T(0);
      }
    }
    for (int j = 0; j < rows; j += block) {
      const int end = j + block < rows ? j + block : rows;
      tile::multiply_add<T, head>(end - j, rows - j, work.m + j * length + j, 1, length, work.dy + j * head, head,
                                  dx + j * stride, stride);
    }
    for (int j = 0; j < rows; ++j) {
      for (int p = 0; p < head; ++p) dx[j * stride + p] += input.skip[h] * work.dy[j * head + p];
    }
  }

  /// dC through the matrix at the chunk's begin.
  HYBRIDMOE_FUNCTION static void from_matrix(const T* old, Line& line, const Work& work) {
    tile::multiply<T, length>(states, head, old, head, 1, work.dyt, length, work.turned, length);
    for (int n = 0; n < states; ++n)
      add_share(line.kept, work.turned + n * length, work.ct + n * length, work.dct + n * length, line.d_decay);
  }

  HYBRIDMOE_FUNCTION static void add_share(const T* __restrict__ kept, const T* __restrict__ turned, const T* __restrict__ ct,
                                           T* __restrict__ dct, T* __restrict__ d_decay) {
    for (int i = 0; i < length; ++i) {
      const T share = kept[i] * turned[i];
      dct[i] += share;
      d_decay[i] += share * ct[i];
    }
  }

  /// dB through the matrix at the chunk's end, and the decay of the matrix over the chunk.
  HYBRIDMOE_FUNCTION static void into_matrix(const Chunk&, const T* old, const T* d_next, Line& line, const Work& work) {
    T weight[length];
    for (int j = 0; j < length; ++j) weight[j] = line.beyond[j] * line.step[j];
    tile::multiply<T, length>(states, head, d_next, head, 1, work.xt, length, work.turned, length);
    for (int n = 0; n < states; ++n) {
      for (int j = 0; j < length; ++j) work.dbt[n * length + j] += weight[j] * work.turned[n * length + j];
    }
    if (old != nullptr) line.d_decay[length - 1] += line.whole * dot(d_next, old, Sizes::matrix);
  }

  /// From Δ and L to what the parameters and the projection see.
  HYBRIDMOE_FUNCTION void finish(const Chunk& chunk, int h, const Line& line, const Work& work, T* partial) const {
    const T rate = -math::exp(input.decay_log[h]), bias = input.step_bias[h];
    T after = 0, rate_sum = 0, skip_sum = 0;
    for (int i = chunk.end - 1; i >= 0; --i) {
      after += line.d_decay[i];  // L_m for all m ≥ i contain Δ_i A
      rate_sum += after * line.step[i];
      const T raw = input.step[(chunk.row + i) * input.step_stride + h] + bias;
      const T slope = raw > T(20) ? T(1) : math::sigmoid(raw);
      gradient.step[(chunk.row + i) * gradient.step_stride + h] = (line.d_step[i] + after * rate) * slope;
      skip_sum += dot(work.dy + i * head, work.x + i * head, head);
    }
    partial[0] = rate_sum * rate;  // A = −e^decay_log: its derivative is A
    partial[Sizes::heads] = skip_sum;
  }
};

/// One item: a head. Its sums over chunks and rows, in order.
template <class T, class Sizes>
struct ScanSumKernel {
  using Chunk = ScanChunk<Sizes::chunk>;
  Batch batch;
  const T* partials;
  ScanGradient<T> gradient;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index h) const {
    T decay_log = gradient.decay_log[h], skip = gradient.skip[h], step_bias = gradient.step_bias[h];
    for (Index s = 0; s < batch.sequences; ++s) {
      const Index chunks = divide_up(batch.begin[s + 1] - batch.begin[s], Sizes::chunk);
      for (Index k = 0; k < chunks; ++k) {
        const T* const partial = partials + Chunk::slot(batch, s, k) * 2 * Sizes::heads;
        decay_log += partial[h];
        skip += partial[Sizes::heads + h];
      }
    }
    for (Index row = 0; row < batch.rows; ++row) step_bias += gradient.step[row * gradient.step_stride + h];
    gradient.decay_log[h] = decay_log;
    gradient.skip[h] = skip;
    gradient.step_bias[h] = step_bias;
  }
};

/// Scratch of backward.
template <class T, class Sizes>
struct ScanBackwardScratch {
  static constexpr Index slots(Extent e) { return ScanChunk<Sizes::chunk>::slots(e.rows, e.sequences); }
  T *carried, *items, *partials;
  HYBRIDMOE_FUNCTION constexpr ScanBackwardScratch(auto& arena, Extent e)
      : carried(arena.template take<T>(slots(e) * Sizes::heads * Sizes::matrix)),
        items(arena.template take<T>(slots(e) * Sizes::groups * ScanGradientKernel<T, Sizes>::item_elements)),
        partials(arena.template take<T>(slots(e) * 2 * Sizes::heads)) {}
};

/// The scan, backward; a training batch. Takes ScanBackwardScratch from the arena.
template <class Space, class T, class Sizes>
HYBRIDMOE_FUNCTION void scan_backward(const Space& space, Arena arena, const Batch& batch, const ScanInput<T>& input,
                                      const ScanTape<T, Sizes>& tape, const T* dy, const ScanGradient<T>& gradient) {
  const ScanBackwardScratch<T, Sizes> scratch(arena, Extent::of(batch, true));
  const Index chunks = ScanChunk<Sizes::chunk>::most(batch.longest);
  space.each(batch.sequences * Sizes::heads, ScanCarryKernel<T, Sizes>{batch, input, dy, scratch.carried});
  space.each(batch.sequences * chunks * Sizes::groups,
             ScanGradientKernel<T, Sizes>{batch, input, chunks, tape.scores, tape.matrix, scratch.carried, dy, gradient,
                                          scratch.items, scratch.partials});
  space.each(Sizes::heads, ScanSumKernel<T, Sizes>{batch, scratch.partials, gradient});
}

}  // namespace hybridmoe::ops
