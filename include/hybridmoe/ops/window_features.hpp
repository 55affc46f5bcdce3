#pragma once
/// @file window_features.hpp
/// Features of the last tokens of a sequence: entropy of their ids, mean surprisal and what a second token of context takes off
/// it, variance of their embeddings, and two syntactic ones. Every row sums its own window in the order of positions, so its bits
/// depend on nothing but the window; only integers are carried from row to row.

#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/ops/predict_token.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// ln n as a constant expression, within an ulp or two.
constexpr double natural_log(Index n) {
  double m = static_cast<double>(n);
  int halvings = 0;
  for (; m > 1.5; m /= 2) ++halvings;
  const double y = (m - 1) / (m + 1);  // ln m = 2·artanh y, |y| ≤ 1/5
  double sum = 0;
  for (int k = 41; k > 0; k -= 2) sum = sum * y * y + 1.0 / k;
  return 2 * y * sum + halvings * 0.69314718055994530942;
}

/// 0·ln 0, 1·ln 1, …, most·ln most.
template <class T, Index most>
constexpr Array<T, most + 1> n_log_n() {
  Array<T, most + 1> table{};
  for (Index n = 2; n <= most; ++n) table[n] = static_cast<T>(static_cast<double>(n) * natural_log(n));
  return table;
}

/// Syntax of a sequence so far, in one integer: nesting depth, tokens since the last terminator, and whether a quotation is open.
struct Syntax {
  static constexpr std::int32_t deepest = 15, longest = 63;
  std::int32_t depth = 0, since = 0, quoted = 0;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static Syntax of(std::int32_t packed) {
    return {packed & 15, packed >> 4 & 63, packed >> 10};
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE std::int32_t packed() const { return depth | since << 4 | quoted << 10; }

  template <class Classes>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void take(std::int32_t token) {
    std::int32_t deeper = static_cast<std::int32_t>(Classes::opens(token)) - static_cast<std::int32_t>(Classes::closes(token));
    if (Classes::quotes(token)) {
      deeper += quoted != 0 ? -1 : 1;
      quoted = 1 - quoted;
    }
    depth += deeper;
    depth = depth < 0 ? 0 : depth > deepest ? deepest : depth;
    since = Classes::terminates(token) ? 0 : since < longest ? since + 1 : longest;
  }
};

/// syntax[row] after each row's token. One item: one sequence.
template <class Classes, Index ring_rows>
struct SyntaxKernel {
  Batch batch;
  const std::int32_t* token;
  History<std::int32_t, 1, ring_rows> history;  ///< of what this writes
  std::int32_t* syntax;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index sequence) const {
    const Index start = batch.start[sequence];
    Syntax now;
    if (start > 0) now = Syntax::of(*history.of(batch, sequence)[start - 1]);
    for (Index row = batch.begin[sequence]; row < batch.begin[sequence + 1]; ++row) {
      now.take<Classes>(token[row]);
      syntax[row] = now.packed();
    }
  }
};

/// projected[row] /= rms of the row's embedding: what is left is its direction. One item: predict_block rows.
template <class T, Index width, Index projected>
struct DirectionKernel {
  Index rows;
  const T* embedding;
  T* z;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * predict_block);
    for (Index row = item * predict_block; row < end; ++row) {
      const T square = sum_of_squares(embedding + row * width, width) / static_cast<T>(width);
      const T inverse = T(1) / math::sqrt(square + T(1e-12));
      for (Index i = 0; i < projected; ++i) z[row * projected + i] *= inverse;
    }
  }
};

/// Where the features of a window lie.
namespace window_feature {
inline constexpr Index entropy = 0, surprisal = 1, gain = 2, variance = 3, depth = 4, since = 5;
}
inline constexpr Index window_features = 6;

/// Rounded to a multiple of 1/steps; as it is for steps = 0.
template <Index steps, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE constexpr T in_steps(T value) {
  if constexpr (steps > 0) return static_cast<T>(static_cast<Index>(value * T(steps) + T(1000.5)) - 1000) / T(steps);
  return value;
}

/// How often each class of token occurs in a window, and how many classes occur n times.
template <Index window, Index hashes>
struct WindowCounts {
  std::uint16_t count[hashes];
  std::int32_t classes[window + 2];  ///< [n]: how many classes occur n times, n > 0

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void clear() {
    for (Index i = 0; i < hashes; ++i) count[i] = 0;
    for (Index n = 0; n < window + 2; ++n) classes[n] = 0;
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void add(Index c) {
    const std::uint16_t n = count[c]++;
    --classes[n];
    ++classes[n + 1];
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void remove(Index c) {
    const std::uint16_t n = count[c]--;
    --classes[n];
    ++classes[n - 1];
  }
};

/// feature[rows, 6] of the window that ends with each row's own token. One item: `block` rows.
template <class T, Index vocab, Index window, Index recent, Index projected, Index hashes, Index steps, Index ring_rows>
struct WindowFeaturesKernel {
  static constexpr Index block = 32;
  Batch batch;
  History<std::int32_t, 1, ring_rows> token;
  History<T, projected, ring_rows> z;
  History<T, 1, ring_rows> surprisal, gain;
  const std::int32_t* syntax;
  Array<T, window + 1> table;  ///< n_log_n
  T* feature;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    WindowCounts<window, hashes> counts;
    const Index end = smaller(batch.rows, (item + 1) * block);
    Index before = -1;
    for (Index row = item * block; row < end; ++row) {
      const Index sequence = batch.row_sequence[row], position = batch.row_position[row];
      const Index first = larger(0, position - window + 1);
      const Past<std::int32_t, 1, ring_rows> ids = token.of(batch, sequence);
      if (sequence == before) {
        counts.add(token_class<vocab, hashes>(*ids[position]));
        if (first > 0) counts.remove(token_class<vocab, hashes>(*ids[first - 1]));
      } else {
        counts.clear();
        ids.each(first, position + 1, [&](const std::int32_t* id) { counts.add(token_class<vocab, hashes>(*id)); });
      }
      before = sequence;
      const Syntax now = Syntax::of(syntax[row]);
      T* const to = feature + row * window_features;
      to[window_feature::entropy] = in_steps<steps>(entropy(counts, position - first + 1));
      to[window_feature::surprisal] = in_steps<steps>(mean(surprisal.of(batch, sequence), position));
      to[window_feature::gain] = in_steps<steps>(mean(gain.of(batch, sequence), position));
      to[window_feature::variance] = in_steps<steps>(variance(z.of(batch, sequence), first, position));
      to[window_feature::depth] = static_cast<T>(now.depth) / T(Syntax::deepest);
      to[window_feature::since] = static_cast<T>(now.since) / T(Syntax::longest);
    }
  }

 private:
  /// 1 − Σ_v n_v ln n_v / (N ln N), summed over n in ascending order: the entropy of the window's ids, 1 if all differ.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T entropy(const WindowCounts<window, hashes>& counts, Index count) const {
    if (count < 2) return T(0);
    T sum = 0;
    for (Index n = 2; n <= count; ++n) sum += static_cast<T>(counts.classes[n]) * table[n];
    return T(1) - sum / table[count];
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T mean(const Past<T, 1, ring_rows>& past, Index position) const {
    const Index first = larger(0, position - recent + 1);
    T sum = 0;
    past.each(first, position + 1, [&](const T* value) { sum += *value; });
    return sum / static_cast<T>(position - first + 1);
  }
  /// The mean over the elements of z of their variance over the window.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T variance(const Past<T, projected, ring_rows>& past, Index first, Index position) const {
    const T count = static_cast<T>(position - first + 1);
    T mean[projected] = {}, square[projected] = {};
    past.each(first, position + 1, [&](const T* row) {
      for (Index i = 0; i < projected; ++i) mean[i] += row[i];
    });
    for (Index i = 0; i < projected; ++i) mean[i] /= count;
    past.each(first, position + 1, [&](const T* row) {
      for (Index i = 0; i < projected; ++i) square[i] += (row[i] - mean[i]) * (row[i] - mean[i]);
    });
    T sum = 0;
    for (Index i = 0; i < projected; ++i) sum += square[i];
    return sum / (count * static_cast<T>(projected));
  }
};

}  // namespace hybridmoe::ops
