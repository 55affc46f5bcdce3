#pragma once
/// @file key_store.hpp
/// Keys and values of one sequence in tiles of 32 positions fixed to absolute multiples of 32. Keys lie transposed
/// [size][32 positions], so that scores of 32 keys are one vector per head element; values lie [32 positions][size].

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

inline constexpr Index key_tile = 32;

/// Where tile `tile` lies in a ring of `tiles`. (Most rings are not full: a division takes longer than to fetch a key.)
HYBRIDMOE_FUNCTION constexpr Index ring_tile(Index tile, Index tiles) { return tile < tiles ? tile : tile % tiles; }

/// A view of one sequence's store: kv heads × tiles. Position p lives in tile (p/32) mod tiles, so a store may be a ring.
/// head_stride: elements from one kv head to the next.
template <class T, int size>
struct KeyStore {
  T* keys = nullptr;
  T* values = nullptr;
  Index tiles = 0;
  Index head_stride = 0;

  HYBRIDMOE_FUNCTION T* key_at(Index head, Index tile) const {
    return keys + head * head_stride + ring_tile(tile, tiles) * (size * key_tile);
  }
  HYBRIDMOE_FUNCTION T* value_at(Index head, Index tile) const {
    return values + head * head_stride + ring_tile(tile, tiles) * (size * key_tile);
  }
};

/// Tiles that hold `positions` positions of a sequence.
constexpr Index tiles_for(Index positions) { return divide_up(positions, key_tile); }

/// Where the store of a batch's sequence lies: in states (serving) or in one block of a tape (training), where sequence s
/// starts at tile begin[s]/32 + s, which keeps sequences apart whatever their lengths.
template <class T, int size, Index kv_heads>
struct KeyStores {
  T* tape_keys = nullptr;    ///< [kv heads][tape_tiles][size][32], or null with states
  T* tape_values = nullptr;  ///< [kv heads][tape_tiles][32][size]
  Index tape_tiles = 0;
  std::byte* state_base = nullptr;  ///< first state's keys; values follow at value_offset
  Index state_stride = 0;
  Index value_offset = 0;  ///< elements
  Index state_tiles = 0;

  static constexpr Index tape_tiles_for(Index rows, Index sequences) { return rows / key_tile + sequences; }
  static constexpr Index tape_elements(Index rows, Index sequences) {
    return tape_tiles_for(rows, sequences) * key_tile * size * kv_heads;
  }

  /// The store of sequence `sequence`, whose first row is `begin` and whose state is `slot`.
  HYBRIDMOE_FUNCTION KeyStore<T, size> of(Index sequence, Index begin, Index slot) const {
    constexpr Index tile_elements = size * key_tile;
    if (state_base == nullptr) {
      const Index first = begin / key_tile + sequence, at = first * tile_elements;
      return {tape_keys + at, tape_values + at, tape_tiles - first, tape_tiles * tile_elements};
    }
    T* const keys = reinterpret_cast<T*>(state_base + slot * state_stride);
    return {keys, keys + value_offset, state_tiles, state_tiles * tile_elements};
  }
};

}  // namespace hybridmoe::ops
