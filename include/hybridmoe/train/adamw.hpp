#pragma once
/// @file adamw.hpp
/// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019).

#include <cmath>
#include <string>
#include <vector>

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/core/visit.hpp>
#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/ops/elementwise.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

struct AdamW {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
};

/// How one group of tensors deviates: factors on the learning rate and on the weight decay.
struct Group {
  double rate = 1;
  double decay = 1;
  friend bool operator==(const Group&, const Group&) = default;
};

/// Decides a tensor's group. The default follows the traits: their speeds; matrices decay, gains, biases and decays do not.
using GroupRule = Group (*)(const std::string& name, const Trait& trait);
inline Group by_trait(const std::string&, const Trait& trait) {
  return {static_cast<double>(trait.speed), trait.decay ? 1.0 : 0.0};
}

/// A run of neighbouring parameters of one group.
struct Range {
  Index begin = 0, end = 0;
  Group group{};
};

/// A tensor with a rule of its own (Update), and where its measured errors are kept.
struct RuledTensor {
  Index begin = 0, count = 0;
  Update update = Update::frozen;
  double rate = 0;
  Index errors = 0;  ///< the first of its errors in the buffer of all
};

/// A visitor that walks a buffer's tensors and merges neighbours of one group. `base` is the buffer's first element.
template <class T>
struct CollectRanges {
  const T* base;
  GroupRule rule;
  std::vector<Range>* ranges;
  std::vector<RuledTensor>* ruled;

  template <class Tensor>
  void operator()(const Name& name, const Trait& trait, const Tensor& tensor) const {
    const Index begin = tensor.data - base;
    if (trait.update != Update::gradient) {
      const Index errors = ruled->empty() ? 0 : ruled->back().errors + ruled->back().count;
      ruled->push_back({begin, Tensor::size, trait.update, static_cast<double>(trait.rate), errors});
      return;
    }
    const Group group = rule(name.text(), trait);
    if (!ranges->empty() && ranges->back().end == begin && ranges->back().group == group)
      ranges->back().end = begin + Tensor::size;
    else
      ranges->push_back({begin, begin + Tensor::size, group});
  }
};

/// Elements of one item of the kernels below.
inline constexpr Index update_block = 4096;

/// m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; p −= rate·(m̂/(√v̂ + ε) + decay·p), with g = scale·gradient.
template <class T>
struct AdamWKernel {
  Index count;
  const T* gradient;
  T *p, *m, *v;
  T beta1, beta2, epsilon, rate, decay, scale, correction1, correction2;  ///< corrections: 1/(1−βᵢ^step)

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(count, (item + 1) * update_block);
    for (Index i = item * update_block; i < last; ++i) {
      const T g = gradient[i] * scale;
      m[i] = beta1 * m[i] + (T(1) - beta1) * g;
      v[i] = beta2 * v[i] + (T(1) - beta2) * g * g;
      const T step = m[i] * correction1 / (math::sqrt(v[i] * correction2) + epsilon);
      p[i] -= rate * (step + decay * p[i]);
    }
  }
};

/// Takes a tensor's measured errors out of the gradient, so that they do not count in its norm.
template <class T>
struct TakeErrors {
  Index count;
  T *gradient, *errors;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    for (Index i = 0; i < count; ++i) {
      errors[i] = gradient[i];
      gradient[i] = T(0);
    }
  }
};

/// One step of Update::sign (centred: the tensor's mean is taken out) or Update::integral. One item: a tensor.
template <class T>
struct FollowRule {
  Index count;
  bool sign;
  T rate;
  const T* errors;
  T* p;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    T mean = 0;
    for (Index i = 0; i < count; ++i) {
      const T e = errors[i];
      p[i] -= rate * (!sign ? e : e > T(0) ? T(1) : e < T(0) ? T(-1) : T(0));
      mean += p[i];
    }
    if (!sign) return;
    mean /= static_cast<T>(count);
    for (Index i = 0; i < count; ++i) p[i] -= mean;
  }
};

/// partial[item] = Σ gradient² of a block, in double and in order.
template <class T>
struct SquareSums {
  Index count;
  const T* gradient;
  double* partial;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index first = item * update_block, last = smaller(count, first + update_block), whole = first + (last - first) / 8 * 8;
    double lane[8] = {};
    for (Index i = first; i < whole; i += 8)
      for (int j = 0; j < 8; ++j) lane[j] += static_cast<double>(gradient[i + j]) * static_cast<double>(gradient[i + j]);
    for (Index i = whole; i < last; ++i) lane[i - whole] += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]);
    partial[item] = ops::tree_sum<8>(lane);
  }
};

}  // namespace hybridmoe::train
