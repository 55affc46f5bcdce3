#pragma once
/// @file weighted_attention.hpp
/// Causal softmax attention in which every key has a weight of its own in the softmax, for each row:
///
///   m(d) = clamp01((w_t − d)/ramp)      ω_tj = max(m(t − j), s^K_t·a_j, s^G_t)      p_tj = ω_tj·e^{s_tj} / Σ_i ω_ti·e^{s_ti}
///
/// w_t is the window's size in keys, a real number; a_j > 0 only for the key tokens that the row's block knows; s^K and s^G are
/// the weights of key tokens and of all tokens. A key that is in reach both ways is computed twice, with its weight u = max(m,
/// s^G) among its neighbours and with what s^K·a exceeds u by among the key tokens: the sum is ω. Tiles in which no row
/// gives a key a weight are passed over. But where a store has few places all of them are scored, those of dead records too,
/// which counts of FLOPs leave out. Tiles are visited as in ops/softmax_attention.hpp, and then the key tokens in ascending
/// position, so a row's bits do not depend on its neighbours: rows of one item lie in one block and share its key tokens.

#include <hybridmoe/ops/softmax_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// What rows of an attention mode can reach.
/// @tparam ramp_     keys over which a window's weight falls from 1 to 0
/// @tparam all_      whether rows have weights s^K and s^G
/// @tparam entries_  most key tokens of a block, 0: there are none
/// @tparam grid_     positions of a block
template <Index ramp_, bool all_, Index entries_ = 0, Index grid_ = 1>
struct ReachShape {
  static constexpr Index ramp = ramp_, entries = entries_, grid = grid_;
  static constexpr bool all = all_;
  static constexpr Index columns = all ? 3 : 1;  ///< numbers of a row: w (and s^K and s^G)
  static constexpr Index window = 0, key_tokens = 1, global = 2;
};

/// The key tokens of every block of a call. Lists of a sequence follow each other from list_of its first row on. Each has room
/// for whole tiles: what follows its key tokens in their last tile is position 0 with weight 0.
template <class T, Index entries, Index grid>
struct KeyLists {
  static constexpr Index room = round_up(entries, key_tile);

  std::int32_t* count = nullptr;     ///< [lists] key tokens of a list, in ascending position
  std::int32_t* position = nullptr;  ///< [lists, room]
  std::int32_t* place = nullptr;     ///< [lists, room] where the key lies in its store: a position, or a slot
  std::int32_t* against = nullptr;   ///< [lists, room] the position whose score is subtracted from this one's, −1: none
  T* weight = nullptr;               ///< [lists, room] a

  /// Lists of a call with so many rows and sequences, at most.
  static constexpr Index lists_for(Index rows, Index sequences) { return rows / grid + 2 * sequences; }
  /// The list of the block of `position` in a sequence that starts with row `begin` at position `start`.
  HYBRIDMOE_FUNCTION static Index list_of(Index sequence, Index begin, Index start, Index position) {
    return begin / grid + 2 * sequence + position / grid - start / grid;
  }
};

/// What one row sees of its neighbours.
template <class T, class Shape>
struct RowReach {
  Index position, first, whole;  ///< the first key with a weight, and the first one with the window's full weight
  T window, all;

  RowReach() = default;
  HYBRIDMOE_FUNCTION RowReach(Index at, const T* reach)
      : position(at), window(reach[Shape::window]), all(Shape::all ? reach[Shape::columns - 1] : T(0)) {
    if (!(window >= T(Shape::ramp))) window = T(Shape::ramp);  // NaN is not cast to an index: its scores are NaN anyway
    Index seen = static_cast<Index>(window);
    if (static_cast<T>(seen) < window) ++seen;
    first = all > T(0) ? 0 : larger(0, at - seen + 1);
    whole = larger(0, at - static_cast<Index>(window - T(Shape::ramp)));
  }
  /// Whether all keys that are seen of the tile from `base` on have the window's full weight.
  HYBRIDMOE_FUNCTION bool plain(Index base) const { return larger(base, first) >= whole; }
  HYBRIDMOE_FUNCTION VisibleLanes visible(Index base) const { return VisibleLanes(first - base, position - base); }
  /// m for the key `distance` before the row.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T local(int distance) const {
    T m = (window - static_cast<T>(distance)) * (T(1) / T(Shape::ramp));
    m = math::select(m > T(1), T(1), m);
    return math::select(m > T(0), m, T(0));
  }
  /// u for the keys of a tile.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void weigh(Index base, T* weight) const {
    const int last = static_cast<int>(position - base);
    for (int j = 0; j < key_tile; ++j) {
      T u = local(last - j);
      if constexpr (Shape::all) u = math::select(u > all, u, all);
      weight[j] = math::select(j <= last, u, T(0));
    }
  }
};

/// What a query row sees of a tile: visible keys that have a weight, and each by its weight.
template <class T>
struct ByWeight {
  VisibleLanes visible;
  const T* weight;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE bool operator()(int lane) const { return weight[lane] > T(0); }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T weigh(int lane, T power) const { return weight[lane] * power; }
#if HYBRIDMOE_VECTOR
  template <class, int lanes>
  HYBRIDMOE_INLINE auto of(int lane) const {
    return cpu::load<T, lanes>(weight + lane) > cpu::Vector<T, lanes>{};
  }
#endif
};

/// A tile of a block's key tokens, gathered from where they lie.
template <class T, class Shape, int size>
struct KeyTile {
  int count;
  const std::int32_t *position, *place;
  const T* a;

  HYBRIDMOE_FUNCTION KeyTile(const KeyLists<T, Shape::entries, Shape::grid>& lists, Index list, Index first)
      : count(static_cast<int>(smaller(key_tile, lists.count[list] - first))),
        position(lists.position + list * lists.room + first),
        place(lists.place + list * lists.room + first),
        a(lists.weight + list * lists.room + first) {}

  /// The part of s^K·a that exceeds u, for a row. Whether there is any.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE bool weigh(const RowReach<T, Shape>& row, T scale, T* weight) const {
    const int at = static_cast<int>(row.position);
    for (int j = 0; j < key_tile; ++j) {
      T u = row.local(at - position[j]);
      if constexpr (Shape::all) u = math::select(u > row.all, u, row.all);
      const T over = scale * a[j] - u;
      weight[j] = math::select(over > T(0), over, T(0));
    }
    T most = 0;
    for (int j = 0; j < key_tile; ++j) most = most + weight[j];
    return most > T(0);
  }
  /// keys: [size][32]; beyond `count` zeros.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void gather_keys(const KeyStore<T, size>& store, Index head, T* keys) const {
    for (int j = 0; j < count; ++j) {
      const T* const key = store.key_at(head, place[j] / key_tile) + place[j] % key_tile;
      for (int i = 0; i < size; ++i) keys[i * key_tile + j] = key[i * key_tile];
    }
    for (int j = count; j < key_tile; ++j)
      for (int i = 0; i < size; ++i) keys[i * key_tile + j] = T(0);
  }
  /// score[32] of one query from `all` = its scores by place; beyond `count` zeros.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void gather_scores(const T* all, T* score) const {
    for (int j = 0; j < count; ++j) score[j] = all[place[j]];
    for (int j = count; j < key_tile; ++j) score[j] = T(0);
  }
  /// values: [32][size]; beyond `count` zeros.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void gather_values(const KeyStore<T, size>& store, Index head, T* values) const {
    for (int j = 0; j < count; ++j) {
      const T* const value = store.value_at(head, place[j] / key_tile) + place[j] % key_tile * size;
      for (int i = 0; i < size; ++i) values[j * size + i] = value[i];
    }
    for (int i = count * size; i < key_tile * size; ++i) values[i] = T(0);
  }
};

/// Rows of one item: as many as fill query_tile vectors, and a divisor of the grid if rows share their block's key tokens.
template <int group, class Shape>
constexpr int weighted_block() {
  int rows = group >= query_tile ? 1 : query_tile / group;
  if (Shape::entries > 0)
    while (Shape::grid % rows != 0) --rows;
  return rows;
}

/// out[row, head] = Σ_j p_tj·v_j. One item: (sequence, kv head, rows of one multiple of `block` positions).
template <class T, int heads, int kv_heads, int size, class Shape>
struct WeightedAttention {
  static constexpr int group = heads / kv_heads;
  static constexpr int block = weighted_block<group, Shape>();
  static constexpr int vectors = block * group;

  Batch batch;
  const T* ready;  ///< [rows, heads·size] normalised, rotated, scaled queries
  const T* reach;  ///< [rows, columns]
  KeyStores<T, size, kv_heads> stores;
  KeyLists<T, Shape::entries, Shape::grid> lists;
  KeyStores<T, size, kv_heads> key_tokens;  ///< where lists.place points to
  T* out;                                   ///< [rows, heads·size]
  T* log_sum_of_exp;                        ///< [rows, heads]

  HYBRIDMOE_FUNCTION static Index blocks(const Batch& b) { return (b.longest + 2 * block - 2) / block; }
  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * kv_heads * blocks(b); }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index chunk = item % blocks(batch), head = item / blocks(batch) % kv_heads, sequence = item / blocks(batch) / kv_heads;
    const Index begin = batch.begin[sequence], start = batch.start[sequence];
    const Index from = larger(start, (start / block + chunk) * block);
    const Index to = smaller(start + batch.begin[sequence + 1] - begin, (start / block + chunk + 1) * block);
    if (from >= to) return;
    const Index slot = stores.state_base == nullptr ? 0 : batch.slot[sequence];
    const KeyStore<T, size> store = stores.of(sequence, begin, slot);
    const Index row0 = begin + from - start;
    const int rows = static_cast<int>(to - from), count = rows * group;

    T query[vectors * size], sum[vectors * size], score[vectors * key_tile], weight[key_tile];
    T maximum[vectors], total[vectors];
    for (int m = 0; m < count; ++m) {
      const T* source = ready + ((row0 + m / group) * heads + head * group + m % group) * size;
      for (int i = 0; i < size; ++i) query[m * size + i] = source[i];
      cpu::clear<size>(sum + m * size);
      maximum[m] = math::lowest<T>;
      total[m] = T(0);
    }
    RowReach<T, Shape> row[block];
    Index first = to;
    for (int r = 0; r < rows; ++r) {
      row[r] = RowReach<T, Shape>(from + r, reach + (row0 + r) * Shape::columns);
      first = smaller(first, row[r].first);
    }
    for (Index tile = first / key_tile; tile <= (to - 1) / key_tile; ++tile) {
      const Index base = tile * key_tile;
      // Only keys that some row of the item sees are read: others may not be written yet. Of scores, the half that holds them.
      const Index low = larger(0, first - base), high = smaller(key_tile - 1, to - 1 - base);
      constexpr int half = key_tile / 2;
      if (low >= half || high < half) {
        const Index side = low >= half ? half : 0;
        tile::multiply<T, half>(count, size, query, size, 1, store.key_at(head, tile) + side, key_tile, score + side, key_tile);
      } else {
        tile::multiply<T, key_tile>(count, size, query, size, 1, store.key_at(head, tile), key_tile, score, key_tile);
      }
      for (int r = 0; r < rows; ++r) {
        const bool plain = row[r].plain(base);
        const VisibleLanes visible = row[r].visible(base);
        if (!plain) row[r].weigh(base, weight);
        for (int m = r * group; m < (r + 1) * group; ++m) {
          const T factor = plain ? soften(score + m * key_tile, AllVisible{visible}, maximum[m], total[m])
                                 : soften(score + m * key_tile, ByWeight<T>{visible, weight}, maximum[m], total[m]);
          rescale(sum + m * size, factor);
        }
      }
      tile::multiply_add<T, size>(count, static_cast<int>(high - low + 1), score + low, key_tile, 1,
                                  store.value_at(head, tile) + low * size, size, sum, size);
    }
    if constexpr (Shape::entries > 0) {
      const Index list = lists.list_of(sequence, begin, start, from);
      const KeyStore<T, size> places = key_tokens.of(sequence, begin, slot);
      T keys[size * key_tile], values[key_tile * size], weights[block * key_tile];
      // Where the store has few places, queries meet the keys where they lie, and scores are gathered instead of keys.
      constexpr Index room = KeyLists<T, Shape::entries, Shape::grid>::room, few = vectors * room <= 2048 ? 2 * room : 0;
      T by_place[vectors * few + 1];
      const bool in_place = places.tiles * key_tile <= few;
      if (in_place && lists.count[list] > 0)
        for (Index tile = 0; tile < places.tiles; ++tile)
          tile::multiply<T, key_tile>(count, size, query, size, 1, places.key_at(head, tile), key_tile,
                                      by_place + tile * key_tile, few);
      for (Index entry = 0; entry < lists.count[list]; entry += key_tile) {
        const KeyTile<T, Shape, size> tile(lists, list, entry);
        bool any = false;
        for (int r = 0; r < rows; ++r) {
          const T scale = Shape::all ? reach[(row0 + r) * Shape::columns + Shape::columns - 2] : T(1);
          any = tile.weigh(row[r], scale, weights + r * key_tile) || any;
        }
        if (!any) continue;
        if (in_place) {
          for (int m = 0; m < count; ++m) tile.gather_scores(by_place + m * few, score + m * key_tile);
        } else {
          tile.gather_keys(places, head, keys);
          tile::multiply<T, key_tile>(count, size, query, size, 1, keys, key_tile, score, key_tile);
        }
        tile.gather_values(places, head, values);
        for (int m = 0; m < count; ++m) {
          const ByWeight<T> seen{VisibleLanes(0, tile.count - 1), weights + m / group * key_tile};
          rescale(sum + m * size, soften(score + m * key_tile, seen, maximum[m], total[m]));
        }
        tile::multiply_add<T, size>(count, tile.count, score, key_tile, 1, values, size, sum, size);
      }
    }
    for (int m = 0; m < count; ++m) {
      const Index vector = (row0 + m / group) * heads + head * group + m % group;
      const T inverse = T(1) / total[m];
      for (int i = 0; i < size; ++i) out[vector * size + i] = sum[m * size + i] * inverse;
      if (log_sum_of_exp != nullptr) log_sum_of_exp[vector] = maximum[m] + math::log(total[m]);
    }
  }

 private:
  HYBRIDMOE_FUNCTION static void rescale(T* sum, T factor) {
    if (factor != T(1))
      for (int i = 0; i < size; ++i) sum[i] *= factor;
  }
};

}  // namespace hybridmoe::ops
