#pragma once
/// @file history.hpp
/// What a sequence's earlier positions held, for kernels that look back: in the arrays of the call, and before the call in a ring
/// of the sequence's state. A ring is a function of the absolute position: position p lies at row p mod ring. So a sequence
/// that takes n tokens back goes on at a smaller position, if the ring keeps n rows more than are looked at.

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/tensor.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// One sequence's rows of `width` elements by absolute position.
template <class E, Index width, Index ring_rows>
struct Past {
  const E* rows = nullptr;  ///< the row at position `start`
  Index start = 0;
  const E* ring = nullptr;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE const E* operator[](Index position) const {
    return position >= start ? rows + (position - start) * width : ring + position % ring_rows * width;
  }
  /// f(row) for positions first … end − 1, in order; rows that lie one behind another are found without a division each.
  template <class F>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void each(Index first, Index end, const F& f) const {
    Index position = first;
    while (position < end && position < start) {
      const Index place = position % ring_rows, count = smaller(ring_rows - place, smaller(end, start) - position);
      for (Index i = 0; i < count; ++i) f(ring + (place + i) * width);
      position += count;
    }
    for (; position < end; ++position) f(rows + (position - start) * width);
  }
};

/// The rows of a call and the rings of its states. A null `ring`: sequences start at position 0.
template <class E, Index width, Index ring_rows>
struct History {
  const E* rows = nullptr;    ///< [the call's rows, width]
  std::byte* ring = nullptr;  ///< the ring of slot 0: an Array<E, ring_rows, width>
  Index stride = 0;           ///< bytes from one slot's ring to the next

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE E* ring_of(const Batch& batch, Index sequence) const {
    return ring == nullptr ? nullptr : reinterpret_cast<E*>(ring + batch.slot[sequence] * stride);
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE Past<E, width, ring_rows> of(const Batch& batch, Index sequence) const {
    return {rows + batch.begin[sequence] * width, batch.start[sequence], ring_of(batch, sequence)};
  }
};

/// Puts the call's last rows into the rings. One item: one sequence. It runs after all kernels that look back.
template <class E, Index width, Index ring_rows>
struct KeepKernel {
  Batch batch;
  History<E, width, ring_rows> history;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index sequence) const {
    const Index count = batch.begin[sequence + 1] - batch.begin[sequence], start = batch.start[sequence];
    const E* const rows = history.rows + batch.begin[sequence] * width;
    E* const ring = history.ring_of(batch, sequence);
    for (Index row = larger(0, count - ring_rows); row < count; ++row)
      for (Index i = 0; i < width; ++i) ring[(start + row) % ring_rows * width + i] = rows[row * width + i];
  }
};

}  // namespace hybridmoe::ops
