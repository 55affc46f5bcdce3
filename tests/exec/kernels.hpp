#pragma once
// Kernels whose results show how a space ran them.

#include <hybridmoe/core/scalar.hpp>

namespace test {

using hybridmoe::Index;

/// y[i] = Σ_k x[k]·w[i, k]: bits depend on the order of k and on which products are fused.
template <class T>
struct Dot {
  Index depth;
  const T *x, *w;
  T* y;
  HYBRIDMOE_FUNCTION void operator()(Index i) const {
    T sum = 0;
    for (Index k = 0; k < depth; ++k) sum += x[k] * w[i * depth + k];
    y[i] = sum * T(1.5) + x[0];
  }
};

/// Item i takes time in proportion to i.
template <class T>
struct Unequal {
  const T* x;
  T* y;
  HYBRIDMOE_FUNCTION void operator()(Index i) const {
    T value = x[i];
    for (Index k = 0; k < i * 10; ++k) value = value * T(0.75) + x[i];
    y[i] = value;
  }
};

/// hits[i] += 1
struct Hit {
  int* hits;
  HYBRIDMOE_FUNCTION void operator()(Index i) const { ++hits[i]; }
};

/// to[i] = Σ of all `from`: right only if every item of the kernel before has ended.
template <class T>
struct SumOfAll {
  Index count;
  const T* from;
  T* to;
  HYBRIDMOE_FUNCTION void operator()(Index i) const {
    T sum = 0;
    for (Index k = 0; k < count; ++k) sum += from[k];
    to[i] = sum + T(i);
  }
};

/// A computation of several kernels that depend on each other, as a layer is.
template <class T>
struct Chain {
  Index count, depth;
  const T *x, *w;
  T *a, *b, *y;
  int* hits;

  template <class Space>
  HYBRIDMOE_FUNCTION void operator()(const Space& space) const {
    for (int round = 0; round < 20; ++round) {
      space.each(count, Dot<T>{depth, x, w, a});
      space.each(count, Unequal<T>{a, b});
      space.each(count, SumOfAll<T>{count, b, y});
      space.each(1, Hit{hits + round % 3});  // one item: some spaces treat it apart
      space.each(0, Hit{hits});
    }
  }
};

}  // namespace test
