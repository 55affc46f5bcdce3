#pragma once
/// @file activation.hpp
/// Activation functions of MLPs, alone (h = f(x)) and gated (h = f(gate)·up), forward and backward. The float versions have no
/// branch, so that loops over them vectorise.

#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/elementwise.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// f(x) and f′(x).
template <class T>
struct ValueAndSlope {
  T value, slope;
};

namespace activation {

/// x·σ(x).
struct Silu {
  template <class T>
  HYBRIDMOE_FUNCTION static T value(T x) {
    return x * math::sigmoid(x);
  }
  template <class T>
  HYBRIDMOE_FUNCTION static ValueAndSlope<T> both(T x) {
    const T s = math::sigmoid(x);
    return {x * s, s * (T(1) + x * (T(1) - s))};
  }
};

/// ½x(1 + tanh(√(2/π)(x + 0.044715x³))): GPT-2's form. ½(1 + tanh z) is evaluated as σ(2z).
struct GeluTanh {
  template <class T>
  HYBRIDMOE_FUNCTION static T value(T x) {
    return x * math::sigmoid(twice_argument(x));
  }
  template <class T>
  HYBRIDMOE_FUNCTION static ValueAndSlope<T> both(T x) {
    const T s = math::sigmoid(twice_argument(x));
    const T inner = T(1.5957691216057308) * (T(1) + T(0.134145) * x * x);
    return {x * s, s + x * s * (T(1) - s) * inner};
  }

 private:
  template <class T>
  HYBRIDMOE_FUNCTION static T twice_argument(T x) {
    return T(1.5957691216057308) * (x + T(0.044715) * x * x * x);  // 2√(2/π)(…)
  }
};

/// xΦ(x), Φ the normal distribution: the exact form.
struct GeluErf {
  HYBRIDMOE_FUNCTION static double value(double x) { return both(x).value; }
  HYBRIDMOE_FUNCTION static float value(float x) { return both(x).value; }
  HYBRIDMOE_FUNCTION static ValueAndSlope<double> both(double x) {
    const double cumulative = 0.5 * (1.0 + math::erf(x * 0.70710678118654752));
    return {x * cumulative, cumulative + x * 0.39894228040143268 * math::exp(-0.5 * x * x)};
  }
  /// Φ by formula 7.1.26 of Abramowitz and Stegun for erfc, absolute error below 1.5e-7, which shares its e^{−x²/2} with Φ′.
  HYBRIDMOE_FUNCTION static ValueAndSlope<float> both(float x) {
    const float magnitude = math::select(x < 0, -x, x);
    const float bell = math::exp(-0.5f * x * x);
    const float t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * magnitude);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * bell;
    const float cumulative = math::select(x < 0, tail, 1.0f - tail);
    return {x * cumulative, cumulative + x * 0.39894228f * bell};
  }
};

/// relu(x)². (Written so that NaN stays NaN: training stops on it.)
struct SquaredRelu {
  template <class T>
  HYBRIDMOE_FUNCTION static T value(T x) {
    const T r = math::select(x <= T(0), T(0), x);
    return r * r;
  }
  template <class T>
  HYBRIDMOE_FUNCTION static ValueAndSlope<T> both(T x) {
    const T r = math::select(x <= T(0), T(0), x);
    return {r * r, r + r};
  }
};

}  // namespace activation

/// Columns and rows of one item of the kernels below: about elementwise_block elements of a [rows, width] activation.
template <Index width>
struct ElementBlock {
  static constexpr Index columns = smaller(width, elementwise_block);
  static constexpr Index across = divide_up(width, columns);
  static constexpr Index rows = larger(1, elementwise_block / columns);
  HYBRIDMOE_FUNCTION static constexpr Index items(Index total_rows) { return divide_up(total_rows, rows) * across; }
};

template <class F, class T, Index width>
struct ActivateKernel {
  using Block = ElementBlock<width>;
  Index rows;
  const T* x;
  T* h;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index first = item % Block::across * Block::columns, columns = smaller(Block::columns, width - first);
    const Index from = item / Block::across * Block::rows, end = smaller(rows, from + Block::rows);
    for (Index row = from; row < end; ++row) {
      const T* const in = x + row * width + first;
      T* const out = h + row * width + first;
      for (Index i = 0; i < columns; ++i) out[i] = F::value(in[i]);
    }
  }
};

template <class F, class T, Index width>
struct ActivateBackwardKernel {
  using Block = ElementBlock<width>;
  Index rows;
  const T* x;
  T* slope;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index first = item % Block::across * Block::columns, columns = smaller(Block::columns, width - first);
    const Index from = item / Block::across * Block::rows, end = smaller(rows, from + Block::rows);
    for (Index row = from; row < end; ++row) {
      const T* const in = x + row * width + first;
      T* const out = slope + row * width + first;
      for (Index i = 0; i < columns; ++i) out[i] *= F::both(in[i]).slope;
    }
  }
};

template <class F, class T, Index width>
struct GateKernel {
  using Block = ElementBlock<width>;
  Index rows, stride;
  const T *gate, *up;
  T* h;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index first = item % Block::across * Block::columns, columns = smaller(Block::columns, width - first);
    const Index from = item / Block::across * Block::rows, end = smaller(rows, from + Block::rows);
    for (Index row = from; row < end; ++row) {
      const T* const a = gate + row * stride + first;
      const T* const b = up + row * stride + first;
      T* const out = h + row * width + first;
      for (Index i = 0; i < columns; ++i) out[i] = F::value(a[i]) * b[i];
    }
  }
};

template <class F, class T, Index width>
struct GateBackwardKernel {
  using Block = ElementBlock<width>;
  Index rows, stride;
  const T *gate, *up, *dh;
  T *dgate, *dup;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index first = item % Block::across * Block::columns, columns = smaller(Block::columns, width - first);
    const Index from = item / Block::across * Block::rows, end = smaller(rows, from + Block::rows);
    for (Index row = from; row < end; ++row) {
      const T* const a = gate + row * stride + first;
      const T* const b = up + row * stride + first;
      const T* const given = dh + row * width + first;
      T* const to_gate = dgate + row * stride + first;
      T* const to_up = dup + row * stride + first;
      for (Index i = 0; i < columns; ++i) {
        const ValueAndSlope<T> f = F::both(a[i]);
        to_gate[i] = given[i] * b[i] * f.slope;
        to_up[i] = given[i] * f.value;
      }
    }
  }
};

/// Activations of [rows, width]; F is one of ops::activation. gate, up and their gradients have rows `stride` apart (so that
/// both may be halves of one product); everything else is dense.
template <class Space, class T, class F, Index width>
struct Activation {
  /// h = f(x)
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Index rows, const T* x, T* h) {
    space.each(ElementBlock<width>::items(rows), ActivateKernel<F, T, width>{rows, x, h});
  }
  /// slope *= f′(x): turns dh into dx in place.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Index rows, const T* x, T* slope) {
    space.each(ElementBlock<width>::items(rows), ActivateBackwardKernel<F, T, width>{rows, x, slope});
  }
  /// h = f(gate)·up
  HYBRIDMOE_FUNCTION static void gated_forward(const Space& space, Index rows, Index stride, const T* gate, const T* up, T* h) {
    space.each(ElementBlock<width>::items(rows), GateKernel<F, T, width>{rows, stride, gate, up, h});
  }
  /// dgate = dh·up·f′(gate), dup = dh·f(gate)
  HYBRIDMOE_FUNCTION static void gated_backward(const Space& space, Index rows, Index stride, const T* gate, const T* up,
                                                const T* dh, T* dgate, T* dup) {
    space.each(ElementBlock<width>::items(rows), GateBackwardKernel<F, T, width>{rows, stride, gate, up, dh, dgate, dup});
  }
};

}  // namespace hybridmoe::ops
