#pragma once
/// @file top_k.hpp
/// The k highest of some scores, and the softmax choice of experts built on it, forward and backward.

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// chosen[0 … k) = the numbers of the k highest of score[0 … count), ascending; of equal scores the lower number is taken.
/// 0 ≤ k ≤ most, k ≤ count. Whatever the scores (NaN too), k different valid numbers come out.
template <Index most, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void top_k(const T* score, Index count, Index k, Index* chosen) {
  if (k <= 0) return;
  T kept[most] = {};  // the best so far, highest first; a later equal score stays behind an earlier one
  Index filled = 0;
  for (Index e = 0; e < count; ++e) {
    if (filled == k && !(score[e] > kept[k - 1])) continue;
    Index at = filled < k ? filled++ : k - 1;
    for (; at > 0 && score[e] > kept[at - 1]; --at) {
      kept[at] = kept[at - 1];
      chosen[at] = chosen[at - 1];
    }
    kept[at] = score[e];
    chosen[at] = e;
  }
  for (Index i = 1; i < k; ++i) {
    const Index e = chosen[i];
    Index at = i;
    for (; at > 0 && chosen[at - 1] > e; --at) chosen[at] = chosen[at - 1];
    chosen[at] = e;
  }
}

/// Rows that one item of the choice handles.
inline constexpr Index choice_block = 64;

template <class T, Index count, Index most>
struct ChooseSoftmaxKernel {
  Index rows, k;
  bool renormalise;
  const T* score;
  Index* expert;
  T *weight, *probability, *log_sum;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(rows, (block + 1) * choice_block);
    for (Index row = block * choice_block; row < end; ++row) choose(row);
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void choose(Index row) const {
    const T* s = score + row * count;
    Index* chosen = expert + row * most;
    T* w = weight + row * most;
    top_k<most>(s, count, k, chosen);
    T highest = s[0];
    for (Index e = 1; e < count; ++e) highest = s[e] > highest ? s[e] : highest;
    T power[count];
    for (Index e = 0; e < count; ++e) power[e] = math::exp(s[e] - highest);
    T all = 0, selected = 0;
    for (Index e = 0; e < count; ++e) all += power[e];
    for (Index i = 0; i < k; ++i) selected += power[chosen[i]];
    const T sum = renormalise ? selected : all;
    for (Index i = 0; i < k; ++i) w[i] = power[chosen[i]] / sum;
    for (Index i = k; i < most; ++i) {
      chosen[i] = -1;
      w[i] = 0;
    }
    if (probability == nullptr) return;
    const T scale = T(1) / all;
    for (Index e = 0; e < count; ++e) probability[row * count + e] = power[e] * scale;
    log_sum[row] = highest + math::log(all);
  }
};

template <class T, Index count, Index most>
struct ChooseSoftmaxBackwardKernel {
  Index rows;
  bool renormalise;
  const Index* expert;
  const T *weight, *probability, *dweight;
  T* dscore;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(rows, (block + 1) * choice_block);
    for (Index row = block * choice_block; row < end; ++row) {
      const Index* chosen = expert + row * most;
      const T* w = weight + row * most;
      const T* dw = dweight + row * most;
      T* ds = dscore + row * count;
      T mean = 0;
      for (Index i = 0; i < most && chosen[i] >= 0; ++i) mean += w[i] * dw[i];
      // The weights are a softmax over the chosen, or entries of one over all: only then do the others feel it.
      for (Index e = 0; e < count; ++e) ds[e] = renormalise ? T(0) : -probability[row * count + e] * mean;
      for (Index i = 0; i < most && chosen[i] >= 0; ++i) ds[chosen[i]] += w[i] * (renormalise ? dw[i] - mean : dw[i]);
    }
  }
};

/// Softmax over `count` scores and choice of the k highest, with their probabilities as weights (as they are, or divided by
/// their sum). Mixtral and Switch; k ≤ most.
template <class Space, class T, Index count, Index most>
struct ChooseSoftmax {
  /// expert, weight: [rows, most], assigned, experts ascending, unused tail −1 and 0. probability [rows, count] and
  /// log_sum [rows] (the logarithm of the softmax's denominator) are assigned unless null (both or neither).
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Index rows, Index k, bool renormalise, const T* score, Index* expert,
                                         T* weight, T* probability, T* log_sum) {
    space.each(divide_up(rows, choice_block),
               ChooseSoftmaxKernel<T, count, most>{rows, k, renormalise, score, expert, weight, probability, log_sum});
  }
  /// dscore [rows, count] is assigned; the choice itself is a constant. dweight: [rows, most].
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Index rows, bool renormalise, const Index* expert, const T* weight,
                                          const T* probability, const T* dweight, T* dscore) {
    space.each(divide_up(rows, choice_block),
               ChooseSoftmaxBackwardKernel<T, count, most>{rows, renormalise, expert, weight, probability, dweight, dscore});
  }
};

}  // namespace hybridmoe::ops
