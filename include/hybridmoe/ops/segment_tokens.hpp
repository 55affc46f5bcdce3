#pragma once
/// @file segment_tokens.hpp
/// What segmentation reads of tokens: u_t = RMSNorm(e_t + Σ_{i=1..3} κ_i⊙e_{t−i})⊙gain, and how unlike its neighbour a token
/// is: logits −sharpness·cos(W_q u_t, W_k u_{t−1}) + bias_s of a boundary before it, W_k = W_q + a change. And back.

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/ops/segments.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Earlier embeddings that u looks at.
inline constexpr Index segment_taps = 3;
/// Rows of one item of these kernels.
inline constexpr Index segment_rows = 8;

template <class T>
constexpr T segment_epsilon = T(1e-6);

/// mixed = e + Σ taps·earlier e; u = mixed/rms·gain. One item: segment_rows rows.
template <class T, Index width>
struct SegmentTokenKernel {
  Batch batch;
  NumberedRows<T> embedding;
  const T *taps, *gain;  ///< [segment_taps, width], [width]
  T* mixed;              ///< [rows, width], may be u
  T* u;                  ///< [rows, width]
  T* inverse;            ///< [rows] or null

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row) {
      const Index sequence = batch.row_sequence[row], position = batch.row_position[row];
      T* const m = mixed + row * width;
      const T* const e = embedding.rows + row * width;
      for (Index c = 0; c < width; ++c) m[c] = e[c];
      for (Index i = 1; i <= segment_taps && i <= position; ++i) {
        const T* const earlier = embedding.at(sequence, position - i);
        const T* const tap = taps + (i - 1) * width;
        for (Index c = 0; c < width; ++c) m[c] += tap[c] * earlier[c];
      }
      const T r = T(1) / math::sqrt(sum_of_squares(m, width) / T(width) + segment_epsilon<T>);
      if (inverse != nullptr) inverse[row] = r;
      T* const to = u + row * width;
      for (Index c = 0; c < width; ++c) to[c] = m[c] * r * gain[c];
    }
  }
};

/// What rows take of their own u: x += gain⊙u. One item: segment_rows rows.
template <class T, Index width>
struct UseTokensKernel {
  Index rows;
  const T *gain, *u;
  T* x;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row)
      for (Index c = 0; c < width; ++c) x[row * width + c] += gain[c] * u[row * width + c];
  }
};

/// d: by x·inverse·gain on entry, inverse = 1/rms(x); by x on return.
template <Index size, class T>
HYBRIDMOE_FUNCTION void rms_backward(const T* x, T inverse, const T* gain, T* d) {
  for (Index c = 0; c < size; ++c) d[c] *= gain[c];
  const T along = dot(d, x, size) * inverse * inverse / T(size);
  for (Index c = 0; c < size; ++c) d[c] = inverse * (d[c] - x[c] * along);
}

/// d: by u on entry, by mixed on return. One item: segment_rows rows.
template <class T, Index width>
struct SegmentTokenNormBackward {
  Index rows;
  const T *mixed, *inverse, *gain;
  T* d;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row)
      rms_backward<width>(mixed + row * width, inverse[row], gain, d + row * width);
  }
};

/// d_embedding[t] += d[t] + Σ taps_i·d[t+i]. One item: segment_rows rows. Whole sequences.
template <class T, Index width>
struct SegmentTapsBackward {
  Batch batch;
  const T *taps, *d;
  T* d_embedding;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row) {
      const Index end = batch.begin[batch.row_sequence[row] + 1];
      T* const to = d_embedding + row * width;
      for (Index c = 0; c < width; ++c) to[c] += d[row * width + c];
      for (Index i = 1; i <= segment_taps && row + i < end; ++i) {
        const T* const later = d + (row + i) * width;
        const T* const tap = taps + (i - 1) * width;
        for (Index c = 0; c < width; ++c) to[c] += tap[c] * later[c];
      }
    }
  }
};

/// d[row, column]·e[row − back, column], 0 where the sequence has no such row: the gradient of a tap.
template <class T>
struct TapTerm {
  const Index* position;
  const T *d, *embedding;
  Index width, back;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T operator()(Index row, Index column) const {
    return position[row] < back ? T(0) : d[row * width + column] * embedding[(row - back) * width + column];
  }
};

/// What a boundary before a row is judged by.
template <class T>
struct BoundaryInput {
  const T* query;             ///< [rows, size]: W_q u
  NumberedRows<T> key;        ///< [rows, size]: W_k u
  const T *sharpness, *bias;  ///< [1], [scales]
};

/// cosine[rows] and logit[rows, scales]; 0 at position 0, where nothing is decided. One item: segment_rows rows.
template <class T, Index size>
struct BoundaryKernel {
  Batch batch;
  BoundaryInput<T> input;
  T *cosine, *logit;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    constexpr Index scales = SegmentLimits::scales;
    const Index last = smaller(batch.rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row) {
      const Index position = batch.row_position[row];
      T value = 0;
      if (position > 0) {
        const T* const q = input.query + row * size;
        const T* const k = input.key.at(batch.row_sequence[row], position - 1);
        value = dot(q, k, size) /
                math::sqrt((sum_of_squares(q, size) + segment_epsilon<T>)*(sum_of_squares(k, size) + segment_epsilon<T>));
      }
      cosine[row] = value;
      for (Index s = 0; s < scales; ++s) logit[row * scales + s] = position > 0 ? input.bias[s] - *input.sharpness * value : T(0);
    }
  }
};

/// d_query[rows, size] and d_key (assigned) from d_cosine[rows]; row t answers for its query and for the key that row t + 1
/// compares with. What the query shares with the key is in d_query. One item: segment_rows rows. Whole sequences.
template <class T, Index size>
struct BoundaryBackwardKernel {
  Batch batch;
  BoundaryInput<T> input;
  const T *cosine, *d_cosine;
  T *d_query, *d_key;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row) {
      const Index sequence = batch.row_sequence[row];
      T* const dq = d_query + row * size;
      T* const dk = d_key + row * size;
      const T* const q = input.query + row * size;
      const T* const k = input.key.rows + row * size;
      for (Index c = 0; c < size; ++c) dq[c] = dk[c] = T(0);
      if (row > batch.begin[sequence]) add(d_cosine[row], cosine[row], q, k - size, dq);
      if (row + 1 < batch.begin[sequence + 1]) add(d_cosine[row + 1], cosine[row + 1], k, q + size, dk);
      for (Index c = 0; c < size; ++c) dq[c] += dk[c];
    }
  }

 private:
  /// to += d·∂cos(x, y)/∂x
  HYBRIDMOE_FUNCTION static void add(T d, T cosine, const T* x, const T* y, T* to) {
    if (d == T(0)) return;
    const T square = sum_of_squares(x, size) + segment_epsilon<T>;
    const T cross = d / math::sqrt(square * (sum_of_squares(y, size) + segment_epsilon<T>)), own = d * cosine / square;
    for (Index c = 0; c < size; ++c) to[c] += cross * y[c] - own * x[c];
  }
};

}  // namespace hybridmoe::ops
