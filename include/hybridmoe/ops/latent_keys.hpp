#pragma once
/// @file latent_keys.hpp
/// Where latent attention's core finds its keys. A position's keys have a part per head, times a number per head and position
/// where keys are normalised, and a rotary part that all heads share. Everything lies in tiles of 32 positions at absolute
/// multiples of 32, as lines [32 positions], so that 32 keys are one vector per element.

#include <type_traits>

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/ops/key_store.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// A vector for each row and head, in any layout.
template <class T>
struct HeadRows {
  T* data = nullptr;
  Index row_stride = 0, head_stride = 0;

  HYBRIDMOE_FUNCTION T* at(Index row, Index head) const { return data + row * row_stride + head * head_stride; }
  HYBRIDMOE_FUNCTION operator HeadRows<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {data, row_stride, head_stride};
  }
};

/// The absorbed form: every head's key and value is the latent itself, so that all heads read one tile
/// [latent | rotary | a line per head of inverse root mean squares, if scaled][32].
template <class T, int heads_, int latent, int rotary, bool scaled_>
struct AbsorbedKeys {
  static constexpr int heads = heads_, size = latent, turned = rotary, value_size = latent;
  static constexpr bool scaled = scaled_, shared = true;
  static constexpr int lines = latent + rotary + (scaled ? heads : 0);  ///< that a position takes in the store
  using Stores = KeyStores<T, lines, 1>;

  Stores stores;

  /// One sequence.
  struct View {
    KeyStore<T, lines> store;
    HYBRIDMOE_FUNCTION const T* key(Index, Index tile) const { return store.key_at(0, tile); }
    HYBRIDMOE_FUNCTION const T* value(Index, Index tile) const { return store.key_at(0, tile); }
    HYBRIDMOE_FUNCTION const T* rotary_key(Index tile) const { return store.key_at(0, tile) + latent * key_tile; }
    HYBRIDMOE_FUNCTION const T* inverse(Index head, Index tile) const {
      return store.key_at(0, tile) + (latent + rotary + head) * key_tile;
    }
  };
  HYBRIDMOE_FUNCTION View of(const Batch& batch, Index sequence) const {
    return {stores.of(sequence, batch.begin[sequence], stores.state_base == nullptr ? 0 : batch.slot[sequence])};
  }
};

/// The expanded form: the store has [latent | rotary][32]; each call forms a tile [key | value | inverse, if scaled][32] of every
/// head from it (ExpandLatent).
template <class T, int heads_, int latent_, int rotary, int size_, int value_, bool scaled_>
struct ExpandedKeys {
  static constexpr int heads = heads_, latent = latent_, size = size_, turned = rotary, value_size = value_;
  static constexpr bool scaled = scaled_, shared = false;
  static constexpr int lines = latent + rotary;
  static constexpr int expanded_lines = size + value_size + (scaled ? 1 : 0);
  using Stores = KeyStores<T, lines, 1>;

  Stores stores;
  T* expanded = nullptr;  ///< [tiles][heads][expanded_lines][32]

  /// Elements of `expanded`: in training as many tiles as the store has on the tape, else the state's for each sequence.
  static constexpr Index expanded_elements(Index tiles) { return tiles * heads * expanded_lines * key_tile; }

  struct View {
    KeyStore<T, lines> store;
    T* expanded;
    HYBRIDMOE_FUNCTION T* at(Index head, Index tile) const {
      return expanded + (tile * heads + head) * (expanded_lines * key_tile);
    }
    HYBRIDMOE_FUNCTION const T* key(Index head, Index tile) const { return at(head, tile); }
    HYBRIDMOE_FUNCTION const T* value(Index head, Index tile) const { return at(head, tile) + size * key_tile; }
    HYBRIDMOE_FUNCTION const T* rotary_key(Index tile) const { return store.key_at(0, tile) + latent * key_tile; }
    HYBRIDMOE_FUNCTION const T* inverse(Index head, Index tile) const { return at(head, tile) + (size + value_size) * key_tile; }
  };
  HYBRIDMOE_FUNCTION View of(const Batch& batch, Index sequence) const {
    const bool tape = stores.state_base == nullptr;
    const Index begin = batch.begin[sequence];
    const Index first = tape ? begin / key_tile + sequence : sequence * stores.state_tiles;
    return {stores.of(sequence, begin, tape ? 0 : batch.slot[sequence]), expanded + expanded_elements(first)};
  }
};

}  // namespace hybridmoe::ops
