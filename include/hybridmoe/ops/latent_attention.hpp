#pragma once
/// @file latent_attention.hpp
/// The core of multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): softmax over
///
///   s = (query·key)·inverse + turned·rotary key        o = Σ softmax(s)·value
///
/// with keys and values of the form that Keys describes (latent_keys.hpp). Tiles of keys and orders of sums as in
/// softmax_attention.hpp, so that a row's bits do not depend on its neighbours.

#include <hybridmoe/ops/cpu/pack.hpp>
#include <hybridmoe/ops/latent_keys.hpp>
#include <hybridmoe/ops/softmax_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// out(row, head) for all rows. One item: (sequence, some heads that read the same keys, block of rows).
template <class T, class Keys>
struct LatentAttention {
  static constexpr int heads = Keys::heads, size = Keys::size, turned_size = Keys::turned, value_size = Keys::value_size;
  static constexpr int together = !Keys::shared ? 1 : heads < query_tile ? heads : query_tile;  ///< heads of an item
  static constexpr int block = query_tile / together;                                           ///< rows of an item
  static constexpr int groups = (heads + together - 1) / together;
  static constexpr int value_panels = (value_size + 31) / 32;

  Batch batch;
  HeadRows<const T> query;   ///< [size], scaled
  HeadRows<const T> turned;  ///< [turned_size], rotated and scaled
  Keys keys;
  HeadRows<T> out;             ///< [value_size]
  HeadRows<T> log_sum_of_exp;  ///< [1]

  HYBRIDMOE_FUNCTION static Index blocks(const Batch& b) { return divide_up(b.longest, block); }
  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * groups * blocks(b); }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index chunk = item % blocks(batch), group = item / blocks(batch) % groups, sequence = item / blocks(batch) / groups;
    const Index begin = batch.begin[sequence];
    const Index row0 = begin + chunk * block, row1 = smaller(row0 + block, batch.begin[sequence + 1]);
    if (row0 >= row1) return;
    const Index position0 = batch.start[sequence] + (row0 - begin), position1 = position0 + (row1 - row0) - 1;
    const Index head0 = group * together;
    const int many = static_cast<int>(smaller(together, heads - head0));  // heads here
    const int count = static_cast<int>(row1 - row0) * many;
    const auto view = keys.of(batch, sequence);

    constexpr int most = block * together;
    T here[most * size], there[most * turned_size], sum[most * value_panels * 32], score[most * key_tile];
    T maximum[most], total[most];
    for (int m = 0; m < count; ++m) {
      const T* const from = query.at(row0 + m / many, head0 + m % many);
      for (int i = 0; i < size; ++i) here[m * size + i] = from[i];
      const T* const other = turned.at(row0 + m / many, head0 + m % many);
      for (int i = 0; i < turned_size; ++i) there[m * turned_size + i] = other[i];
      cpu::clear<value_panels * 32>(sum + m * value_panels * 32);
      maximum[m] = math::lowest<T>;
      total[m] = T(0);
    }
    for (Index tile = 0; tile <= position1 / key_tile; ++tile) {
      tile::multiply<T, key_tile>(count, size, here, size, 1, view.key(head0, tile), key_tile, score, key_tile);
      if constexpr (Keys::scaled)
        for (int m = 0; m < count; ++m) {
          const T* const inverse = view.inverse(head0 + m % many, tile);
          for (int j = 0; j < key_tile; ++j) score[m * key_tile + j] *= inverse[j];
        }
      tile::multiply_add<T, key_tile>(count, turned_size, there, turned_size, 1, view.rotary_key(tile), key_tile, score,
                                      key_tile);
      const Index base = tile * key_tile;
      for (int m = 0; m < count; ++m) {
        const AllVisible seen{VisibleLanes(-base, position0 + m / many - base)};
        const T factor = soften(score + m * key_tile, seen, maximum[m], total[m]);
        if (factor != T(1))
          for (int i = 0; i < value_panels * 32; ++i) sum[m * value_panels * 32 + i] *= factor;
      }
      // Only keys that some row of the item sees are read: others may not be written yet.
      mix(count, smaller(key_tile, position1 - base + 1), score, view.value(head0, tile), sum);
    }
    for (int m = 0; m < count; ++m) {
      const Index row = row0 + m / many, head = head0 + m % many;
      const T inverse = T(1) / total[m];
      T* const to = out.at(row, head);
      for (int i = 0; i < value_size; ++i) to[i] = sum[m * value_panels * 32 + i] * inverse;
      *log_sum_of_exp.at(row, head) = maximum[m] + math::log(total[m]);
    }
  }

 private:
  /// sum += weight·values for `seen` keys. Values lie by element, since the latent is key and value at once: 32 elements at a
  /// time are turned to lie by key.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static void mix(int count, Index seen, const T* weight, const T* values, T* sum) {
    constexpr int whole = value_size / 32, rest = value_size % 32;
    for (int panel = 0; panel < whole; ++panel) mix_panel<32>(count, seen, weight, values, sum, panel);
    if constexpr (rest > 0) mix_panel<rest>(count, seen, weight, values, sum, whole);
  }
  template <int columns>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static void mix_panel(int count, Index seen, const T* weight, const T* values, T* sum,
                                                            int panel) {
    T piece[key_tile * 32];
    cpu::transpose_panel(values + panel * 32 * key_tile, columns, key_tile, seen, piece);
    tile::multiply_add<T, columns>(count, static_cast<int>(seen), weight, key_tile, 1, piece, 32, sum + panel * 32,
                                   value_panels * 32);
  }
};

}  // namespace hybridmoe::ops
