#pragma once
/// @file segment_cuts.hpp
/// Where segments end. When the token at t arrives, n_s tokens are in the open segment of scale s:
///
///   phrase      is cut before t if n ≥ least and (wanted or n ≥ forced)
///   sentence    if the phrase is and n ≥ least and (wanted or n ≥ forced); paragraph likewise on the sentence
///
/// Ω of a segment is p at a wanted cut (1 at a forced one) times 1 − p over the decisions declined before.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/ops/segments.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// log σ(x)
template <class T>
HYBRIDMOE_FUNCTION T log_sigmoid(T x) {
  const T least = x < T(0) ? x : T(0);
  return least - math::log(T(1) + math::exp(x < T(0) ? x : -x));
}

/// Wanted where p > ½, that is where the logit is positive.
struct LearnedCuts {
  static constexpr bool learned = true;
  template <SegmentLimits limits, class T>
  HYBRIDMOE_FUNCTION static bool wanted(Index, Index, Index, T logit) {
    return logit > T(0);
  }
};
/// Wanted from the mean length on, whatever the tokens are.
struct FixedCuts {
  static constexpr bool learned = false;
  template <SegmentLimits limits, class T>
  HYBRIDMOE_FUNCTION static bool wanted(Index scale, Index tokens, Index, T) {
    return tokens >= limits.at(scale).aim();
  }
};
/// Wanted from a random length on, uniform between the limits, a hash of the position at which the segment began.
struct RandomCuts {
  static constexpr bool learned = false;
  template <SegmentLimits limits, class T>
  HYBRIDMOE_FUNCTION static bool wanted(Index scale, Index tokens, Index position, T) {
    const Index least = limits.at(scale).least, choices = limits.forced(scale) - least + 1;
    const random::Block words = random::draw(random::Key{0x7365676du, 0x656e7473u}, static_cast<std::uint64_t>(scale),
                                             static_cast<std::uint64_t>(position - tokens));
    return tokens >= least + static_cast<Index>(words.word[0] % static_cast<std::uint32_t>(choices));
  }
};

/// What a row decided about a scale.
struct CutDecision {
  bool asked = false;  ///< it was free to cut or not
  bool cut = false;
};

/// The decision about `scale` when a token arrives at `position`; `below`: the scale below is cut there (true for phrases).
template <SegmentLimits limits, class Cuts, class T>
HYBRIDMOE_FUNCTION CutDecision decide_cut(Index scale, bool below, Index tokens, Index position, T logit) {
  if (!below || tokens < limits.at(scale).least) return {};
  if (tokens >= limits.forced(scale)) return {false, true};
  return {true, Cuts::template wanted<limits>(scale, tokens, position, logit)};
}

/// The segmentation's rows by number are positions; this is the count after `position` (zeros before the first).
HYBRIDMOE_FUNCTION inline SegmentCount count_after(const NumberedRows<SegmentCount>& counts, Index sequence, Index position) {
  return position < 0 ? SegmentCount{} : *counts.at(sequence, position);
}

/// Decides row after row. One item: a sequence.
template <class T, SegmentLimits limits, class Cuts>
struct CutKernel {
  static constexpr Index scales = SegmentLimits::scales;
  Batch batch;
  const T* logit;                     ///< [rows, scales]; null unless learned
  NumberedRows<SegmentCount> before;  ///< counts of earlier positions (its rows are `count`)
  NumberedRows<T> open_before;        ///< log Ω so far of the open segments, [scales] by position (its rows are `open`)
  SegmentCount* count;                ///< [rows] after each row
  T *open, *closing;                  ///< [rows, scales] the same for log Ω; and of the segment that a row closes (0: none)

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index s) const {
    const Index begin = batch.begin[s], start = batch.start[s];
    SegmentCount now = count_after(before, s, start - 1);
    T sum[scales] = {};
    if constexpr (Cuts::learned) {
      if (start > 0)
        for (Index i = 0; i < scales; ++i) sum[i] = open_before.at(s, start - 1)[i];
    }
    for (Index row = begin; row < batch.begin[s + 1]; ++row) {
      bool below = true;
      for (Index i = 0; i < scales; ++i) {
        T value = 0, done = 0;
        if constexpr (Cuts::learned) value = logit[row * scales + i];
        const CutDecision decision = decide_cut<limits, Cuts>(i, below, now.tokens[i], start + row - begin, value);
        if constexpr (Cuts::learned) {
          if (decision.asked) sum[i] += log_sigmoid(decision.cut ? value : -value);
          if (decision.cut) {
            done = sum[i];
            sum[i] = 0;
          }
        }
        if (decision.cut) {
          ++now.closed[i];
          now.tokens[i] = now.children[i] = 0;
          if (i + 1 < scales) ++now.children[i + 1];
        }
        below = decision.cut;
        ++now.tokens[i];
        open[row * scales + i] = sum[i];
        closing[row * scales + i] = done;
      }
      ++now.children[0];
      count[row] = now;
    }
  }
};

/// Where each sequence's segments of a call lie. One item.
template <class T>
struct PlaceSegmentsKernel {
  Batch batch;
  NumberedRows<SegmentCount> counts;
  Index *offset, *first, *before;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    Index total = 0;
    for (Index scale = 0; scale < SegmentLimits::scales; ++scale) {
      offset[scale] = total;
      for (Index s = 0; s < batch.sequences; ++s) {
        const Index earlier = count_after(counts, s, batch.start[s] - 1).closed[scale];
        first[scale * (batch.sequences + 1) + s] = total;
        before[scale * batch.sequences + s] = earlier;
        total += counts.rows[batch.begin[s + 1] - 1].closed[scale] - earlier;
      }
      first[scale * (batch.sequences + 1) + batch.sequences] = total;
    }
    offset[SegmentLimits::scales] = total;
  }
};

/// Describes the segments that rows close. One item: `rows_per_item` rows.
template <class T>
struct DescribeSegmentsKernel {
  static constexpr Index rows_per_item = 32;
  Batch batch;
  NumberedRows<SegmentCount> counts;
  const T* closing;
  ClosedSegments<T> to;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * rows_per_item);
    for (Index row = item * rows_per_item; row < last; ++row) {
      const Index sequence = batch.row_sequence[row], position = batch.row_position[row];
      const SegmentCount old = count_after(counts, sequence, position - 1);
      for (Index scale = 0; scale < SegmentLimits::scales && counts.rows[row].closed[scale] > old.closed[scale]; ++scale) {
        const Index number = old.closed[scale];
        const Index i = to.first_of(scale, batch.sequences)[sequence] + number - to.before_of(scale, batch.sequences)[sequence];
        // What closes here is the last child of the segment above.
        const Index children = old.children[scale] + (scale == 0 ? 0 : 1);
        to.row[i] = row;
        to.sequence[i] = sequence;
        to.number[i] = number;
        to.end[i] = position - 1;
        to.length[i] = old.tokens[scale];
        to.children[i] = children;
        to.child[i] = (scale == 0 ? position : old.closed[scale - 1] + 1) - children;
        to.log_omega[i] = closing[row * SegmentLimits::scales + scale];
      }
    }
  }
};

/// From d log Ω of segments to the logits of the decisions that each of them was, and on to the cosine: d_cosine[rows], and
/// d_sharpness[rows], each row's part. Segmentation is held fixed. One item: `rows_per_item` rows. Whole sequences.
template <class T, SegmentLimits limits, class Cuts>
struct CutBackwardKernel {
  static constexpr Index scales = SegmentLimits::scales, rows_per_item = 32;
  Batch batch;
  ClosedSegments<T> segments;
  const T *logit, *cosine, *sharpness;
  T *d_cosine, *d_sharpness;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * rows_per_item);
    for (Index row = item * rows_per_item; row < last; ++row) {
      const Index sequence = batch.row_sequence[row], position = batch.row_position[row];
      T sum = 0;
      bool below = position > 0;
      for (Index scale = 0; scale < scales && below; ++scale) {
        const SegmentCount& old = segments.count[row - 1];
        const T value = logit[row * scales + scale];
        const CutDecision decision = decide_cut<limits, Cuts>(scale, below, old.tokens[scale], position, value);
        below = decision.cut;
        const Index* const first = segments.first_of(scale, batch.sequences);
        const Index i = first[sequence] + old.closed[scale];
        if (!decision.asked || i >= first[sequence + 1]) continue;  // forced, or the segment is still open at the end
        sum += segments.d_log_omega[i] * (decision.cut ? math::sigmoid(-value) : -math::sigmoid(value));
      }
      d_cosine[row] = -*sharpness * sum;
      d_sharpness[row] = -cosine[row] * sum;
    }
  }
};

/// error[s] += scale·(1 − mean length/aim) of the segments that a call closed: what an integral controller lowers. One item.
template <class T, SegmentLimits limits>
struct LengthErrorKernel {
  ClosedSegments<T> segments;
  T scale;
  T* error;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    for (Index s = 0; s < SegmentLimits::scales; ++s) {
      const Index count = segments.offset[s + 1] - segments.offset[s];
      Index tokens = 0;
      for (Index i = segments.offset[s]; i < segments.offset[s + 1]; ++i) tokens += segments.length[i];
      if (count > 0) error[s] += scale * (T(1) - static_cast<T>(tokens) / static_cast<T>(count * limits.at(s).aim()));
    }
  }
};

}  // namespace hybridmoe::ops
