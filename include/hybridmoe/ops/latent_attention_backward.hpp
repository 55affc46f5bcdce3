#pragma once
/// @file latent_attention_backward.hpp
/// The gradient of latent attention's core, weights recomputed from the stored log-sum-exp.

#include <hybridmoe/ops/attention_heads.hpp>
#include <hybridmoe/ops/latent_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// d_query, d_turned, d_key, d_rotary, d_value and d_inverse (assigned) from d_out, each per row and query head: keys that heads
/// share are added up afterwards (AddHeads). One item owns a head of a sequence. Training only: positions start at the
/// sequence's first row.
template <class T, class Keys>
struct LatentAttentionBackward {
  static constexpr int heads = Keys::heads, size = Keys::size, turned_size = Keys::turned, value_size = Keys::value_size;
  static constexpr int block = query_tile;

  Batch batch;
  HeadRows<const T> query, turned;
  Keys keys;
  HeadRows<const T> out, log_sum_of_exp, d_out;
  HeadRows<T> d_query, d_turned;
  HeadRows<T> d_key;      ///< [size]; where values are keys (Keys::shared) their gradient is in it
  HeadRows<T> d_rotary;   ///< [turned_size]
  HeadRows<T> d_value;    ///< [value_size], unless Keys::shared
  HeadRows<T> d_inverse;  ///< [1], if Keys::scaled
  HeadRows<T> inner;      ///< [1] scratch: out·d_out

  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * heads; }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index head = item % heads, sequence = item / heads;
    const Index begin = batch.begin[sequence], length = batch.begin[sequence + 1] - begin;
    const auto view = keys.of(batch, sequence);
    for (Index row = begin; row < begin + length; ++row) {
      *inner.at(row, head) = dot<value_size>(out.at(row, head), d_out.at(row, head));
      for (int i = 0; i < size; ++i) d_query.at(row, head)[i] = T(0);
      for (int i = 0; i < turned_size; ++i) d_turned.at(row, head)[i] = T(0);
    }
    for (Index tile = 0; tile * key_tile < length; ++tile) one_tile(begin, length, head, tile, view);
  }

 private:
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void one_tile(Index begin, Index length, Index head, Index tile,
                                                    const typename Keys::View& view) const {
    const Index base = tile * key_tile;
    const int count = static_cast<int>(smaller(key_tile, length - base));  // beyond it nothing was written
    const T* const key = view.key(head, tile);
    const T* const rotary_key = view.rotary_key(tile);
    constexpr int own_value = Keys::shared ? 0 : value_size;
    T key_rows[key_tile * size], rotary_rows[key_tile * turned_size];
    T dk[key_tile * size] = {}, dr[key_tile * turned_size] = {}, dv[key_tile * own_value + 1] = {}, di[key_tile] = {};
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < count; ++j) key_rows[j * size + i] = key[i * key_tile + j];
    for (int i = 0; i < turned_size; ++i)
      for (int j = 0; j < count; ++j) rotary_rows[j * turned_size + i] = rotary_key[i * key_tile + j];
    T weight[block * key_tile], slope[block * key_tile], along[block * key_tile];
    for (Index q0 = base; q0 < length; q0 += block) {
      const int rows = static_cast<int>(smaller(block, length - q0));
      const T* const from = query.at(begin + q0, head);
      const T* const other = turned.at(begin + q0, head);
      const T* const given = d_out.at(begin + q0, head);
      tile::multiply<T, key_tile>(rows, size, from, query.row_stride, 1, key, key_tile, weight, key_tile);
      if constexpr (Keys::scaled) {
        const T* const inverse = view.inverse(head, tile);
        for (int r = 0; r < rows; ++r)
          for (int j = 0; j < key_tile; ++j) {
            along[r * key_tile + j] = weight[r * key_tile + j];
            weight[r * key_tile + j] *= inverse[j];
          }
      }
      tile::multiply_add<T, key_tile>(rows, turned_size, other, turned.row_stride, 1, rotary_key, key_tile, weight, key_tile);
      tile::multiply<T, key_tile>(rows, value_size, given, d_out.row_stride, 1, view.value(head, tile), key_tile, slope,
                                  key_tile);
      for (int r = 0; r < rows; ++r) {
        const Index row = begin + q0 + r;
        const VisibleLanes visible(-base, q0 + r - base);
        const T shift = *log_sum_of_exp.at(row, head), mean = *inner.at(row, head);
        T* const p = weight + r * key_tile;
        T* const d = slope + r * key_tile;
        for (int j = 0; j < key_tile; ++j) p[j] = math::exp(p[j] - shift);
        for (int j = 0; j < key_tile; ++j) d[j] = p[j] * (d[j] - mean);
        for (int j = 0; j < key_tile; ++j) p[j] = visible[j] ? p[j] : T(0);
        for (int j = 0; j < key_tile; ++j) d[j] = visible[j] ? d[j] : T(0);
      }
      tile::multiply_add<T, turned_size>(count, rows, slope, 1, key_tile, other, turned.row_stride, dr, turned_size);
      tile::multiply_add<T, turned_size>(rows, count, slope, key_tile, 1, rotary_rows, turned_size, d_turned.at(begin + q0, head),
                                         d_turned.row_stride);
      if constexpr (Keys::scaled) {
        const T* const inverse = view.inverse(head, tile);
        for (int r = 0; r < rows; ++r)
          for (int j = 0; j < key_tile; ++j) {  // what lies beyond `count` is not used
            di[j] += slope[r * key_tile + j] * along[r * key_tile + j];
            slope[r * key_tile + j] *= inverse[j];
          }
      }
      tile::multiply_add<T, size>(count, rows, slope, 1, key_tile, from, query.row_stride, dk, size);
      tile::multiply_add<T, size>(rows, count, slope, key_tile, 1, key_rows, size, d_query.at(begin + q0, head),
                                  d_query.row_stride);
      tile::multiply_add<T, value_size>(count, rows, weight, 1, key_tile, given, d_out.row_stride, Keys::shared ? dk : dv,
                                        value_size);
    }
    for (int j = 0; j < count; ++j) {
      const Index row = begin + base + j;
      for (int i = 0; i < size; ++i) d_key.at(row, head)[i] = dk[j * size + i];
      for (int i = 0; i < turned_size; ++i) d_rotary.at(row, head)[i] = dr[j * turned_size + i];
      if constexpr (!Keys::shared)
        for (int i = 0; i < value_size; ++i) d_value.at(row, head)[i] = dv[j * value_size + i];
      if constexpr (Keys::scaled) *d_inverse.at(row, head) = di[j];
    }
  }
};

}  // namespace hybridmoe::ops
