#pragma once
/// @file squash.hpp
/// One number in (0, 1) from a few features: c = σ(speed·(Σ_i w_i·φ̂_i + b)), φ̂_i = (φ_i − mean_i)/√(variance_i + 10⁻³). The
/// features are constants: backward reaches w and b, and leaves for mean and variance how far they are from the call's own.

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows of one item.
inline constexpr Index squash_block = 64;

template <class T, Index features>
struct Squash {
  const T *mean, *variance, *weight, *bias;
  T speed;  ///< how much faster c moves than w and b

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T inverse_deviation(Index i) const {
    const T v = variance[i] < T(0) ? T(0) : variance[i];  // NaN stays
    return T(1) / math::sqrt(v + T(1e-3));
  }
};

/// value[rows]; zeroes d[rows] unless null.
template <class T, Index features>
struct SquashKernel {
  Index rows;
  Squash<T, features> squash;
  const T* feature;
  T *value, *d;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    T inverse[features];
    for (Index i = 0; i < features; ++i) inverse[i] = squash.inverse_deviation(i);
    const Index end = smaller(rows, (item + 1) * squash_block);
    for (Index row = item * squash_block; row < end; ++row) {
      T sum = squash.bias[0];
      for (Index i = 0; i < features; ++i)
        sum += squash.weight[i] * ((feature[row * features + i] - squash.mean[i]) * inverse[i]);
      value[row] = math::sigmoid(squash.speed * sum);
      if (d != nullptr) d[row] = T(0);
    }
  }
};

/// Item i < features: weight i; item features: the bias; then the means, then the variances, whose error is scaled by
/// `controlled`. Timing::source(t) is the position whose features row t shows.
template <class T, Index features, class Timing>
struct SquashBackwardKernel {
  static constexpr Index items = 3 * features + 1;
  Batch batch;
  Squash<T, features> squash;
  T controlled;
  const T *feature, *value, *d;
  T *d_weight, *d_bias, *d_mean, *d_variance;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    if (item <= features) {
      const bool is_bias = item == features;
      const T mean = is_bias ? T(0) : squash.mean[item], inverse = is_bias ? T(1) : squash.inverse_deviation(item);
      T sum = 0;
      for (Index row = 0; row < batch.rows; ++row) {
        const Index position = batch.row_position[row], source = row - (position - Timing::source(position));
        const T slope = squash.speed * d[row] * value[row] * (T(1) - value[row]);
        sum += slope * (is_bias ? T(1) : (feature[source * features + item] - mean) * inverse);
      }
      (is_bias ? *d_bias : d_weight[item]) += sum;
      return;
    }
    const Index i = (item - features - 1) % features;
    const bool is_mean = item < 2 * features + 1;
    T sum = 0;
    for (Index row = 0; row < batch.rows; ++row) {
      const T off = feature[row * features + i] - squash.mean[i];
      sum += is_mean ? -off : squash.variance[i] - off * off;
    }
    (is_mean ? d_mean[i] : d_variance[i]) += controlled * sum / static_cast<T>(larger(1, batch.rows));
  }
};

/// value[row] = own[the row at Timing::source of its position]; zeroes d[rows] unless null. One item: squash_block rows.
template <class T, class Timing, class History>
struct RetimeKernel {
  Batch batch;
  History own;
  T *value, *d;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(batch.rows, (item + 1) * squash_block);
    for (Index row = item * squash_block; row < end; ++row) {
      value[row] = *own.of(batch, batch.row_sequence[row])[Timing::source(batch.row_position[row])];
      if (d != nullptr) d[row] = T(0);
    }
  }
};

}  // namespace hybridmoe::ops
