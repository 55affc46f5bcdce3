#pragma once
/// @file adaptive_norm.hpp
/// A norm whose strength is a number per row, and whose gain follows the row's budget, forward and backward. Per row x of `width`
/// elements:
///
///   r = √(Σx²/width + ε)     α = ½ + ½σ(a + b(2c − 1) + shift)     γ = weight + (1 − β)·by_budget     y = γ ⊙ x·r^{−α}
///
/// with c, shift and β given per row. α = 1 is RMSNorm, and then has its bits: r^{−α} is formed as r^{−1}·r^{1−α}.
///
///   A = Σ γ·dy·x      dx = γ·dy·r^{−α} − (α/width)·x·r^{−α−2}·A      dα = −r^{−α}·log r·A

#include <hybridmoe/ops/norm.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// One number per row, `stride` apart, and where its gradient is added. Both may be null.
template <class T>
struct RowScalar {
  const T* value = nullptr;
  T* gradient = nullptr;
  Index stride = 0;

  HYBRIDMOE_FUNCTION T at(Index row, T otherwise) const { return value == nullptr ? otherwise : value[row * stride]; }
  HYBRIDMOE_FUNCTION void add_gradient(Index row, T d) const {
    if (gradient != nullptr) gradient[row * stride] += d;
  }
};

/// What decides a row's α.
template <class T>
struct NormStrength {
  const T *constant = nullptr, *slope = nullptr;  ///< [1] each: a, b
  RowScalar<T> complexity{}, shift{};             ///< c, and ½ where it is absent; 0 where the shift is absent

  /// 2c − 1.
  HYBRIDMOE_FUNCTION T signed_complexity(Index row) const { return T(2) * complexity.at(row, T(0.5)) - T(1); }
  /// σ(…).
  HYBRIDMOE_FUNCTION T gate(Index row) const {
    return math::sigmoid(*constant + *slope * signed_complexity(row) + shift.at(row, T(0)));
  }
};

/// What decides a row's gain γ.
template <class T>
struct NormGain {
  const T *weight = nullptr, *by_budget = nullptr;  ///< [width] each
  RowScalar<T> budget{};                            ///< β, and 1 where it is absent; has no gradient

  /// 1 − β. Where it is 0, by_budget is not read.
  HYBRIDMOE_FUNCTION T saved(Index row) const { return T(1) - budget.at(row, T(1)); }
};
/// γ·dy of a row with saved ≠ 0.
template <class T>
struct SavedGainSlope {
  const T *dy, *weight, *by_budget;
  T saved;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return dy[i] * (weight[i] + saved * by_budget[i]); }
};

/// What forward keeps of a row, [rows] each.
template <class T>
struct AdaptiveNormTape {
  T *gate = nullptr, *inverse = nullptr, *scale = nullptr;  ///< σ(…), 1/r, r^{−α}
};

template <class T, Index width>
struct AdaptiveNormForwardKernel {
  Index rows;
  const T* x;
  NormGain<T> gain;
  NormStrength<T> strength;
  T epsilon;
  T* y;
  AdaptiveNormTape<T> tape;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * norm_rows<width>);
    for (Index row = item * norm_rows<width>; row < end; ++row) {
      const T* const from = x + row * width;
      T* const to = y + row * width;
      const T square = sum_of_squares(from, width) / T(width) + epsilon;
      const T inverse = T(1) / math::sqrt(square), gate = strength.gate(row);
      // r^{1−α}, where 1 − α = ½(1 − σ) and log r = ½ log r².
      const T scale = inverse * math::exp(T(0.25) * (T(1) - gate) * math::log(square));
      if (tape.gate != nullptr) {
        tape.gate[row] = gate;
        tape.inverse[row] = inverse;
        tape.scale[row] = scale;
      }
      const T* const weight = gain.weight;
      if (const T saved = gain.saved(row); saved != T(0)) {
        const T* const by_budget = gain.by_budget;
        for (Index i = 0; i < width; ++i) to[i] = from[i] * scale * (weight[i] + saved * by_budget[i]);
      } else {
        for (Index i = 0; i < width; ++i) to[i] = from[i] * scale * weight[i];
      }
    }
  }
};

/// dx of a block of rows, the gradients that they give to the streams, and their share [blocks, 2·width + 2] of the gradients of
/// weight, by_budget, a and b.
template <class T, Index width>
struct AdaptiveNormBackwardKernel {
  Index rows;
  const T* x;
  NormGain<T> gain;
  NormStrength<T> strength;
  AdaptiveNormTape<T> tape;
  const T* dy;
  T *dx, *share;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    T* const sum = share + item * (2 * width + 2);
    for (Index i = 0; i < 2 * width + 2; ++i) sum[i] = T(0);
    const Index end = smaller(rows, (item + 1) * norm_rows<width>);
    for (Index row = item * norm_rows<width>; row < end; ++row) {
      const T* const given = dy + row * width;
      if (const T saved = gain.saved(row); saved != T(0)) {
        const T factor = saved * tape.scale[row];
        const T* const from = x + row * width;
        for (Index i = 0; i < width; ++i) sum[width + i] += given[i] * (from[i] * factor);
        one(row, SavedGainSlope<T>{given, gain.weight, gain.by_budget, saved}, sum);
      } else {
        one(row, GainSlope<T>{given, gain.weight, T(0)}, sum);
      }
    }
  }

 private:
  /// A row, but for what it gives to by_budget; slope(i) = γ_i·dy_i.
  template <class Slope>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void one(Index row, const Slope& slope, T* sum) const {
    const T* const from = x + row * width;
    const T* const given = dy + row * width;
    T* const to = dx + row * width;
    const T gate = tape.gate[row], inverse = tape.inverse[row], scale = tape.scale[row];
    const T along = lane_sum<T>(width, AlongTerm<T, Slope>{from, slope, T(0), T(1)});
    const T alpha = T(0.5) + T(0.5) * gate;
    const T back = alpha / T(width) * scale * inverse * inverse * along;
    for (Index i = 0; i < width; ++i) {
      to[i] += slope(i) * scale - from[i] * back;
      sum[i] += given[i] * (from[i] * scale);
    }
    // −log r = log r^{−1}; dα/d(…) = ½σ(1 − σ).
    const T d = scale * math::log(inverse) * along * (T(0.5) * gate * (T(1) - gate));
    sum[2 * width] += d;
    sum[2 * width + 1] += d * strength.signed_complexity(row);
    strength.complexity.add_gradient(row, T(2) * *strength.slope * d);
    strength.shift.add_gradient(row, d);
  }
};

/// Where the gradients of a norm's tensors are added.
template <class T>
struct AdaptiveNormGradients {
  T *weight, *by_budget, *constant, *slope;
};

/// The shares of all blocks, added in order. An item owns a range of columns.
template <class T, Index width>
struct AdaptiveNormSharesKernel {
  static constexpr Index block = 256, columns = 2 * width + 2, items = divide_up(columns, block);
  Index blocks;
  const T* share;
  AdaptiveNormGradients<T> to;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(columns, (item + 1) * block);
    for (Index c = item * block; c < end; ++c) {
      T& sum = c < width ? to.weight[c] : c < 2 * width ? to.by_budget[c - width] : c == 2 * width ? *to.constant : *to.slope;
      for (Index b = 0; b < blocks; ++b) sum += share[b * columns + c];
    }
  }
};

template <class Space, class T, Index width>
struct AdaptiveNorm {
  /// Scratch of backward; forward takes none.
  HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Index rows) {
    return round_up(blocks(rows) * (2 * width + 2) * Index(sizeof(T)), arena_alignment);
  }

  /// y[rows, width] = the normed x[rows, width]. What `gain` and `strength` point at lies where kernels read.
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Index rows, const T* x, NormGain<T> gain, NormStrength<T> strength,
                                         T epsilon, T* y, AdaptiveNormTape<T> tape) {
    space.each(blocks(rows), AdaptiveNormForwardKernel<T, width>{rows, x, gain, strength, epsilon, y, tape});
  }

  /// Adds to dx, to the gradients of the tensors, and to those of complexity and shift.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Arena arena, Index rows, const T* x, NormGain<T> gain,
                                          NormStrength<T> strength, AdaptiveNormTape<T> tape, const T* dy, T* dx,
                                          AdaptiveNormGradients<T> gradients) {
    T* const share = arena.template take<T>(blocks(rows) * (2 * width + 2));
    space.each(blocks(rows), AdaptiveNormBackwardKernel<T, width>{rows, x, gain, strength, tape, dy, dx, share});
    using Shares = AdaptiveNormSharesKernel<T, width>;
    space.each(Shares::items, Shares{blocks(rows), share, gradients});
  }

 private:
  HYBRIDMOE_FUNCTION static constexpr Index blocks(Index rows) { return divide_up(rows, norm_rows<width>); }
};

}  // namespace hybridmoe::ops
