#pragma once
/// @file elastic.hpp
/// How much of an elastic shared expert of S slices a row goes through,
///
///   ñ = 1 + (n̂(β) − 1)·(1 − (1 − q)·(1 − decision·hs(w·x))),   n̂(β) = max(1, ⌈βS⌉):
///
/// a target q of 1 goes through all that the budget allows. Slice s weighs a_s = clamp(ñ − (s − 1), 0, 1); those of weight 0 are
/// not computed.

#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/router/dynamic_rule.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// Rows that one item handles.
inline constexpr Index elastic_rows = 32;

/// hs(u) = clamp(1.2·σ(u + 2) − 0.1, 0, 1) and its slope: reaches both ends, and starts at 0.96 where it still has a slope.
template <class T>
struct HardSigmoid {
  T value, slope;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE explicit HardSigmoid(T u) {
    const T s = math::sigmoid(u + T(2)), v = T(1.2) * s - T(0.1);
    value = math::within_unit(v);
    slope = T(0) < v && v < T(1) ? T(1.2) * s * (T(1) - s) : T(0);
  }
};

/// The streams that decide, and the column of this layer's decision.
template <class T>
struct ElasticStreams {
  StreamRows<T> decisions, budget, target;
  Index decision;
};

template <class T, Index width, Index slices>
struct ElasticKernel {
  Index rows;
  ElasticStreams<T> streams;
  const T *x, *gate;
  T *u, *real;   ///< [rows] w·x, ñ
  Index* slice;  ///< [rows, slices] as router::Choice
  T* weight;     ///< [rows, slices] a
  T* used;       ///< null: nobody asks
  Index used_width;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * elastic_rows);
    for (Index row = item * elastic_rows; row < end; ++row) {
      T n = 1;
      if constexpr (slices > 1) {
        const T fraction = math::within_unit(streams.decisions.at(row, streams.decision, T(1)));
        const Index allowed = most_slices(slices, streams.budget.at(row, 0, T(1)));
        u[row] = ops::dot(x + row * width, gate, width);
        n += static_cast<T>(allowed - 1) * spent_part(fraction * HardSigmoid<T>(u[row]).value, streams.target.at(row, 0, T(1)));
      }
      real[row] = n;
      if (used != nullptr) used[row * used_width] = n;
      for (Index s = 0; s < slices; ++s) {
        const T a = math::within_unit(n - static_cast<T>(s));
        slice[row * slices + s] = a > T(0) ? s : -1;
        weight[row * slices + s] = a;
      }
    }
  }
};

/// From the gradients by the weights to those by u (assigned), x, and the decision.
template <class T, Index width, Index slices>
struct ElasticBackwardKernel {
  Index rows;
  ElasticStreams<T> streams;
  double price;  ///< of a slice of a row whose target is 0
  T factor;      ///< call.auxiliary/rows
  const T *gate, *u, *dweight;
  const Index* slice;
  T *du, *dx;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * elastic_rows);
    for (Index row = item * elastic_rows; row < end; ++row) {
      // The last slice that is on carries the slope: the earlier ones weigh 1 wherever it is on, and the first weighs 1 always.
      Index last = 0;
      for (Index s = 1; s < slices && slice[row * slices + s] >= 0; ++s) last = s;
      const T d = (last > 0 ? dweight[row * slices + last] : T(0)) + factor * price_of(price, streams.target.at(row, 0, T(1)));
      const T decided = streams.decisions.at(row, streams.decision, T(1)), fraction = math::within_unit(decided);
      const T room =
          static_cast<T>(most_slices(slices, streams.budget.at(row, 0, T(1))) - 1) * saving_of(streams.target.at(row, 0, T(1)));
      const HardSigmoid<T> open(u[row]);
      if (T(0) <= decided && decided <= T(1)) streams.decisions.add_gradient(row, streams.decision, d * room * open.value);
      du[row] = d * room * fraction * open.slope;
      for (Index c = 0; c < width; ++c) dx[row * width + c] += du[row] * gate[c];
    }
  }
};

}  // namespace hybridmoe::channel
