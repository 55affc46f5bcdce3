#pragma once
/// @file cross_scale_backward.hpp
/// The gradient of attention to segments; weights are computed again from the stored log of their sum.

#include <hybridmoe/ops/cross_scale.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// One item owns one kv head of one sequence with all queries that read it. Everything is assigned. Whole sequences.
template <class T, int heads, int kv_heads, int size, ScaleKeys keys>
struct CrossScaleBackwardKernel {
  using Input = CrossScaleInput<T, heads, kv_heads, size, keys>;
  static constexpr int group = Input::group, block = Input::block, vectors = Input::vectors;
  static constexpr Index scales = Input::scales;
  Input input;
  const T *key, *out, *log_total, *d_out;  ///< [segments, kv_heads·size], [rows, heads·size], [rows, heads], [rows, heads·size]
  T* d_query;                              ///< [rows, heads·size]
  T *d_key, *d_value;                      ///< [segments, kv_heads·size]
  T* d_omega;                              ///< [segments, kv_heads]
  T* d_emphasis;                           ///< [rows, kv_heads, scales]
  T* d_head;                               ///< [sequences, heads, scales + 1]: by biases and slope

  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * kv_heads; }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index head = item % kv_heads, sequence = item / kv_heads;
    const Batch& batch = input.batch;
    for (Index s = 0; s < scales; ++s) {
      const Index* const first = input.segments.first_of(s, batch.sequences);
      for (Index i = first[sequence]; i < first[sequence + 1]; ++i) {
        d_omega[i * kv_heads + head] = T(0);
        for (int c = 0; c < size; ++c) d_key[(i * kv_heads + head) * size + c] = T(0);
        for (int c = 0; c < size; ++c) d_value[(i * kv_heads + head) * size + c] = T(0);
      }
    }
    T* const own = d_head + (sequence * heads + head * group) * (scales + 1);
    for (Index i = 0; i < group * (scales + 1); ++i) own[i] = T(0);
    for (Index row = batch.begin[sequence]; row < batch.begin[sequence + 1]; row += block)
      rows_of(sequence, head, row, smaller(row + block, batch.begin[sequence + 1]), own);
  }

 private:
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void rows_of(Index sequence, Index head, Index row0, Index row1, T* own) const {
    constexpr Index stride = heads * size;
    const bool all = input.emphasis.gradient != nullptr;  // a scale that weighs nothing may still want to weigh
    const int count = static_cast<int>(row1 - row0) * group;
    T ready[vectors * size], given[vectors * size], d_ready[vectors * size], inner[vectors];
    input.load(row0, row1, head, ready);
    for (int m = 0; m < count; ++m) {
      const Index at = (row0 + m / group) * stride + (head * group + m % group) * size;
      for (int c = 0; c < size; ++c) given[m * size + c] = d_out[at + c];
      for (int c = 0; c < size; ++c) d_ready[m * size + c] = T(0);
      inner[m] = dot<size>(out + at, d_out + at);
    }
    for (Index s = 0; s < scales; ++s) {
      T by_emphasis[block] = {};
      const auto seen = input.seen(s, row0, row1, all);
      const ScaleStore<T, size> store = input.store_of(s, sequence);
      for (Index tile = seen.from / key_tile; tile * key_tile < seen.until; ++tile)
        one_tile(store, s, sequence, tile, seen.from, seen.until, row0, row1, head, all, ready, given, inner, d_ready,
                 by_emphasis, own);
      for (Index row = row0; row < row1; ++row) d_emphasis[(row * kv_heads + head) * scales + s] = by_emphasis[row - row0];
    }
    for (int m = 0; m < count; ++m) {
      T* const to = d_query + (row0 + m / group) * stride + (head * group + m % group) * size;
      for (int c = 0; c < size; ++c) to[c] = d_ready[m * size + c] * input.scale;
    }
  }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void one_tile(const ScaleStore<T, size>& store, Index s, Index sequence, Index tile,
                                                    Index from, Index until, Index row0, Index row1, Index head, bool all,
                                                    const T* ready, const T* given, const T* inner, T* d_ready, T* by_emphasis,
                                                    T* own) const {
    constexpr int width = static_cast<int>(key_tile);
    constexpr Index stride = kv_heads * size;
    const int count = static_cast<int>(row1 - row0) * group;
    const int low = static_cast<int>(larger(0, from - tile * key_tile));
    const int high = static_cast<int>(smaller(key_tile, until - tile * key_tile));
    const Index segment = input.segments.first_of(s, input.batch.sequences)[sequence] + tile * key_tile;
    constexpr T most = 60;  // e^60, and what is summed of it, is far from the end of either type
    T weight[vectors * width], slope[vectors * width], lag[block * width], columns[size * width];
    input.logits(store, s, tile, row0, row1, head, all, ready, weight, width, lag);
    const T* const values = store.value_at(head, tile);
    for (int c = 0; c < size; ++c)
      for (int j = 0; j < width; ++j) columns[c * width + j] = j >= low && j < high ? values[j * size + c] : T(0);
    tile::multiply<T, width>(count, size, given, size, 1, columns, width, slope, width);
    for (int m = 0; m < count; ++m) {
      const Index row = row0 + m / group;
      const T shift = input_total(row, head * group + m % group), e = input.emphasis.at(row, s);
      T* const w = weight + m * width;
      T* const d = slope + m * width;
      T sums[2] = {};
      // e^{−∞} is exactly 0. Keys of a scale whose emphasis is 0 are not in the sum: they may exceed it without bound.
      for (int j = 0; j < width; ++j) w[j] = math::exp(math::select(w[j] - shift > most, most, w[j] - shift));
      for (int j = 0; j < width; ++j) d[j] = w[j] * (d[j] - inner[m]);
      for (int j = 0; j < width; ++j) sums[0] += d[j];
      for (int j = 0; j < width; ++j) sums[1] += d[j] * lag[m / group * width + j];
      by_emphasis[m / group] += sums[0];
      own[m % group * (scales + 1) + s] += e * sums[0];
      own[m % group * (scales + 1) + scales] -= e * sums[1];
      for (int j = 0; j < width; ++j) w[j] *= e;
      for (int j = 0; j < width; ++j) d[j] *= e;
    }
    const int some = high - low;
    const Index at = (segment + low) * stride + head * size;
    for (int j = low; j < high; ++j) {
      T sum = 0;
      for (int m = 0; m < count; ++m) sum += slope[m * width + j];
      d_omega[(segment + j) * kv_heads + head] += sum;
    }
    tile::multiply_add<T, size>(some, count, weight + low, 1, width, given, size, d_value + at, stride);
    tile::multiply_add<T, size>(some, count, slope + low, 1, width, ready, size, d_key + at, stride);
    tile::multiply_add<T, size>(count, some, slope + low, width, 1, key + at, stride, d_ready, size);
  }
  HYBRIDMOE_FUNCTION T input_total(Index row, Index h) const { return log_total[row * heads + h]; }
};

/// segments.d_log_omega += the heads' parts. One item: segment_block segments.
template <class T, int kv_heads>
struct AddOmegaKernel {
  ClosedSegments<T> segments;
  const T* d_omega;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(segments.offset[SegmentLimits::scales], (item + 1) * segment_block);
    for (Index i = item * segment_block; i < last; ++i)
      for (Index h = 0; h < kv_heads; ++h) segments.d_log_omega[i] += d_omega[i * kv_heads + h];
  }
};

/// The emphasis' gradient += the heads' parts. One item: segment_rows rows.
template <class T, int kv_heads>
struct AddEmphasisKernel {
  Index rows;
  Emphasis<T> emphasis;
  const T* d_emphasis;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row)
      for (Index s = 0; s < SegmentLimits::scales; ++s)
        for (Index h = 0; h < kv_heads; ++h) emphasis.add(row, s, d_emphasis[(row * kv_heads + h) * SegmentLimits::scales + s]);
  }
};

/// bias[heads, scales] and slope[heads] += the sequences' parts, in order. One item: a head.
template <class T, int heads>
struct AddHeadsKernel {
  Index sequences;
  const T* d_head;
  T *bias, *slope;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index h) const {
    constexpr Index scales = SegmentLimits::scales;
    for (Index q = 0; q < sequences; ++q) {
      const T* const part = d_head + (q * heads + h) * (scales + 1);
      for (Index s = 0; s < scales; ++s) bias[h * scales + s] += part[s];
      slope[h] += part[scales];
    }
  }
};

}  // namespace hybridmoe::ops
