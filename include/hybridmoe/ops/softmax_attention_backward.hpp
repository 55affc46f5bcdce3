#pragma once
/// @file softmax_attention_backward.hpp
/// The gradient of softmax attention, weights recomputed from the stored log-sum-exp (Dao et al., "FlashAttention", 2022).

#include <hybridmoe/ops/attention_heads.hpp>
#include <hybridmoe/ops/softmax_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// d_ready, d_key and d_value (assigned) from d_out. One item owns one kv head of one sequence, with all queries that read it,
/// so that nothing is summed across items. Training only: positions start at the sequence's first row.
template <class T, int heads, int kv_heads, int size, class Mask>
struct SoftmaxAttentionBackward {
  static constexpr int group = heads / kv_heads;
  static constexpr int block = query_tile;

  Batch batch;
  const T* ready;  ///< [rows, heads·size]
  KeyStores<T, size, kv_heads> stores;
  const T* out;             ///< [rows, heads·size]
  const T* log_sum_of_exp;  ///< [rows, heads]
  const T* d_out;           ///< [rows, heads·size]
  T* d_ready;               ///< [rows, heads·size]
  T* d_key;                 ///< [rows, kv_heads·size], by the rotated key
  T* d_value;               ///< [rows, kv_heads·size]
  T* inner;                 ///< [rows, heads] scratch: out·d_out

  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * kv_heads; }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index head = item % kv_heads, sequence = item / kv_heads;
    const Index begin = batch.begin[sequence], length = batch.begin[sequence + 1] - begin;
    const KeyStore<T, size> store = stores.of(sequence, begin, 0);
    for (Index row = begin; row < begin + length; ++row)
      for (Index h = head * group; h < (head + 1) * group; ++h) {
        const Index vector = row * heads + h;
        inner[vector] = dot<size>(out + vector * size, d_out + vector * size);
        for (int i = 0; i < size; ++i) d_ready[vector * size + i] = T(0);
      }
    for (Index tile = 0; tile * key_tile < length; ++tile) one_tile(begin, length, head, tile, store);
  }

 private:
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
    for (Index q0 = base / block * block; q0 < length; q0 += block) {
      if (Mask::first(q0) >= base + key_tile) break;
      const int rows = static_cast<int>(smaller(block, length - q0));
      for (Index h = head * group; h < (head + 1) * group; ++h) {
        const Index at = ((begin + q0) * heads + h) * size;
        constexpr Index stride = heads * size;
        tile::multiply<T, key_tile>(rows, size, ready + at, stride, 1, keys, key_tile, weight, key_tile);
        tile::multiply<T, key_tile>(rows, size, d_out + at, stride, 1, value_columns, key_tile, slope, key_tile);
        for (int r = 0; r < rows; ++r) {
          const Index position = q0 + r, vector = (begin + position) * heads + h;
          const VisibleLanes visible(Mask::first(position) - base, position - base);
          const T shift = log_sum_of_exp[vector], mean = inner[vector];
          T* const p = weight + r * key_tile;
          T* const d = slope + r * key_tile;
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
};

}  // namespace hybridmoe::ops
