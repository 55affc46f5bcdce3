#pragma once
/// @file segments.hpp
/// Segments of a sequence in three nested scales (phrase, sentence, paragraph): their limits, the integers that a position
/// carries, and the structure by which layers read the segments that a call closes (stream::Segments).

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Tokens of a segment: the hard limits, and the mean length that is aimed at (0: the middle).
struct SegmentLength {
  Index least, most, mean = 0;
  HYBRIDMOE_FUNCTION constexpr Index aim() const { return mean > 0 ? mean : (least + most) / 2; }
};

/// The limits of the three scales. A segment of a scale consists of whole segments of the scale below.
struct SegmentLimits {
  SegmentLength phrase = SegmentLength{3, 5}, sentence = SegmentLength{15, 25}, paragraph = SegmentLength{100, 200};

  static constexpr Index scales = 3;
  HYBRIDMOE_FUNCTION constexpr SegmentLength at(Index scale) const {
    return scale == 0 ? phrase : scale == 1 ? sentence : paragraph;
  }
  /// From so many tokens on, a segment is cut at the next chance: one more segment of the scale below might be too many.
  HYBRIDMOE_FUNCTION constexpr Index forced(Index scale) const {
    return scale == 0 ? phrase.most : at(scale).most - at(scale - 1).most + 1;
  }
  /// Most tokens of a phrase, or segments of the scale below in a segment.
  HYBRIDMOE_FUNCTION constexpr Index children(Index scale) const {
    return scale == 0 ? phrase.most : at(scale).most / at(scale - 1).least;
  }
  /// Most segments that `tokens` tokens in a row can close.
  HYBRIDMOE_FUNCTION constexpr Index closings(Index scale, Index tokens) const { return divide_up(tokens, at(scale).least); }
  /// Most segments that a call can close: of a scale, and of all.
  HYBRIDMOE_FUNCTION constexpr Index capacity(Index scale, Index rows, Index sequences) const {
    return rows / at(scale).least + sequences;
  }
  HYBRIDMOE_FUNCTION constexpr Index capacity(Index rows, Index sequences) const {
    return capacity(0, rows, sequences) + capacity(1, rows, sequences) + capacity(2, rows, sequences);
  }
  /// Whether segments within these limits are never more than where there is room for `other`: none of a scale is shorter.
  HYBRIDMOE_FUNCTION constexpr bool no_more_than(const SegmentLimits& other) const {
    bool result = true;
    for (Index s = 0; s < scales; ++s) result = result && at(s).least >= other.at(s).least;
    return result;
  }
  /// Whether lengths are positive, each scale is longer than the one below, and the limits can be kept: a segment that may not
  /// be cut yet must not be overfull after one more of the scale below.
  constexpr bool sound() const {
    bool result = phrase.least > 0;
    for (Index s = 0; s < scales; ++s) {
      result = result && at(s).least <= forced(s) && at(s).least <= at(s).aim() && at(s).aim() <= at(s).most;
      if (s > 0) result = result && at(s).least > at(s - 1).most;
    }
    return result;
  }
};

namespace ops {

/// What a position carries of the segmentation, for each scale: tokens and children (tokens, phrases, sentences) in the open
/// segment, the position's own token included; and how many segments are closed.
struct SegmentCount {
  std::int32_t tokens[SegmentLimits::scales], children[SegmentLimits::scales], closed[SegmentLimits::scales];
};

/// The segments that a call closes: all phrases, then sentences, then paragraphs; within a scale sequence by sequence. A
/// sequence's segments are numbered from 0 at its beginning. Arrays by segment have capacity() entries, the first offset[3]
/// written.
template <class T>
struct ClosedSegments {
  Index size = 0;                 ///< elements of a segment's vector
  Index capacity = 0;             ///< most segments of the call
  SegmentLimits limits{};         ///< of the lengths
  Index* offset = nullptr;        ///< [4] where each scale begins
  Index* first = nullptr;         ///< [3][sequences + 1] where each sequence's segments of a scale begin
  Index* before = nullptr;        ///< [3][sequences] how many were closed before the call
  Index* row = nullptr;           ///< [segments] the first row that sees the segment
  Index* sequence = nullptr;      ///< [segments]
  Index* number = nullptr;        ///< [segments] within its sequence and scale
  Index* end = nullptr;           ///< [segments] position of its last token
  Index* length = nullptr;        ///< [segments] in tokens
  Index* children = nullptr;      ///< [segments] of the scale below (tokens for phrases)
  Index* child = nullptr;         ///< [segments] number (position for tokens) of the first of them
  T* log_omega = nullptr;         ///< [segments] log of the probability of its boundaries
  T* vector = nullptr;            ///< [segments, size]
  T* d_log_omega = nullptr;       ///< gradients, added to by layers; null outside training
  T* d_vector = nullptr;          ///< [segments, size]
  SegmentCount* count = nullptr;  ///< [rows] after each row

  HYBRIDMOE_FUNCTION constexpr ClosedSegments() = default;
  HYBRIDMOE_FUNCTION constexpr ClosedSegments(auto& arena, const SegmentLimits& limits_, Index size_, Index rows, Index sequences,
                                              bool training)
      : size(size_),
        capacity(limits_.capacity(rows, sequences)),
        limits(limits_),
        offset(arena.template take<Index>(SegmentLimits::scales + 1)),
        first(arena.template take<Index>(SegmentLimits::scales * (sequences + 1))),
        before(arena.template take<Index>(SegmentLimits::scales * sequences)),
        row(arena.template take<Index>(capacity)),
        sequence(arena.template take<Index>(capacity)),
        number(arena.template take<Index>(capacity)),
        end(arena.template take<Index>(capacity)),
        length(arena.template take<Index>(capacity)),
        children(arena.template take<Index>(capacity)),
        child(arena.template take<Index>(capacity)),
        log_omega(arena.template take<T>(capacity)),
        vector(arena.template take<T>(capacity * size)),
        count(arena.template take<SegmentCount>(rows)) {
    if (!training) return;
    d_log_omega = arena.template take<T>(capacity);
    d_vector = arena.template take<T>(capacity * size);
  }

  HYBRIDMOE_FUNCTION const Index* first_of(Index scale, Index sequences) const { return first + scale * (sequences + 1); }
  HYBRIDMOE_FUNCTION const Index* before_of(Index scale, Index sequences) const { return before + scale * sequences; }
  HYBRIDMOE_FUNCTION Index scale_of(Index segment) const { return segment < offset[1] ? 0 : segment < offset[2] ? 1 : 2; }
};

/// Rows of sequences by number (tokens by position, segments by their number): those of the call, and before them those that a
/// ring in each sequence's state keeps.
template <class T>
struct NumberedRows {
  const T* rows = nullptr;  ///< the call's, `width` elements each
  Index width = 0;
  const Index* first = nullptr;     ///< [sequences] of the call's rows
  const Index* before = nullptr;    ///< [sequences] number of that row
  const std::byte* ring = nullptr;  ///< slot 0's; null without states
  Index stride = 0, size = 0;       ///< bytes between states; rows of a ring
  const Index* slot = nullptr;

  HYBRIDMOE_FUNCTION const T* at(Index sequence, Index number) const {
    const Index inside = number - before[sequence];
    if (inside >= 0) return rows + (first[sequence] + inside) * width;
    return reinterpret_cast<const T*>(ring + slot[sequence] * stride) + number % size * width;
  }
};

/// Keeps the last `size` of each sequence's rows of the call in its ring. One item: a sequence.
template <class T, Index width, Index size>
struct KeepRowsKernel {
  const T* rows;
  const Index *first, *before;  ///< [sequences + 1], [sequences]
  std::byte* ring;
  Index stride;
  const Index* slot;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index s) const {
    const Index count = first[s + 1] - first[s];
    T* const to = reinterpret_cast<T*>(ring + slot[s] * stride);
    for (Index i = larger(0, count - size); i < count; ++i) {
      const T* const from = rows + (first[s] + i) * width;
      T* const at = to + (before[s] + i) % size * width;
      for (Index c = 0; c < width; ++c) at[c] = from[c];
    }
  }
};

/// total[c] += Σ term(i, c) over range[0] ≤ i < range[1] (or 0 ≤ i < rows where range is null), in order. One item: some
/// columns.
template <class T, class Term>
struct SumColumnsKernel {
  static constexpr Index block = 64;
  Index columns, rows;
  const Index* range;
  Term term;
  T* total;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index from = item * block, count = smaller(block, columns - from);
    const Index begin = range == nullptr ? 0 : range[0], end = range == nullptr ? rows : range[1];
    T partial[block] = {};
    for (Index i = begin; i < end; ++i)
      for (Index j = 0; j < count; ++j) partial[j] += term(i, from + j);
    for (Index j = 0; j < count; ++j) total[from + j] += partial[j];
  }
};

template <class Space, class T, class Term>
HYBRIDMOE_FUNCTION void sum_columns(const Space& space, Index columns, Index rows, const Index* range, const Term& term,
                                    T* total) {
  using Kernel = SumColumnsKernel<T, Term>;
  space.each(divide_up(columns, Kernel::block), Kernel{columns, rows, range, term, total});
}

/// weight[i]·x[i, column]
template <class T>
struct WeightedTerm {
  const T *weight, *x;
  Index width;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T operator()(Index i, Index column) const { return weight[i] * x[i * width + column]; }
};
/// x[i, column]·y[i, column]
template <class T>
struct ProductTerm {
  const T *x, *y;
  Index width;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T operator()(Index i, Index column) const {
    return x[i * width + column] * y[i * width + column];
  }
};
/// d[i, column]·x[i, column]·inverse[i]: a norm's gain
template <class T>
struct GainTerm {
  const T *d, *x, *inverse;
  Index width;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T operator()(Index i, Index column) const {
    return d[i * width + column] * (x[i * width + column] * inverse[i]);
  }
};

}  // namespace ops
}  // namespace hybridmoe
