#pragma once
/// @file predict_token.hpp
/// Two small predictors of the next token, from the one before it and from the two before it:
///   h¹ = tanh(A[x_{j−1}]),   h² = tanh(A[x_{j−1}] + B[x_{j−2}] + C[pair]),   logits U·h + bias over classes of tokens,
/// C a table of pairs (x_{j−2}, x_{j−1}): what only both together tell is not a sum. These are their parts beside the products
/// with U.

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

/// The class of a pair of tokens: the pair of their ids modulo `residues`. Of 32, letters of ASCII differ, but for their case.
template <Index residues>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE std::int32_t pair_class(std::int32_t before, std::int32_t token) {
  constexpr auto n = static_cast<std::int32_t>(residues);
  return before % n * n + token % n;
}

/// The token's class, the two tokens before it, −1 where there is none, and their pair's class. One item: predict_block rows.
template <Index vocab, Index classes, Index residues, Index ring_rows>
struct PredictContextKernel {
  Batch batch;
  History<std::int32_t, 1, ring_rows> token;
  std::int32_t *target, *first, *second, *pair;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(batch.rows, (item + 1) * predict_block);
    for (Index row = item * predict_block; row < end; ++row) {
      const Past<std::int32_t, 1, ring_rows> past = token.of(batch, batch.row_sequence[row]);
      const Index position = batch.row_position[row];
      target[row] = token_class<vocab, classes>(token.rows[row]);
      first[row] = position < 1 ? -1 : *past[position - 1];
      second[row] = position < 2 ? -1 : *past[position - 2];
      pair[row] = position < 2 ? -1 : pair_class<residues>(second[row], first[row]);
    }
  }
};

/// h¹ = tanh(A[first]), h² = tanh(A[first] + B[second] + C[pair]), what is missing counting as zeros. One item: predict_block
/// rows.
template <class T, Index rank>
struct PredictHiddenKernel {
  Index rows;
  const std::int32_t *first, *second, *pair;
  const T *a, *b, *c;  ///< tables [vocab, rank] twice, [residues², rank]
  T *one, *two;        ///< h¹, h²

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * predict_block);
    for (Index row = item * predict_block; row < end; ++row) {
      const Index i = first[row], j = second[row];
      T *const to_one = one + row * rank, *const to_two = two + row * rank;
      for (Index k = 0; k < rank; ++k) to_one[k] = i < 0 ? T(0) : a[i * rank + k];
      for (Index k = 0; k < rank; ++k) to_two[k] = j < 0 ? to_one[k] : to_one[k] + b[j * rank + k] + c[pair[row] * rank + k];
      for (Index k = 0; k < rank; ++k) {
        to_one[k] = math::tanh(to_one[k]);
        to_two[k] = math::tanh(to_two[k]);
      }
    }
  }
};

/// d becomes the gradient by what h is the tanh of. One item: predict_block rows.
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

/// surprisal[row] = loss[row]·scale; then gain[row], where the surprisal without x_{j−2} was, is what x_{j−2} takes off it. One
/// item: predict_block rows.
template <class T>
struct SurprisalKernel {
  Index rows;
  double scale;
  const double* loss;
  T *surprisal, *gain;  ///< gain: or null

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * predict_block);
    for (Index row = item * predict_block; row < end; ++row) {
      surprisal[row] = static_cast<T>(loss[row] * scale);
      if (gain != nullptr) gain[row] -= surprisal[row];
    }
  }
};

/// loss = scale·(mean surprisal of both predictors, summed), in order. One item.
template <class T>
struct PredictorLossKernel {
  Index count;
  double scale;
  const T *surprisal, *gain;
  T* loss;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    double sum = 0;
    for (Index i = 0; i < count; ++i) sum += 2 * static_cast<double>(surprisal[i]) + static_cast<double>(gain[i]);
    *loss = count == 0 ? T(0) : static_cast<T>(scale * sum / static_cast<double>(count));
  }
};

}  // namespace hybridmoe::ops
