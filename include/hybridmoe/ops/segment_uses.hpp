#pragma once
/// @file segment_uses.hpp
/// What each row takes of the segments last closed before it: x_t += Σ_s ε_s f_{s,t} z_s, z_s = W'_s (γ_s⊙) v_s, and the vectors
/// of phrase and sentence. With normalisation across scales f_{s,t} = r_s^{−α_s} ρ_t^{α_s−1}, r_s² = mean v_s² + 10⁻⁶,
/// ρ_t² = mean of r_s² over the scales present at t; else f = 1. And back.

#include <hybridmoe/ops/segment_pool.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// The emphasis ε of the scales: [rows, …] with rows `stride` apart, or null for 1.
template <class T>
struct Emphasis {
  const T* value = nullptr;  ///< row 0's first scale
  T* gradient = nullptr;     ///< added to; null where nobody wants it
  Index stride = 0;

  HYBRIDMOE_FUNCTION T at(Index row, Index scale) const { return value == nullptr ? T(1) : value[row * stride + scale]; }
  HYBRIDMOE_FUNCTION void add(Index row, Index scale, T d) const {
    if (gradient != nullptr) gradient[row * stride + scale] += d;
  }
};

/// The emphasis at the end of the rows of a stream of decisions (layer/side.hpp's StreamRows).
template <class T>
HYBRIDMOE_FUNCTION Emphasis<T> emphasis_of(const auto& decisions) {
  const Index at = decisions.width - SegmentLimits::scales;
  return {decisions.value == nullptr ? nullptr : decisions.value + at,
          decisions.gradient == nullptr ? nullptr : decisions.gradient + at, decisions.width};
}

/// What rows take, by scale and number; the square of a segment is r².
template <class T>
struct SegmentUses {
  static constexpr Index scales = SegmentLimits::scales;
  const SegmentCount* count;  ///< [rows]
  NumberedRows<T> output[scales], square[scales], vector[scales - 1];
  const T* exponent;  ///< [scales] α, or null: f = 1
};

/// f of each scale that is present, by squares of the present scales: log f = ½((α−1) log ρ² − α log r²).
template <class T>
struct ScaleFactors {
  static constexpr Index scales = SegmentLimits::scales;
  T square[scales] = {}, log_square[scales] = {}, factor[scales] = {};
  T mean = 0, log_mean = 0;
  Index present = 0;

  HYBRIDMOE_FUNCTION ScaleFactors(const SegmentUses<T>& uses, Index row, Index sequence) {
    for (Index s = 0; s < scales && uses.count[row].closed[s] > 0; ++s) {
      ++present;
      factor[s] = T(1);
      if (uses.exponent == nullptr) continue;
      square[s] = *uses.square[s].at(sequence, uses.count[row].closed[s] - 1);
      log_square[s] = math::log(square[s]);
      mean += square[s];
    }
    if (uses.exponent == nullptr || present == 0) return;
    mean /= T(present);
    log_mean = math::log(mean);
    for (Index s = 0; s < present; ++s)
      factor[s] = math::exp(T(0.5) * ((uses.exponent[s] - T(1)) * log_mean - uses.exponent[s] * log_square[s]));
  }
};

/// square[segments] = mean v² + ε, and scaled = γ_s⊙v. One item: segment_block segments.
template <class T, Index size>
struct ScaleSegmentsKernel {
  ClosedSegments<T> segments;
  const T* gain;  ///< [scales, size]
  T *square, *scaled;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(segments.offset[SegmentLimits::scales], (item + 1) * segment_block);
    for (Index i = item * segment_block; i < end; ++i) {
      const T* const v = segments.vector + i * size;
      const T* const g = gain + segments.scale_of(i) * size;
      square[i] = sum_of_squares(v, size) / T(size) + segment_epsilon<T>;
      for (Index c = 0; c < size; ++c) scaled[i * size + c] = v[c] * g[c];
    }
  }
};

/// d_vector += γ_s⊙d_scaled + d_square·2v/size. One item: segment_block segments.
template <class T, Index size>
struct ScaleSegmentsBackwardKernel {
  ClosedSegments<T> segments;
  const T *gain, *d_scaled, *d_square;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(segments.offset[SegmentLimits::scales], (item + 1) * segment_block);
    for (Index i = item * segment_block; i < end; ++i) {
      const T* const v = segments.vector + i * size;
      const T* const g = gain + segments.scale_of(i) * size;
      const T slope = d_square[i] * T(2) / T(size);
      for (Index c = 0; c < size; ++c) segments.d_vector[i * size + c] += g[c] * d_scaled[i * size + c] + slope * v[c];
    }
  }
};

/// x += …, context. One item: segment_rows rows.
template <class T, Index width, Index size>
struct UseSegmentsKernel {
  static constexpr Index scales = SegmentLimits::scales;
  Batch batch;
  SegmentUses<T> uses;
  Emphasis<T> emphasis;
  T *x, *context;  ///< [rows, width], [rows, 2·size]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row) {
      const Index sequence = batch.row_sequence[row];
      const ScaleFactors<T> factors(uses, row, sequence);
      for (Index s = 0; s < factors.present; ++s) {
        const T w = emphasis.at(row, s) * factors.factor[s];
        if (w == T(0)) continue;
        const T* const z = uses.output[s].at(sequence, uses.count[row].closed[s] - 1);
        for (Index c = 0; c < width; ++c) x[row * width + c] += w * z[c];
      }
      for (Index s = 0; s < scales - 1; ++s) {
        T* const to = context + (row * (scales - 1) + s) * size;
        if (s < factors.present) {
          const T* const v = uses.vector[s].at(sequence, uses.count[row].closed[s] - 1);
          for (Index c = 0; c < size; ++c) to[c] = v[c];
        } else {
          for (Index c = 0; c < size; ++c) to[c] = T(0);
        }
      }
    }
  }
};

/// By rows: weight = ε·f, d ε, and with normalisation d_square[rows, scales] and d_exponent[rows, scales], each row's part. One
/// item: segment_rows rows.
template <class T, Index width>
struct UseSegmentsBackwardKernel {
  static constexpr Index scales = SegmentLimits::scales;
  Batch batch;
  SegmentUses<T> uses;
  Emphasis<T> emphasis;
  const T* dx;
  T *weight, *d_square, *d_exponent;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * segment_rows);
    for (Index row = item * segment_rows; row < last; ++row) {
      const Index sequence = batch.row_sequence[row];
      const ScaleFactors<T> factors(uses, row, sequence);
      T slope[scales] = {}, d_log_mean = 0;  // slope: by log f
      for (Index s = 0; s < scales; ++s) {
        weight[row * scales + s] = emphasis.at(row, s) * factors.factor[s];
        if (s >= factors.present) continue;
        const T* const z = uses.output[s].at(sequence, uses.count[row].closed[s] - 1);
        const T along = dot(dx + row * width, z, width) * factors.factor[s];
        emphasis.add(row, s, along);
        slope[s] = along * emphasis.at(row, s);
      }
      if (uses.exponent == nullptr) continue;
      for (Index s = 0; s < factors.present; ++s) d_log_mean += T(0.5) * (uses.exponent[s] - T(1)) * slope[s];
      for (Index s = 0; s < scales; ++s) {
        const bool there = s < factors.present;
        d_exponent[row * scales + s] = there ? T(0.5) * slope[s] * (factors.log_mean - factors.log_square[s]) : T(0);
        d_square[row * scales + s] =
            there ? d_log_mean / (factors.mean * T(factors.present)) - T(0.5) * uses.exponent[s] * slope[s] / factors.square[s]
                  : T(0);
      }
    }
  }
};

/// By segments, over the rows for which each is the last of its scale: d_output (assigned), d_vector += from the context,
/// d_square[segments] (assigned, unless null). One item: a segment. Whole sequences.
template <class T, Index width, Index size>
struct GatherUsesKernel {
  static constexpr Index scales = SegmentLimits::scales;
  Batch batch;
  ClosedSegments<T> segments;
  const T *weight, *dx, *d_context, *row_d_square;
  T *d_output, *d_square;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index i) const {
    if (i >= segments.offset[scales]) return;
    const Index scale = segments.scale_of(i), sequence = segments.sequence[i];
    const bool latest = i + 1 == segments.first_of(scale, batch.sequences)[sequence + 1];
    const Index end = latest ? batch.begin[sequence + 1] : segments.row[i + 1];
    T* const to = d_output + i * width;
    T sum = 0;
    for (Index c = 0; c < width; ++c) to[c] = T(0);
    for (Index row = segments.row[i]; row < end; ++row) {
      const T w = weight[row * scales + scale];
      if (w != T(0))
        for (Index c = 0; c < width; ++c) to[c] += w * dx[row * width + c];
      if (row_d_square != nullptr) sum += row_d_square[row * scales + scale];
      if (scale + 1 == scales) continue;
      const T* const d = d_context + (row * (scales - 1) + scale) * size;
      for (Index c = 0; c < size; ++c) segments.d_vector[i * size + c] += d[c];
    }
    if (d_square != nullptr) d_square[i] = sum;
  }
};

}  // namespace hybridmoe::ops
