#pragma once
/// @file elementwise.hpp
/// What elementwise kernels and norms share: the size of an item, and sums along a vector in a fixed shape.

#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Elements that one item of an elementwise kernel takes: enough to hide the cost of handing it to a thread.
inline constexpr Index elementwise_block = 4096;

/// The sum of `lanes` numbers as a tree. Unrolled by its type: lanes that a loop's counter chose would live in memory.
template <Index lanes, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T tree_sum(T* lane) {
  if constexpr (lanes > 1) {
    for (Index l = 0; l < lanes / 2; ++l) lane[l] += lane[l + lanes / 2];
    return tree_sum<lanes / 2>(lane);
  } else {
    return lane[0];
  }
}

/// The highest of `lanes` numbers, in the same way.
template <Index lanes, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T tree_maximum(T* lane) {
  if constexpr (lanes > 1) {
    for (Index l = 0; l < lanes / 2; ++l) lane[l] = lane[l] > lane[l + lanes / 2] ? lane[l] : lane[l + lanes / 2];
    return tree_maximum<lanes / 2>(lane);
  } else {
    return lane[0];
  }
}

/// Σ term(i) for 0 ≤ i < count, always in the same shape: lane l adds the terms l, l + 16, … in order, then the 16 lanes are
/// added as a tree. `term` is a small functor; the lanes become vector registers.
template <class T, class Term>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T lane_sum(Index count, const Term& term) {
  constexpr Index lanes = 16;
  T lane[lanes] = {};
  const Index whole = count - count % lanes;
  for (Index i = 0; i < whole; i += lanes) {
    for (Index l = 0; l < lanes; ++l) lane[l] += term(i + l);
  }
  for (Index l = 0; l < count - whole; ++l) lane[l] += term(whole + l);
  return tree_sum<lanes>(lane);
}

template <class T>
struct SquareTerm {
  const T* x;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return x[i] * x[i]; }
};
template <class T>
struct DotTerm {
  const T *x, *y;
  HYBRIDMOE_FUNCTION T operator()(Index i) const { return x[i] * y[i]; }
};

/// Σ x² of `count` neighbours.
template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T sum_of_squares(const T* x, Index count) {
  return lane_sum<T>(count, SquareTerm<T>{x});
}
/// Σ x·y of `count` neighbours.
template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T dot(const T* x, const T* y, Index count) {
  return lane_sum<T>(count, DotTerm<T>{x, y});
}

}  // namespace hybridmoe::ops
