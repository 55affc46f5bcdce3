#pragma once
/// @file batch.hpp
/// Which rows of an activation belong to which sequence, and at which positions. One description serves training (whole
/// sequences), prefill (one long chunk), decoding (chunks of one row) and serving (sequences of different lengths together).

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// The rows of a call. Counts are host values; the arrays live where the space's kernels read.
struct Batch {
  Index rows = 0;                       ///< rows in all
  Index sequences = 0;                  ///< sequences in all
  Index longest = 0;                    ///< an upper bound of one sequence's rows
  const Index* begin = nullptr;         ///< [sequences + 1] first row of each sequence; rows of a sequence are neighbours
  const Index* start = nullptr;         ///< [sequences] absolute position of that first row
  const Index* slot = nullptr;          ///< [sequences] which state a sequence uses (unused without states)
  const Index* row_sequence = nullptr;  ///< [rows] the sequence of a row
  const Index* row_position = nullptr;  ///< [rows] the absolute position of a row
};

/// Upper bounds that plan memory: a batch of at most this size fits.
struct Extent {
  Index rows = 0;
  Index sequences = 0;
  bool training = false;  ///< a tape will be kept for backward

  static constexpr Extent of(const Batch& batch, bool training) { return {batch.rows, batch.sequences, training}; }
};

}  // namespace hybridmoe
