#pragma once
/// @file norm.hpp
/// RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016) of many vectors, forward and backward: rows of the model's
/// width, heads of a query, groups of a gated state. Per vector x of `size` elements:
///
///   RMSNorm    inverse = 1/√(Σx²/size + ε)           normal = x·inverse
///   LayerNorm  inverse = 1/√(Σ(x−mean)²/size + ε)    normal = (x − mean)·inverse
///   y = normal·(offset + weight) + bias

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/elementwise.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// The vectors to be normed: row r holds `per_row` vectors of neighbours, beginning at data + r·stride.
template <class T>
struct Strided {
  T* data = nullptr;
  Index stride = 0;
};

/// What follows the normalisation. Null weight: gain 1, and no bias. Null bias: none. `offset` 1 makes the gain 1 + weight.
template <class T>
struct Affine {
  const T* weight = nullptr;
  const T* bias = nullptr;
  T offset = 0;
};

/// Where the gradients of weight and bias are added; null for those not wanted.
template <class T>
struct AffineGradient {
  T* weight = nullptr;
  T* bias = nullptr;
};

/// What forward keeps of each vector for backward, [rows·per_row] each; null where nothing is kept. `mean` only for LayerNorm.
template <class T>
struct NormTape {
  T* inverse = nullptr;
  T* mean = nullptr;
};

template <class T>
struct DeviationTerm {
  const T* x;
  T mean;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return (x[i] - mean) * (x[i] - mean); }
};
template <class T>
struct PlainTerm {
  const T* x;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return x[i]; }
};

/// The gradient by the normalised vector: dy, or dy·gain.
template <class T>
struct PlainSlope {
  const T* dy;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return dy[i]; }
};
template <class T>
struct GainSlope {
  const T *dy, *weight;
  T offset;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return dy[i] * (offset + weight[i]); }
};
template <class T, class Slope>
struct AlongTerm {
  const T* x;
  Slope slope;
  T mean, inverse;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return slope(i) * ((x[i] - mean) * inverse); }
};

/// Rows that one item takes, a function of the shape alone: about 8192 elements.
template <Index elements>
constexpr Index norm_rows = elements >= 8192 ? 1 : 8192 / elements;

template <class T, Index size, Index per_row, Index gains, bool centred>
struct NormForwardKernel {
  Index rows;
  Strided<const T> x;
  Affine<T> affine;
  T epsilon;
  Strided<T> y;
  NormTape<T> tape;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    constexpr Index block = norm_rows<size * per_row>;
    const Index end = smaller(rows, (item + 1) * block);
    for (Index row = item * block; row < end; ++row) {
      for (Index v = 0; v < per_row; ++v) vector(row, v);
    }
  }

  HYBRIDMOE_FUNCTION void vector(Index row, Index v) const {
    const T* const from = x.data + row * x.stride + v * size;
    T* const to = y.data + row * y.stride + v * size;
    const Index gain = gains == 1 ? 0 : v * size;
    T mean = 0, squares;
    if constexpr (centred) {
      mean = lane_sum<T>(size, PlainTerm<T>{from}) / T(size);
      squares = lane_sum<T>(size, DeviationTerm<T>{from, mean});
    } else {
      squares = sum_of_squares(from, size);
    }
    const T inverse = T(1) / math::sqrt(squares / T(size) + epsilon);
    if (tape.inverse != nullptr) tape.inverse[row * per_row + v] = inverse;
    if constexpr (centred) {
      if (tape.mean != nullptr) tape.mean[row * per_row + v] = mean;
    }
    if (affine.weight == nullptr) {
      for (Index i = 0; i < size; ++i) to[i] = (from[i] - mean) * inverse;
    } else if (affine.bias == nullptr) {
      const T* const weight = affine.weight + gain;
      for (Index i = 0; i < size; ++i) to[i] = (from[i] - mean) * inverse * (affine.offset + weight[i]);
    } else {
      const T* const weight = affine.weight + gain;
      const T* const bias = affine.bias + gain;
      for (Index i = 0; i < size; ++i) to[i] = (from[i] - mean) * inverse * (affine.offset + weight[i]) + bias[i];
    }
  }
};

/// dx of a block of rows, and the block's share of the gradients of weight and bias, which a second kernel adds up in order.
template <class T, Index size, Index per_row, Index gains, bool centred, bool assign>
struct NormBackwardKernel {
  Index rows;
  Strided<const T> x;
  Affine<T> affine;
  NormTape<T> tape;
  Strided<const T> dy;
  Strided<T> dx;
  T* weight_share;  ///< [blocks, gains·size], or null
  T* bias_share;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    constexpr Index block = norm_rows<size * per_row>, columns = gains * size;
    T* const weight = weight_share == nullptr ? nullptr : weight_share + item * columns;
    T* const bias = bias_share == nullptr ? nullptr : bias_share + item * columns;
    if (weight != nullptr) {
      for (Index i = 0; i < columns; ++i) weight[i] = T(0);
    }
    if (bias != nullptr) {
      for (Index i = 0; i < columns; ++i) bias[i] = T(0);
    }
    const Index end = smaller(rows, (item + 1) * block);
    for (Index row = item * block; row < end; ++row) {
      for (Index v = 0; v < per_row; ++v) vector(row, v, weight, bias);
    }
  }

  HYBRIDMOE_FUNCTION void vector(Index row, Index v, T* weight_sum, T* bias_sum) const {
    const T* const from = x.data + row * x.stride + v * size;
    const T* const given = dy.data + row * dy.stride + v * size;
    T* const to = dx.data + row * dx.stride + v * size;
    const Index gain = gains == 1 ? 0 : v * size;
    const T inverse = tape.inverse[row * per_row + v];
    T mean = 0;
    if constexpr (centred) mean = tape.mean[row * per_row + v];
    if (weight_sum != nullptr) {
      for (Index i = 0; i < size; ++i) weight_sum[gain + i] += given[i] * ((from[i] - mean) * inverse);
    }
    if (bias_sum != nullptr) {
      for (Index i = 0; i < size; ++i) bias_sum[gain + i] += given[i];
    }
    if (affine.weight == nullptr) {
      spread(from, to, mean, inverse, PlainSlope<T>{given});
    } else {
      spread(from, to, mean, inverse, GainSlope<T>{given, affine.weight + gain, affine.offset});
    }
  }

  /// dx = inverse·(slope − mean(slope) − normal·mean(slope·normal)); without centring the first mean is absent.
  template <class Slope>
  HYBRIDMOE_FUNCTION static void spread(const T* from, T* to, T mean, T inverse, const Slope& slope) {
    const T along = lane_sum<T>(size, AlongTerm<T, Slope>{from, slope, mean, inverse}) / T(size);
    T level = 0;
    if constexpr (centred) level = lane_sum<T>(size, slope) / T(size);
    for (Index i = 0; i < size; ++i) {
      const T value = inverse * (slope(i) - level - (from[i] - mean) * inverse * along);
      if constexpr (assign) {
        to[i] = value;
      } else {
        to[i] += value;
      }
    }
  }
};

/// sum[c] += Σ_blocks share[block, c], blocks in order; an item owns a range of columns.
template <class T, Index columns>
struct SharesKernel {
  static constexpr Index block = 256;
  Index blocks;
  const T* share;
  T* sum;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index first = item * block, end = smaller(columns, first + block);
    for (Index b = 0; b < blocks; ++b) {
      for (Index c = first; c < end; ++c) sum[c] += share[b * columns + c];
    }
  }
};

/// Norms of rows·per_row vectors of `size` elements. `gains` = 1: all vectors share weight and bias [size]; `gains` = per_row:
/// vector v of each row has its own, [per_row, size]. `centred`: LayerNorm, otherwise RMSNorm. QK-norm of q: [rows, heads·size]:
///
///   using Qk = ops::Norm<Space, T, size, heads>;
///   Qk::forward(space, rows, {q, heads * size}, {.weight = p.q_norm.data}, epsilon, {out, heads * size},
///               {.inverse = tape.inverse});
template <class Space, class T, Index size, Index per_row = 1, Index gains = 1, bool centred = false>
struct Norm {
  static_assert(gains == 1 || gains == per_row, "the vectors of a row share one gain or have one each");
  static constexpr Index columns = gains * size;

  /// Scratch of backward when gradients of the weight (and of the bias) are wanted; forward takes none.
  HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Index rows, bool weight, bool bias) {
    const Index share = round_up(blocks(rows) * columns * Index(sizeof(T)), arena_alignment);
    return (weight ? share : 0) + (bias ? share : 0);
  }

  /// y = norm(x); y may be x.
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Index rows, Strided<const T> x, Affine<T> affine, T epsilon,
                                         Strided<T> y, NormTape<T> tape) {
    space.each(blocks(rows), NormForwardKernel<T, size, per_row, gains, centred>{rows, x, affine, epsilon, y, tape});
  }

  /// dx += ∂; gradient.weight += ∂; gradient.bias += ∂. With `assign`, dx = ∂ instead, and dx may then be dy.
  template <bool assign = false>
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Arena arena, Index rows, Strided<const T> x, Affine<T> affine,
                                          NormTape<T> tape, Strided<const T> dy, Strided<T> dx, AffineGradient<T> gradient) {
    T* const weight = gradient.weight == nullptr ? nullptr : arena.template take<T>(blocks(rows) * columns);
    T* const bias = gradient.bias == nullptr ? nullptr : arena.template take<T>(blocks(rows) * columns);
    space.each(blocks(rows),
               NormBackwardKernel<T, size, per_row, gains, centred, assign>{rows, x, affine, tape, dy, dx, weight, bias});
    using Shares = SharesKernel<T, columns>;
    if (weight != nullptr) space.each(divide_up(columns, Shares::block), Shares{blocks(rows), weight, gradient.weight});
    if (bias != nullptr) space.each(divide_up(columns, Shares::block), Shares{blocks(rows), bias, gradient.bias});
  }

 private:
  HYBRIDMOE_FUNCTION static constexpr Index blocks(Index rows) { return divide_up(rows, norm_rows<size * per_row>); }
};

}  // namespace hybridmoe::ops
