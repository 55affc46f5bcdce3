#pragma once
/// @file batch_plan.hpp
/// Builds a Batch on the host: name the pieces of sequences of one call, copy the plan's one array to where the space's kernels
/// read, and view it there.

#include <vector>

#include <hybridmoe/core/batch.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// The pieces of one call: `plan.clear(); plan.add(slot, start, count); …; copy plan.data() to the space; plan.view(base)`.
/// Nothing is allocated as long as the plan stays within the sizes it was made for.
class BatchPlan {
 public:
  /// Scalars of the five arrays of a batch.
  static constexpr Index index_count(Index rows, Index sequences) { return 3 * sequences + 1 + 2 * rows; }

  BatchPlan() = default;
  /// Reserves room for a batch of at most `rows` rows in `sequences` pieces.
  BatchPlan(Index rows, Index sequences) {
    pieces_.reserve(to_size(sequences));
    arrays_.reserve(to_size(index_count(rows, sequences)));
  }

  void clear() {
    pieces_.clear();
    rows_ = longest_ = 0;
  }
  /// The next `count` rows are positions start … start+count−1 of the sequence whose state is `slot`.
  void add(Index slot, Index start, Index count) {
    HYBRIDMOE_ASSERT(slot >= 0 && start >= 0 && count > 0);
    pieces_.push_back({slot, start, count});
    rows_ += count;
    longest_ = larger(longest_, count);
  }

  Index rows() const { return rows_; }
  Index sequences() const { return to_index(pieces_.size()); }
  /// How many scalars data() holds: index_count(rows(), sequences()).
  Index count() const { return index_count(rows_, sequences()); }

  /// Fills and returns the arrays, in host memory.
  const Index* data() {
    arrays_.resize(to_size(count()));
    Index* const begin = arrays_.data();
    Index* const start = begin + sequences() + 1;
    Index* const slot = start + sequences();
    Index* const row_sequence = slot + sequences();
    Index* const row_position = row_sequence + rows_;
    Index row = 0;
    for (Index s = 0; s < sequences(); ++s) {
      const Piece& piece = pieces_[to_size(s)];
      begin[s] = row;
      start[s] = piece.start;
      slot[s] = piece.slot;
      for (Index i = 0; i < piece.count; ++i, ++row) {
        row_sequence[row] = s;
        row_position[row] = piece.start + i;
      }
    }
    begin[sequences()] = row;
    return begin;
  }

  /// The batch, for a space that finds a copy of data() at `base`.
  Batch view(const Index* base) const {
    Batch batch;
    batch.rows = rows_;
    batch.sequences = sequences();
    batch.longest = longest_;
    batch.begin = base;
    batch.start = base + sequences() + 1;
    batch.slot = batch.start + sequences();
    batch.row_sequence = batch.slot + sequences();
    batch.row_position = batch.row_sequence + rows_;
    return batch;
  }

 private:
  struct Piece {
    Index slot, start, count;
  };
  std::vector<Piece> pieces_;
  std::vector<Index> arrays_;
  Index rows_ = 0, longest_ = 0;
};

}  // namespace hybridmoe
