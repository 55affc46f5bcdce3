#pragma once
/// @file latent_heads.hpp
/// Around latent attention's core: queries normalised, turned and scaled; latents stored; keys and values of all heads formed
/// from the latents.

#include <hybridmoe/ops/attention_heads.hpp>
#include <hybridmoe/ops/latent_keys.hpp>
#include <hybridmoe/ops/tile.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Each head's query [size | rotary] becomes `head` (normalised, times the gains of query and key) and `turned` (normalised,
/// rotated), both scaled. One item: head_rows rows.
template <class T, int heads, int size, int rotary, class Position, class HeadNorm>
struct PrepareLatentQuery {
  Batch batch;
  const T* query;       ///< [rows, heads·(size + rotary)]
  const T* query_gain;  ///< [size] or null
  const T* key_gain;    ///< [size] or null
  T scale;
  HeadRows<T> head;    ///< [size]
  HeadRows<T> turned;  ///< [rotary]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * head_rows);
    for (Index row = item * head_rows; row < last; ++row) {
      T cosine[rotary / 2 + 1], sine[rotary / 2 + 1], part[size], other[rotary];
      Position::template table<rotary>(batch.row_position[row], cosine, sine);
      for (Index h = 0; h < heads; ++h) {
        const T* const from = query + (row * heads + h) * (size + rotary);
        for (int i = 0; i < size; ++i) part[i] = from[i];
        HeadNorm::template apply<size>(part, query_gain);
        if (key_gain != nullptr)
          for (int i = 0; i < size; ++i) part[i] *= key_gain[i];
        for (int i = 0; i < size; ++i) head.at(row, h)[i] = part[i] * scale;
        for (int i = 0; i < rotary; ++i) other[i] = from[size + i];
        HeadNorm::template apply<rotary>(other, static_cast<const T*>(nullptr));
        Position::template rotate<rotary>(other, cosine, sine);
        for (int i = 0; i < rotary; ++i) turned.at(row, h)[i] = other[i] * scale;
      }
    }
  }
};

/// The way back: d_query [rows, heads·(size + rotary)] (assigned), and per-item sums of the gains' gradients in
/// `partial`: the query gain's, then the key gain's.
template <class T, int heads, int size, int rotary, class Position, class HeadNorm>
struct PrepareLatentQueryBackward {
  Batch batch;
  const T *query, *query_gain, *key_gain;
  T scale;
  HeadRows<const T> d_head, d_turned;
  T* d_query;
  T* partial;  ///< [2, items, size], or null

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * head_rows);
    T sum[2 * size] = {}, unused[rotary];
    for (Index row = item * head_rows; row < last; ++row) {
      T cosine[rotary / 2 + 1], sine[rotary / 2 + 1];
      Position::template table<rotary>(batch.row_position[row], cosine, sine);
      for (Index h = 0; h < heads; ++h) {
        const T* const from = query + (row * heads + h) * (size + rotary);
        T* const d = d_query + (row * heads + h) * (size + rotary);
        for (int i = 0; i < size; ++i) d[i] = d_head.at(row, h)[i] * scale;
        if (key_gain != nullptr) {
          T part[size];
          for (int i = 0; i < size; ++i) part[i] = from[i];
          HeadNorm::template apply<size>(part, query_gain);
          for (int i = 0; i < size; ++i) {
            sum[size + i] += d[i] * part[i];
            d[i] *= key_gain[i];
          }
        }
        HeadNorm::template backward<size>(from, query_gain, d, sum);
        for (int i = 0; i < rotary; ++i) d[size + i] = d_turned.at(row, h)[i] * scale;
        Position::template unrotate<rotary>(d + size, cosine, sine);
        HeadNorm::template backward<rotary>(from + size, static_cast<const T*>(nullptr), d + size, unused);
      }
    }
    if (partial == nullptr) return;
    const Index items = divide_up(batch.rows, head_rows);
    for (int i = 0; i < size; ++i) {
      partial[item * size + i] = sum[i];
      partial[(items + item) * size + i] = sum[size + i];
    }
  }
};

/// Queries turned to the latents' side: to(row, head) = Σ_i head_query(row, head)_i·W_key,head[i]. The weights' rows lie as the
/// product reads them. One item: absorb_rows rows of a head.
template <class T, int heads, int size, int latent>
struct AbsorbQuery {
  static constexpr Index absorb_rows = 32;
  Index rows;
  HeadRows<const T> head_query;  ///< [size]
  const T* key_weight;           ///< [heads·size, latent]
  HeadRows<T> to;                ///< [latent]

  HYBRIDMOE_FUNCTION static Index items(Index rows) { return heads * divide_up(rows, absorb_rows); }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index head = item % heads, row = item / heads * absorb_rows;
    tile::multiply<T, latent>(static_cast<int>(smaller(absorb_rows, rows - row)), size, head_query.at(row, head),
                              head_query.row_stride, 1, key_weight + head * size * latent, latent, to.at(row, head),
                              to.row_stride);
  }
};

/// Latents, rotary keys (normalised, rotated) and, where Keys stores them, the inverse root mean squares of the heads' keys go to
/// the store. One item: head_rows rows.
template <class T, class Keys, int latent_size, int key_size, class Position, class HeadNorm>
struct StoreLatent {
  static constexpr int heads = Keys::heads, rotary = Keys::turned;

  Batch batch;
  const T* latent;    ///< [rows, latent_size]
  const T* down;      ///< [rows, latent_size + rotary]: ends with the rotary key
  const T* head_key;  ///< [rows, heads·key_size], if Keys::shared and Keys::scaled
  typename Keys::Stores stores;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * head_rows);
    for (Index row = item * head_rows; row < last; ++row) {
      const Index sequence = batch.row_sequence[row], position = batch.row_position[row];
      const auto store = stores.of(sequence, batch.begin[sequence], stores.state_base == nullptr ? 0 : batch.slot[sequence]);
      T* const to = store.key_at(0, position / key_tile) + position % key_tile;
      for (int i = 0; i < latent_size; ++i) to[i * key_tile] = latent[row * latent_size + i];
      T cosine[rotary / 2 + 1], sine[rotary / 2 + 1], part[rotary];
      Position::template table<rotary>(position, cosine, sine);
      for (int i = 0; i < rotary; ++i) part[i] = down[row * (latent_size + rotary) + latent_size + i];
      HeadNorm::template apply<rotary>(part, static_cast<const T*>(nullptr));
      Position::template rotate<rotary>(part, cosine, sine);
      for (int i = 0; i < rotary; ++i) to[(latent_size + i) * key_tile] = part[i];
      if constexpr (Keys::shared && Keys::scaled)
        for (Index h = 0; h < heads; ++h)
          to[(latent_size + rotary + h) * key_tile] =
              HeadNorm::template inverse_rms<key_size>(head_key + (row * heads + h) * key_size);
    }
  }
};

/// The rotary key's way back: its part of d_down (assigned), from the gradients by what each head read.
template <class T, int heads, int latent_size, int rotary, class Position, class HeadNorm>
struct StoreLatentBackward {
  Batch batch;
  const T* down;  ///< [rows, latent_size + rotary]
  HeadRows<const T> d_rotary;
  T* d_down;  ///< [rows, latent_size + rotary]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * head_rows);
    T unused[rotary];
    for (Index row = item * head_rows; row < last; ++row) {
      T cosine[rotary / 2 + 1], sine[rotary / 2 + 1], sum[rotary] = {};
      Position::template table<rotary>(batch.row_position[row], cosine, sine);
      for (Index h = 0; h < heads; ++h)
        for (int i = 0; i < rotary; ++i) sum[i] += d_rotary.at(row, h)[i];
      Position::template unrotate<rotary>(sum, cosine, sine);
      const Index at = row * (latent_size + rotary) + latent_size;
      HeadNorm::template backward<rotary>(down + at, static_cast<const T*>(nullptr), sum, unused);
      for (int i = 0; i < rotary; ++i) d_down[at + i] = sum[i];
    }
  }
};

/// Keys and values of every head, and the keys' inverse root mean squares, from the stored latents of all positions up to the
/// call's last. One item: a tile of a head of a sequence.
template <class T, class Keys, class HeadNorm>
struct ExpandLatent {
  static constexpr int heads = Keys::heads, size = Keys::size, value_size = Keys::value_size, latent = Keys::latent;

  Batch batch;
  const T* key_weight;    ///< [heads·size, latent]
  const T* value_weight;  ///< [heads·value_size, latent]
  Keys keys;
  Index tiles;  ///< most of a sequence

  HYBRIDMOE_FUNCTION static Index items(const Batch& b, Index tiles) { return b.sequences * tiles * heads; }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index tile = item / heads % tiles, head = item % heads, sequence = item / heads / tiles;
    const Index end = batch.start[sequence] + batch.begin[sequence + 1] - batch.begin[sequence];
    if (tile * key_tile >= end) return;
    const auto view = keys.of(batch, sequence);
    // Lanes of positions that are not written yet hold anything; nobody reads what becomes of them.
    const T* const latents = view.store.key_at(0, tile);
    T* const key = view.at(head, tile);
    T* const value = key + size * key_tile;
    tile::multiply<T, key_tile>(size, latent, key_weight + head * size * latent, latent, 1, latents, key_tile, key, key_tile);
    tile::multiply<T, key_tile>(value_size, latent, value_weight + head * value_size * latent, latent, 1, latents, key_tile,
                                value, key_tile);
    if constexpr (Keys::scaled) {
      T* const inverse = value + value_size * key_tile;
      for (int j = 0; j < key_tile; ++j) {
        T one[size];
        for (int i = 0; i < size; ++i) one[i] = key[i * key_tile + j];
        inverse[j] = HeadNorm::template inverse_rms<size>(one);
      }
    }
  }
};

/// What reaches the heads' keys through the inverse root mean squares ι: d_key −= d_ι·ι³·key/size, assigned if the keys have no
/// other gradient (Keys::shared). One item: head_rows rows.
template <class T, class Keys, int key_size>
struct InverseBackward {
  static constexpr int heads = Keys::heads;

  Batch batch;
  const T* head_key;  ///< [rows, heads·key_size] if Keys::shared; otherwise keys lie in the expanded tiles
  Keys keys;
  HeadRows<const T> d_inverse;
  T* d_key;  ///< [rows, heads·key_size]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * head_rows);
    for (Index row = item * head_rows; row < last; ++row) {
      const Index position = batch.row_position[row], tile = position / key_tile, lane = position % key_tile;
      const auto view = keys.of(batch, batch.row_sequence[row]);
      for (Index h = 0; h < heads; ++h) {
        const T inverse = view.inverse(h, tile)[lane];
        const T factor = -*d_inverse.at(row, h) * inverse * inverse * inverse / T(key_size);
        T* const d = d_key + (row * heads + h) * key_size;
        if constexpr (Keys::shared) {
          const T* const key = head_key + (row * heads + h) * key_size;
          for (int i = 0; i < key_size; ++i) d[i] = factor * key[i];
        } else {
          const T* const key = view.key(h, tile) + lane;
          for (int i = 0; i < key_size; ++i) d[i] += factor * key[i * key_tile];
        }
      }
    }
  }
};

/// to[row] = Σ_heads from(row, head), heads in order. One item: head_rows rows.
template <class T, int heads, int size>
struct AddHeads {
  Index rows;
  HeadRows<const T> from;
  T* to;  ///< [rows, size]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(rows, (item + 1) * head_rows);
    for (Index row = item * head_rows; row < last; ++row) {
      T* const sum = to + row * size;
      for (int i = 0; i < size; ++i) sum[i] = from.at(row, 0)[i];
      for (Index h = 1; h < heads; ++h)
        for (int i = 0; i < size; ++i) sum[i] += from.at(row, h)[i];
    }
  }
};

/// to(row, head) = from(row, head): from one layout to another. One item: head_rows rows.
template <class T, int heads, int size>
struct CopyHeads {
  Index rows;
  HeadRows<const T> from;
  HeadRows<T> to;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(rows, (item + 1) * head_rows);
    for (Index row = item * head_rows; row < last; ++row)
      for (Index h = 0; h < heads; ++h)
        for (int i = 0; i < size; ++i) to.at(row, h)[i] = from.at(row, h)[i];
  }
};

/// to[g] = g·each for 0 ≤ g ≤ groups: groups of as many rows. One item.
struct EvenOffsets {
  Index groups, each;
  Index* to;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    for (Index g = 0; g <= groups; ++g) to[g] = g * each;
  }
};

}  // namespace hybridmoe::ops
