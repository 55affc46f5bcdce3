#pragma once
/// @file segment_pool.hpp
/// A segment's vector from its children: pooled = Σ softmax(query·child) child, then a product, then RMSNorm with a gain; the
/// kernels around that product, and back. The number of segments is read where the kernels run.

#include <hybridmoe/ops/segment_tokens.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Segments of one item of these kernels.
inline constexpr Index segment_block = 8;

/// Softmax over the children of each segment of a scale, and their weighted sum. One item: segment_block segments.
template <class T, Index size, Index most>
struct PoolKernel {
  ClosedSegments<T> segments;
  Index scale;
  NumberedRows<T> child;  ///< rows of `size`
  const T* query;         ///< [size]
  T* pooled;              ///< [segments, size]
  T* share;               ///< each child's weight, by the child's row; or null

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index begin = segments.offset[scale] + item * segment_block;
    const Index end = smaller(segments.offset[scale + 1], begin + segment_block);
    for (Index i = begin; i < end; ++i) {
      const Index count = segments.children[i], sequence = segments.sequence[i], number = segments.child[i];
      T weight[most];
      T top = math::lowest<T>, total = 0;
      for (Index j = 0; j < count; ++j) {
        weight[j] = dot(child.at(sequence, number + j), query, size);
        top = weight[j] > top ? weight[j] : top;
      }
      for (Index j = 0; j < count; ++j) {
        weight[j] = math::exp(weight[j] - top);
        total += weight[j];
      }
      T* const to = pooled + i * size;
      for (Index c = 0; c < size; ++c) to[c] = T(0);
      for (Index j = 0; j < count; ++j) {
        const T* const from = child.at(sequence, number + j);
        const T w = weight[j] / total;
        for (Index c = 0; c < size; ++c) to[c] += w * from[c];
        if (share != nullptr) share[(from - child.rows) / size] = w;
      }
    }
  }
};

/// d_child += ∂; slope[child] = ∂ by the child's score (children of no closed segment: left alone). One item: segment_block
/// segments. Whole sequences, so that all children lie in the call.
template <class T, Index size>
struct PoolBackwardKernel {
  ClosedSegments<T> segments;
  Index scale;
  NumberedRows<T> child;
  const T *query, *pooled, *share, *d_pooled;
  T *d_child, *slope;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index begin = segments.offset[scale] + item * segment_block;
    const Index end = smaller(segments.offset[scale + 1], begin + segment_block);
    for (Index i = begin; i < end; ++i) {
      const T* const d = d_pooled + i * size;
      const T mean = dot(d, pooled + i * size, size);
      for (Index j = 0; j < segments.children[i]; ++j) {
        const T* const from = child.at(segments.sequence[i], segments.child[i] + j);
        const Index row = (from - child.rows) / size;
        const T w = share[row], s = w * (dot(d, from, size) - mean);
        slope[row] = s;
        T* const to = d_child + row * size;
        for (Index c = 0; c < size; ++c) to[c] += w * d[c] + s * query[c];
      }
    }
  }
};

/// vector = raw/rms(raw)·gain of the segments of a scale; inverse[segments] = 1/rms. One item: segment_block segments.
template <class T, Index size>
struct SegmentNormKernel {
  ClosedSegments<T> segments;
  Index scale;
  const T *raw, *gain;
  T* inverse;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index begin = segments.offset[scale] + item * segment_block;
    const Index end = smaller(segments.offset[scale + 1], begin + segment_block);
    for (Index i = begin; i < end; ++i) {
      const T* const from = raw + i * size;
      T* const to = segments.vector + i * size;
      const T r = T(1) / math::sqrt(sum_of_squares(from, size) / T(size) + segment_epsilon<T>);
      inverse[i] = r;
      for (Index c = 0; c < size; ++c) to[c] = from[c] * r * gain[c];
    }
  }
};

/// d_raw (assigned) from segments.d_vector. One item: segment_block segments.
template <class T, Index size>
struct SegmentNormBackwardKernel {
  ClosedSegments<T> segments;
  Index scale;
  const T *raw, *inverse, *gain;
  T* d_raw;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index begin = segments.offset[scale] + item * segment_block;
    const Index end = smaller(segments.offset[scale + 1], begin + segment_block);
    for (Index i = begin; i < end; ++i) {
      T* const d = d_raw + i * size;
      for (Index c = 0; c < size; ++c) d[c] = segments.d_vector[i * size + c];
      rms_backward<size>(raw + i * size, inverse[i], gain, d);
    }
  }
};

}  // namespace hybridmoe::ops
