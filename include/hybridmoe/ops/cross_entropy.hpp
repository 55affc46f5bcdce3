#pragma once
/// @file cross_entropy.hpp
/// Softmax cross-entropy over rows of logits, with its gradient.

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// loss[row] = log Σ e^z − z[target] in nats (0 where target < 0). The logits become scale·∂loss/∂z; with `scale` 0 they are used
/// up, and what they hold afterwards means nothing. One item: one row.
template <class T, Index vocab>
struct CrossEntropy {
  T* logits;  ///< [rows, vocab]
  const std::int32_t* target;
  double* loss;
  T scale;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index row) const {
    T* const z = logits + row * vocab;
    const Index t = target[row];
    T top = z[0];
    for (Index v = 1; v < vocab; ++v) top = z[v] > top ? z[v] : top;
    constexpr Index whole = vocab / 16 * 16;
    T lane[16] = {};
    const T chosen = t < 0 ? T(0) : z[t] - top;
    for (Index v = 0; v < whole; v += 16)
      for (Index i = 0; i < 16; ++i) {
        const T e = math::exp(z[v + i] - top);
        z[v + i] = e;
        lane[i] += e;
      }
    for (Index v = whole; v < vocab; ++v) lane[v - whole] += z[v] = math::exp(z[v] - top);
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    loss[row] = t < 0 ? 0.0 : static_cast<double>(math::log(lane[0])) - static_cast<double>(chosen);
    if (scale == T(0)) return;
    if (t < 0) {
      for (Index v = 0; v < vocab; ++v) z[v] = T(0);
      return;
    }
    const T factor = scale / lane[0];
    for (Index v = 0; v < vocab; ++v) z[v] *= factor;
    z[t] -= scale;
  }
};

/// total[0] = Σ value[count], in order. One item.
struct SumInOrder {
  Index count;
  const double* value;
  double* total;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    double sum = 0;
    for (Index i = 0; i < count; ++i) sum += value[i];
    total[0] = sum;
  }
};

}  // namespace hybridmoe::ops
