#pragma once
/// @file predict_token.hpp
/// A small predictor of the next token from the two before it: h = tanh(A[x_{j−1}] + B[x_{j−2}]), logits U·h + bias over classes
/// of tokens. These are its parts beside the products with U.

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/ops/history.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows of one item of these kernels.
inline constexpr Index predict_block = 32;

/// The class of a token: itself where there are as many classes as tokens, else a hash of it.
template <Index vocab, Index classes>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE std::int32_t token_class(std::int32_t token) {
  if constexpr (classes >= vocab) {
    return token;
  } else {
    const std::uint32_t mixed = static_cast<std::uint32_t>(token) * 0x9E3779B1u;  // Knuth's multiplicative hash
    return static_cast<std::int32_t>((static_cast<std::uint64_t>(mixed) * static_cast<std::uint64_t>(classes)) >> 32);
  }
}

/// The token's class and the two tokens before it, −1 where there is none. One item: predict_block rows.
template <Index vocab, Index classes, Index ring_rows>
struct PredictContextKernel {
  Batch batch;
  History<std::int32_t, 1, ring_rows> token;
  std::int32_t *target, *first, *second;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(batch.rows, (item + 1) * predict_block);
    for (Index row = item * predict_block; row < end; ++row) {
      const Past<std::int32_t, 1, ring_rows> past = token.of(batch, batch.row_sequence[row]);
      const Index position = batch.row_position[row];
      target[row] = token_class<vocab, classes>(token.rows[row]);
      first[row] = position < 1 ? -1 : *past[position - 1];
      second[row] = position < 2 ? -1 : *past[position - 2];
    }
  }
};

/// h = tanh(A[first] + B[second]), a missing token counting as zeros. One item: predict_block rows.
template <class T, Index rank>
struct PredictHiddenKernel {
  Index rows;
  const std::int32_t *first, *second;
  const T *a, *b;  ///< tables [vocab, rank]
  T* h;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * predict_block);
    for (Index row = item * predict_block; row < end; ++row) {
      const Index i = first[row], j = second[row];
      T* const to = h + row * rank;
      for (Index k = 0; k < rank; ++k) to[k] = i < 0 ? T(0) : a[i * rank + k];
      if (j >= 0)
        for (Index k = 0; k < rank; ++k) to[k] += b[j * rank + k];
      for (Index k = 0; k < rank; ++k) to[k] = math::tanh(to[k]);
    }
  }
};

/// d becomes the gradient by A[first] + B[second]. One item: predict_block rows.
template <class T, Index rank>
struct PredictHiddenBackwardKernel {
  Index rows;
  const T* h;
  T* d;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index from = item * predict_block * rank, end = smaller(rows, (item + 1) * predict_block) * rank;
    for (Index i = from; i < end; ++i) d[i] *= T(1) - h[i] * h[i];
  }
};

/// surprisal[row] = loss[row]·scale. One item: predict_block rows.
template <class T>
struct SurprisalKernel {
  Index rows;
  double scale;
  const double* loss;
  T* surprisal;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * predict_block);
    for (Index row = item * predict_block; row < end; ++row) surprisal[row] = static_cast<T>(loss[row] * scale);
  }
};

/// mean = scale·Σ value/count, in order. One item.
template <class T>
struct ScaledMeanKernel {
  Index count;
  double scale;
  const T* value;
  T* mean;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    double sum = 0;
    for (Index i = 0; i < count; ++i) sum += static_cast<double>(value[i]);
    *mean = count == 0 ? T(0) : static_cast<T>(scale * sum / static_cast<double>(count));
  }
};

}  // namespace hybridmoe::ops
