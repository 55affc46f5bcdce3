#pragma once
/// @file twin_cross_entropy.hpp
/// Sequences that stand twice in a batch, at the full and at a lower budget: the cross-entropy of both, and what the lower one
/// learns from the full one (self-distillation of elastic models; formulas of HybridMoE, section 10),
///
///   weight·KL(p ‖ q),   p = softmax(full logits), held fixed,   q = softmax(low logits),   ∂KL/∂low logits = q − p.
///
/// The gradient has this term; the losses that are reported are cross-entropies alone.
///
/// The head's logits exist for a piece of rows at a time, and a row's twin may be anywhere in the batch. Keeping the full rows'
/// logits would cost their whole size, making them again a product; instead the batch is walked so that a piece holds rows of
/// one twin and, beside them, the same rows of the other, each row once. head_pieces() is that walk:
///
///   ops::head_pieces(rows, head_rows, twins, twin_count,
///       [&](Index row, Index count) {…product, CrossEntropy of rows row … row + count − 1…},
///       [&](Index full, Index low, Index count) {
///         …product of rows full … full + count − 1 → logits, and of low … → logits + count·vocab; 2·count ≤ head_rows…
///         space.each(count, ops::TwinCrossEntropy<T, vocab>{…});
///         …backward products of both halves…
///       });

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows full … full + count − 1 of a sequence at the full budget are the rows low … low + count − 1 at a lower one. No row
/// stands in two spans.
struct TwinSpan {
  Index full = 0, low = 0, count = 0;
};

/// Calls one(row, count) and pair(full, low, count) so that together they name every row below `rows` once, in the order of the
/// rows (a pair where its first row stands), `most` rows at a time, which must be 2 or more if there are twins.
template <class One, class Pair>
HYBRIDMOE_FUNCTION void head_pieces(Index rows, Index most, const TwinSpan* twins, Index twin_count, const One& one,
                                    const Pair& pair) {
  for (Index row = 0; row < rows;) {
    Index next = smaller(rows, row + most);
    Index found = -1;
    for (Index s = 0; s < twin_count; ++s) {
      const TwinSpan& span = twins[s];
      if ((span.full <= row && row < span.full + span.count) || (span.low <= row && row < span.low + span.count)) found = s;
      if (row < span.full) next = smaller(next, span.full);
      if (row < span.low) next = smaller(next, span.low);
    }
    if (found < 0) {
      one(row, next - row);
      row = next;
      continue;
    }
    const TwinSpan& span = twins[found];
    if (row == smaller(span.full, span.low)) {  // the other twin's rows are gone over when they are reached
      for (Index at = 0; at < span.count; at += most / 2) pair(span.full + at, span.low + at, smaller(most / 2, span.count - at));
    }
    row += span.count;
  }
}

/// One row's largest logit and the sum of e^(z − largest), in CrossEntropy's order.
template <class T, Index vocab>
struct SoftmaxSums {
  T top, sum;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE explicit SoftmaxSums(const T* z) {
    T most = z[0];
    for (Index v = 1; v < vocab; ++v) most = z[v] > most ? z[v] : most;
    constexpr Index whole = vocab / 16 * 16;
    T lane[16] = {};
    for (Index v = 0; v < whole; v += 16)
      for (Index i = 0; i < 16; ++i) lane[i] += math::exp(z[v + i] - most);
    for (Index v = whole; v < vocab; ++v) lane[v - whole] += math::exp(z[v] - most);
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    top = most;
    sum = lane[0];
  }
};

/// loss = log Σ e^z − z[target] of both twins (nats; bits of CrossEntropy) and divergence = KL(p ‖ q); where `scale` is not zero
/// the logits become scale·∂/∂z of full_loss, and scale·∂/∂z of low_loss + weight·divergence. All three are 0, and without
/// gradient, where target < 0. One item: one row and its twin. The divergence is what the row gains from computing more
/// (ops/gain.hpp).
template <class T, Index vocab>
struct TwinCrossEntropy {
  T *full, *low;               ///< [rows, vocab] logits
  const std::int32_t* target;  ///< [rows], of both
  double *full_loss, *low_loss, *divergence;
  T scale, weight;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index row) const {
    T* const a = full + row * vocab;
    T* const b = low + row * vocab;
    const Index t = target[row];
    if (t < 0) {
      full_loss[row] = low_loss[row] = divergence[row] = 0;
      if (scale == T(0)) return;
      for (Index v = 0; v < vocab; ++v) a[v] = b[v] = T(0);
      return;
    }
    const SoftmaxSums<T, vocab> of_a(a), of_b(b);
    const double log_a = static_cast<double>(math::log(of_a.sum)), log_b = static_cast<double>(math::log(of_b.sum));
    full_loss[row] = log_a - static_cast<double>(a[t] - of_a.top);
    low_loss[row] = log_b - static_cast<double>(b[t] - of_b.top);
    const T kl = scale == T(0) ? pass<false>(a, b, of_a, of_b) : pass<true>(a, b, of_a, of_b);
    divergence[row] = static_cast<double>(kl) + (log_b - log_a);
    if (scale == T(0)) return;
    a[t] -= scale;
    b[t] -= scale;
  }

  /// Σ p·((a − top_a) − (b − top_b)); and the logits become their gradients, but for the target's, if these are wanted.
  template <bool wanted>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T pass(T* a, T* b, const SoftmaxSums<T, vocab>& of_a,
                                             const SoftmaxSums<T, vocab>& of_b) const {
    const T top_a = of_a.top, top_b = of_b.top;
    const T for_a = scale / of_a.sum, for_b = (scale + scale * weight) / of_b.sum, pull = scale * weight / of_a.sum;
    const auto one = [=](Index v) {
      const T za = a[v] - top_a, zb = b[v] - top_b, ea = math::exp(za);
      if constexpr (wanted) {
        const T eb = math::exp(zb);
        a[v] = ea * for_a;
        b[v] = eb * for_b - ea * pull;
      }
      return ea * (za - zb);
    };
    constexpr Index whole = vocab / 16 * 16;
    T lane[16] = {};
    for (Index v = 0; v < whole; v += 16)
      for (Index i = 0; i < 16; ++i) lane[i] += one(v + i);
    for (Index v = whole; v < vocab; ++v) lane[v - whole] += one(v);
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0] / of_a.sum;
  }
};

}  // namespace hybridmoe::ops
