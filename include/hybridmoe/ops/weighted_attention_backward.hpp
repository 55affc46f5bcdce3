#pragma once
/// @file weighted_attention_backward.hpp
/// The gradient of weighted attention, by queries, keys, values, and by what weights are made of. With E = e^{s − log Z} and
/// g = E·(dp − Σ p·dp): ds = ω·g and dω = g. Weights are recomputed from the stored log-sum-exp.

#include <hybridmoe/ops/attention_heads.hpp>
#include <hybridmoe/ops/weighted_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Which part of a row's reach made a weight: the factors by which its gradient goes to w and to s^G. To s^G only where it
/// exceeds m: at 0 it makes no weight, and at 1 it adds nothing to a key of the whole window.
template <class T, class Shape>
struct WeightSlopes {
  T weight[key_tile], window[key_tile], all[key_tile];

  /// For the keys of a tile, as RowReach::weigh.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void of_tile(const RowReach<T, Shape>& row, Index base) {
    const int last = static_cast<int>(row.position - base);
    for (int j = 0; j < key_tile; ++j) {
      const T m = row.local(last - j), seen = math::select(j <= last, T(1), T(0));
      weight[j] = seen * math::select(m > row.all, m, row.all);
      window[j] = math::select((m > row.all) & (m < T(1)), seen / T(Shape::ramp), T(0));
      all[j] = math::select(m < row.all, seen, T(0));
    }
  }
  /// For key tokens whose weight scale·a exceeds u: weight is what it exceeds u by, and u's own gradient is taken back.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE bool of_key_tokens(const RowReach<T, Shape>& row, const std::int32_t* position, const T* a,
                                                         T scale) {
    const int at = static_cast<int>(row.position);
    for (int j = 0; j < key_tile; ++j) {
      const T m = row.local(at - position[j]), over = scale * a[j] - math::select(m > row.all, m, row.all);
      weight[j] = math::select(over > T(0), over, T(0));
      window[j] = math::select((over > T(0)) & (m > row.all) & (m < T(1)), T(-1) / T(Shape::ramp), T(0));
      all[j] = math::select((over > T(0)) & (m < row.all), T(-1), T(0));
    }
    T most = 0;
    for (int j = 0; j < key_tile; ++j) most += weight[j];
    return most > T(0);
  }
};

/// d_ready, d_key, d_value, d_reach and d_weight (all assigned) from d_out. One item owns one kv head of one sequence, with all
/// queries that read it. Training only: positions start at the sequence's first row.
template <class T, int heads, int kv_heads, int size, class Shape>
struct WeightedAttentionBackward {
  static constexpr int group = heads / kv_heads;
  static constexpr int block = query_tile;
  static constexpr int key_block = smaller(block, Shape::grid);  ///< rows that are taken together against key tokens
  static constexpr Index stride = heads * size;
  static constexpr Index columns = Shape::columns;
  using Slopes = WeightSlopes<T, Shape>;
  using Row = RowReach<T, Shape>;

  Batch batch;
  const T* ready;  ///< [rows, heads·size]
  const T* reach;  ///< [rows, columns]
  Index window_most;
  KeyStores<T, size, kv_heads> stores;
  KeyLists<T, Shape::entries, Shape::grid> lists;
  const T* out;             ///< [rows, heads·size]
  const T* log_sum_of_exp;  ///< [rows, heads]
  const T* d_out;           ///< [rows, heads·size]
  T* d_ready;               ///< [rows, heads·size]
  T* d_key;                 ///< [rows, kv_heads·size], by the rotated key
  T* d_value;               ///< [rows, kv_heads·size]
  T* d_reach;               ///< [rows, kv_heads, columns]: each kv head's part
  T* d_weight;              ///< [lists, kv_heads, room]: each kv head's part of the gradient by lists.weight
  T* inner;                 ///< [rows, heads] scratch: out·d_out

  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * kv_heads; }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index head = item % kv_heads, sequence = item / kv_heads;
    const Index begin = batch.begin[sequence], length = batch.begin[sequence + 1] - begin;
    const KeyStore<T, size> store = stores.of(sequence, begin, 0);
    for (Index row = begin; row < begin + length; ++row) {
      for (Index h = head * group; h < (head + 1) * group; ++h) {
        const Index vector = row * heads + h;
        inner[vector] = dot<size>(out + vector * size, d_out + vector * size);
        for (int i = 0; i < size; ++i) d_ready[vector * size + i] = T(0);
      }
      for (Index c = 0; c < columns; ++c) d_reach[(row * kv_heads + head) * columns + c] = T(0);
    }
    for (Index tile = 0; tile * key_tile < length; ++tile) one_tile(begin, length, head, tile, store);
    if constexpr (Shape::entries > 0)
      for (Index from = 0; from < length; from += Shape::grid) {
        const Index list = lists.list_of(sequence, begin, 0, from);
        for (Index entry = 0; entry < lists.count[list]; entry += key_tile)
          key_tokens(begin, from, smaller(length, from + Shape::grid), head, list, entry, store);
      }
  }

 private:
  /// The gradients of `rows` queries of one head from row position `at` on against one tile, whose weights are in `slopes` (or
  /// plain: 1 for all that are seen). score: in, q·k; out, p. slope: in, dp; out, ds.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void one_row(Index row, Index head, Index h, const Slopes& s, T* score, T* slope,
                                                   const T* a, T scale, T* d_a) const {
    const Index vector = row * heads + h;
    const T shift = log_sum_of_exp[vector], mean = inner[vector];
    T window = 0, all = 0, key = 0;
    for (int j = 0; j < key_tile; ++j) score[j] = math::exp(score[j] - shift);
    for (int j = 0; j < key_tile; ++j) {
      const T e = math::select(s.weight[j] > T(0), score[j], T(0)), g = e * (slope[j] - mean);
      score[j] = s.weight[j] * e;
      slope[j] = g;
    }
    for (int j = 0; j < key_tile; ++j) window += s.window[j] * slope[j];
    if constexpr (Shape::all)
      for (int j = 0; j < key_tile; ++j) all += s.all[j] * slope[j];
    if (a != nullptr)
      for (int j = 0; j < key_tile; ++j) {
        d_a[j] += scale * slope[j];
        key += a[j] * slope[j];
      }
    for (int j = 0; j < key_tile; ++j) slope[j] *= s.weight[j];
    T* const to = d_reach + (row * kv_heads + head) * columns;
    to[Shape::window] += window;
    if constexpr (Shape::all) {
      to[Shape::key_tokens] += key;
      to[Shape::global] += all;
    }
  }

  HYBRIDMOE_FUNCTION void one_tile(Index begin, Index length, Index head, Index tile, const KeyStore<T, size>& store) const {
    const Index base = tile * key_tile;
    const int count = static_cast<int>(smaller(key_tile, length - base));
    const T* const keys = store.key_at(head, tile);
    const T* const values = store.value_at(head, tile);
    T key_rows[key_tile * size], value_columns[size * key_tile], dk[key_tile * size] = {}, dv[key_tile * size] = {};
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < key_tile; ++j) {  // beyond `count` nothing was written
        const T key = j < count ? keys[i * key_tile + j] : T(0), value = j < count ? values[j * size + i] : T(0);
        key_rows[j * size + i] = key;
        value_columns[i * key_tile + j] = value;
      }
    T weight[block * key_tile], slope[block * key_tile];
    Row seen[block];
    bool plain[block];
    Slopes slopes[block];
    for (Index q0 = base / block * block; q0 < length; q0 += block) {
      if (!Shape::all && q0 - window_most >= base + key_tile) break;
      const int rows = static_cast<int>(smaller(block, length - q0));
      Index first = length;
      for (int r = 0; r < rows; ++r) {
        seen[r] = Row(q0 + r, reach + (begin + q0 + r) * columns);
        first = smaller(first, seen[r].first);
      }
      if (first >= base + key_tile) continue;
      for (int r = 0; r < rows; ++r) {
        plain[r] = seen[r].plain(base);
        if (!plain[r]) slopes[r].of_tile(seen[r], base);
      }
      for (Index h = head * group; h < (head + 1) * group; ++h) {
        const Index at = ((begin + q0) * heads + h) * size;
        tile::multiply<T, key_tile>(rows, size, ready + at, stride, 1, keys, key_tile, weight, key_tile);
        tile::multiply<T, key_tile>(rows, size, d_out + at, stride, 1, value_columns, key_tile, slope, key_tile);
        for (int r = 0; r < rows; ++r) {
          T* const p = weight + r * key_tile;
          T* const d = slope + r * key_tile;
          if (!plain[r]) {
            one_row(begin + q0 + r, head, h, slopes[r], p, d, nullptr, T(0), nullptr);
            continue;
          }
          const Index vector = (begin + q0 + r) * heads + h;
          const VisibleLanes visible = seen[r].visible(base);
          const T shift = log_sum_of_exp[vector], mean = inner[vector];
          for (int j = 0; j < key_tile; ++j) p[j] = math::exp(p[j] - shift);
          for (int j = 0; j < key_tile; ++j) p[j] = visible[j] ? p[j] : T(0);
          for (int j = 0; j < key_tile; ++j) d[j] = p[j] * (d[j] - mean);
        }
        tile::multiply_add<T, size>(key_tile, rows, weight, 1, key_tile, d_out + at, stride, dv, size);
        tile::multiply_add<T, size>(key_tile, rows, slope, 1, key_tile, ready + at, stride, dk, size);
        tile::multiply_add<T, size>(rows, key_tile, slope, key_tile, 1, key_rows, size, d_ready + at, stride);
      }
    }
    for (int j = 0; j < count; ++j)
      for (int i = 0; i < size; ++i) {
        const Index to = ((begin + base + j) * kv_heads + head) * size + i;
        d_key[to] = dk[j * size + i];
        d_value[to] = dv[j * size + i];
      }
  }

  /// One tile of the key tokens that the rows of positions from … to − 1 share.
  HYBRIDMOE_FUNCTION void key_tokens(Index begin, Index from, Index to, Index head, Index list, Index entry,
                                     const KeyStore<T, size>& store) const {
    const KeyTile<T, Shape, size> tile(lists, list, entry);
    T keys[size * key_tile], values[key_tile * size], key_rows[key_tile * size], value_columns[size * key_tile];
    T dk[key_tile * size] = {}, dv[key_tile * size] = {}, da[key_tile] = {};
    bool gathered = false;
    T weight[key_block * key_tile], slope[key_block * key_tile], scale[key_block];
    Slopes slopes[key_block];
    for (Index q0 = from; q0 < to; q0 += key_block) {
      const int rows = static_cast<int>(smaller(key_block, to - q0));
      bool any = false;
      for (int r = 0; r < rows; ++r) {
        const T* const numbers = reach + (begin + q0 + r) * columns;
        scale[r] = Shape::all ? numbers[columns - 2] : T(1);
        any = slopes[r].of_key_tokens(Row(q0 + r, numbers), tile.position, tile.a, scale[r]) || any;
      }
      if (!any) continue;
      if (!gathered) {
        tile.gather_keys(store, head, keys);
        tile.gather_values(store, head, values);
        for (int i = 0; i < size; ++i)
          for (int j = 0; j < key_tile; ++j) {
            key_rows[j * size + i] = keys[i * key_tile + j];
            value_columns[i * key_tile + j] = values[j * size + i];
          }
        gathered = true;
      }
      for (Index h = head * group; h < (head + 1) * group; ++h) {
        const Index at = ((begin + q0) * heads + h) * size;
        tile::multiply<T, key_tile>(rows, size, ready + at, stride, 1, keys, key_tile, weight, key_tile);
        tile::multiply<T, key_tile>(rows, size, d_out + at, stride, 1, value_columns, key_tile, slope, key_tile);
        for (int r = 0; r < rows; ++r)
          one_row(begin + q0 + r, head, h, slopes[r], weight + r * key_tile, slope + r * key_tile, tile.a, scale[r], da);
        tile::multiply_add<T, size>(key_tile, rows, weight, 1, key_tile, d_out + at, stride, dv, size);
        tile::multiply_add<T, size>(key_tile, rows, slope, 1, key_tile, ready + at, stride, dk, size);
        tile::multiply_add<T, size>(rows, key_tile, slope, key_tile, 1, key_rows, size, d_ready + at, stride);
      }
    }
    for (int j = 0; j < tile.count; ++j) {
      d_weight[(list * kv_heads + head) * lists.room + entry + j] = da[j];
      if (!gathered) continue;
      const Index owner = ((begin + tile.position[j]) * kv_heads + head) * size;
      for (int i = 0; i < size; ++i) {
        d_key[owner + i] += dk[j * size + i];
        d_value[owner + i] += dv[j * size + i];
      }
    }
  }
};

}  // namespace hybridmoe::ops
