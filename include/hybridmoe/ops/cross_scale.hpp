#pragma once
/// @file cross_scale.hpp
/// Attention from tokens to closed segments of three scales, one softmax over all of them and a null key:
///
///   weight of segment g of scale s ∝ ε_s·e^{l},  l = q·k_g/√d + log Ω_g + bias_{i,s} − slope_i·log(1 + t − end_g)
///   the null key weighs ∝ e⁰ and has the value 0
///
/// A row sees the last keys.at(s) segments that are closed. Keys lie in tiles of 32 at absolute multiples of 32 of a segment's
/// number; the maximum comes first, then sums run over scales and numbers in ascending order, so a row's bits do not depend on
/// its neighbours.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/ops/attention_heads.hpp>
#include <hybridmoe/ops/segment_uses.hpp>
#include <hybridmoe/ops/tile.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// How many segments of each scale a row attends to.
struct ScaleKeys {
  Index phrase = 64, sentence = 64, paragraph = 128;
  HYBRIDMOE_FUNCTION constexpr Index at(Index scale) const { return scale == 0 ? phrase : scale == 1 ? sentence : paragraph; }
};

namespace ops {

/// log x for x ≥ 1, without branches in float (the polynomial of Cephes' logf), so that loops over it vectorise.
HYBRIDMOE_FUNCTION inline float log_lag(float x) {
  const std::int32_t bits = std::bit_cast<std::int32_t>(x);
  const std::int32_t above = (bits & 0x7fffff) >= 0x3504f4 ? 1 : 0;  // the mantissa is brought to [√½, √2)
  const std::int32_t exponent = (bits >> 23) - 127 + above;
  const float m = std::bit_cast<float>((bits & 0x7fffff) | ((127 - above) << 23)) - 1.0f;
  const float e = static_cast<float>(exponent), square = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return (m + (p * m * square - e * 2.12194440e-4f - 0.5f * square)) + e * 0.693359375f;
}
HYBRIDMOE_FUNCTION inline double log_lag(double x) { return math::log(x); }

/// Keys, values, log Ω and ends of one sequence's segments of a scale. Tile t lies at t mod tiles.
template <class T, int size>
struct ScaleStore {
  T *keys = nullptr, *values = nullptr, *log_omega = nullptr;
  std::int32_t* end = nullptr;
  Index tiles = 0, head_stride = 0;

  HYBRIDMOE_FUNCTION T* key_at(Index head, Index tile) const {
    return keys + head * head_stride + ring_tile(tile, tiles) * (size * key_tile);
  }
  HYBRIDMOE_FUNCTION T* value_at(Index head, Index tile) const {
    return values + head * head_stride + ring_tile(tile, tiles) * (size * key_tile);
  }
};

/// Where they lie: in a ring of each sequence's state, or one sequence after another in a tape.
template <class T, int size>
struct ScaleStores {
  ScaleStore<T, size> scale[SegmentLimits::scales];  ///< slot 0's, or the tape's
  Index stride = 0;                                  ///< bytes between states
  const Index* slot = nullptr;                       ///< null: a tape

  /// `before`: segments of the scale in the call's earlier sequences.
  HYBRIDMOE_FUNCTION ScaleStore<T, size> of(Index s, Index sequence, Index before) const {
    ScaleStore<T, size> result = scale[s];
    if (slot == nullptr) {
      const Index at = before / key_tile + sequence;
      result.keys += at * size * key_tile;
      result.values += at * size * key_tile;
      result.log_omega += at * key_tile;
      result.end += at * key_tile;
    } else {
      const Index bytes = slot[sequence] * stride;
      result.keys = reinterpret_cast<T*>(reinterpret_cast<std::byte*>(result.keys) + bytes);
      result.values = reinterpret_cast<T*>(reinterpret_cast<std::byte*>(result.values) + bytes);
      result.log_omega = reinterpret_cast<T*>(reinterpret_cast<std::byte*>(result.log_omega) + bytes);
      result.end = reinterpret_cast<std::int32_t*>(reinterpret_cast<std::byte*>(result.end) + bytes);
    }
    return result;
  }
};

/// Brings the segments that a call closes to their places. One item: segment_block segments.
template <class T, int kv_heads, int size>
struct StoreSegmentsKernel {
  Batch batch;
  ClosedSegments<T> segments;
  const T *key, *value;  ///< [segments, kv_heads·size]
  ScaleStores<T, size> stores;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(segments.offset[SegmentLimits::scales], (item + 1) * segment_block);
    for (Index i = item * segment_block; i < last; ++i) {
      const Index s = segments.scale_of(i), sequence = segments.sequence[i], number = segments.number[i];
      const ScaleStore<T, size> store =
          stores.of(s, sequence, segments.first_of(s, batch.sequences)[sequence] - segments.offset[s]);
      const Index tile = number / key_tile, lane = number % key_tile, at = ring_tile(tile, store.tiles) * key_tile + lane;
      store.log_omega[at] = segments.log_omega[i];
      store.end[at] = static_cast<std::int32_t>(segments.end[i]);
      for (Index h = 0; h < kv_heads; ++h) {
        T* const keys = store.key_at(h, tile) + lane;
        T* const values = store.value_at(h, tile) + lane * size;
        for (int c = 0; c < size; ++c) keys[c * key_tile] = key[(i * kv_heads + h) * size + c];
        for (int c = 0; c < size; ++c) values[c] = value[(i * kv_heads + h) * size + c];
      }
    }
  }
};

/// What forward and backward share.
template <class T, int heads, int kv_heads, int size, ScaleKeys keys>
struct CrossScaleInput {
  static constexpr Index scales = SegmentLimits::scales;
  static constexpr int group = heads / kv_heads;
  static constexpr int block = group >= 8 ? 1 : 8 / group;  ///< rows of a block
  static constexpr int vectors = block * group;
  /// Tiles of a scale that the rows of a block see together, at most: each row may close one segment.
  static constexpr int tiles(Index s) { return static_cast<int>(divide_up(keys.at(s) + block, key_tile) + 1); }
  static constexpr int slots = tiles(0) + tiles(1) + tiles(2), lanes = slots * static_cast<int>(key_tile);

  Batch batch;
  ClosedSegments<T> segments;
  ScaleStores<T, size> stores;
  Emphasis<T> emphasis;
  const T* query;         ///< [rows, heads·size]
  const T *bias, *slope;  ///< [heads, scales], [heads]
  T scale;                ///< 1/√size

  HYBRIDMOE_FUNCTION ScaleStore<T, size> store_of(Index s, Index sequence) const {
    return stores.of(s, sequence, segments.first_of(s, batch.sequences)[sequence] - segments.offset[s]);
  }
  HYBRIDMOE_FUNCTION Index closed(Index row, Index s) const { return segments.count[row].closed[s]; }

  /// The numbers [from, until) that some row of row0 … row1−1 sees; none where no row has an emphasis (unless `all`).
  struct Seen {
    Index from, until;
  };
  HYBRIDMOE_FUNCTION Seen seen(Index s, Index row0, Index row1, bool all) const {
    for (Index row = row0; row < row1 && !all; ++row) all = emphasis.at(row, s) != T(0);
    return all ? Seen{larger(0, closed(row0, s) - keys.at(s)), closed(row1 - 1, s)} : Seen{0, 0};
  }

  HYBRIDMOE_FUNCTION void load(Index row0, Index row1, Index head, T* to) const {
    for (Index row = row0; row < row1; ++row) {
      const T* const from = query + (row * heads + head * group) * size;
      T* const at = to + (row - row0) * group * size;
      for (int c = 0; c < group * size; ++c) at[c] = from[c] * scale;
    }
  }

  /// logit[vector·row_stride + lane] of the block against a tile, −∞ where a row does not see (or does not weigh, unless `all`);
  /// lag[row·key_tile + lane] = log(1 + t − end).
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void logits(const ScaleStore<T, size>& store, Index s, Index tile, Index row0, Index row1,
                                                  Index head, bool all, const T* ready, T* logit, Index row_stride,
                                                  T* lag) const {
    const int rows = static_cast<int>(row1 - row0), width = static_cast<int>(key_tile);
    tile::multiply<T, static_cast<int>(key_tile)>(rows * group, size, ready, size, 1, store.key_at(head, tile), key_tile, logit,
                                                  row_stride);
    const std::int32_t* const end = store.end + ring_tile(tile, store.tiles) * key_tile;
    const T* const omega = store.log_omega + ring_tile(tile, store.tiles) * key_tile;
    for (int r = 0; r < rows; ++r) {
      const Index row = row0 + r, until = closed(row, s), base = tile * key_tile;
      const bool weighs = all || emphasis.at(row, s) != T(0);
      const int low = static_cast<int>(larger(0, until - keys.at(s) - base));
      const int high = weighs ? static_cast<int>(larger(0, smaller(key_tile, until - base))) : 0;
      const auto now = static_cast<std::int32_t>(batch.row_position[row]) + 1;
      T* const away = lag + r * width;
      for (int j = 0; j < width; ++j) away[j] = static_cast<T>(((j >= low) & (j < high)) ? now - end[j] : 1);
      for (int j = 0; j < width; ++j) away[j] = log_lag(away[j]);
      for (int g = 0; g < group; ++g) {
        const Index h = head * group + g;
        const T add = bias[h * scales + s], fall = slope[h];
        T* const to = logit + (r * group + g) * row_stride;
        for (int j = 0; j < width; ++j) {
          const T l = to[j] + (omega[j] + add - fall * away[j]);
          to[j] = math::select((j >= low) & (j < high), l, math::lowest<T>);
        }
      }
    }
  }
};

/// out[rows, heads·size], and log Σ of all weights [rows, heads]. One item: a block of rows of a sequence, and a kv head.
template <class T, int heads, int kv_heads, int size, ScaleKeys keys>
struct CrossScaleKernel {
  using Input = CrossScaleInput<T, heads, kv_heads, size, keys>;
  static constexpr int group = Input::group, block = Input::block, vectors = Input::vectors, lanes = Input::lanes;
  Input input;
  T *out, *log_total;

  HYBRIDMOE_FUNCTION static Index blocks(const Batch& b) { return divide_up(b.longest, block); }
  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * kv_heads * blocks(b); }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    constexpr int width = static_cast<int>(key_tile);
    const Batch& batch = input.batch;
    const Index chunk = item % blocks(batch), head = item / blocks(batch) % kv_heads, sequence = item / blocks(batch) / kv_heads;
    const Index row0 = batch.begin[sequence] + chunk * block, row1 = smaller(row0 + block, batch.begin[sequence + 1]);
    if (row0 >= row1) return;
    const int count = static_cast<int>(row1 - row0) * group;
    T ready[vectors * size], weight[vectors * lanes], lag[block * width], sum[vectors * size], top[vectors], total[vectors];
    input.load(row0, row1, head, ready);
    for (int m = 0; m < count; ++m) top[m] = T(0);  // the null key's logit

    int slot = 0;
    for (Index s = 0; s < Input::scales; ++s) {
      const auto seen = input.seen(s, row0, row1, false);
      if (seen.until == seen.from) continue;
      const ScaleStore<T, size> store = input.store_of(s, sequence);
      for (Index tile = seen.from / key_tile; tile * key_tile < seen.until; ++tile, ++slot) {
        T* const logit = weight + slot * width;
        input.logits(store, s, tile, row0, row1, head, false, ready, logit, lanes, lag);
        for (int m = 0; m < count; ++m)
          for (int j = 0; j < width; ++j) top[m] = logit[m * lanes + j] > top[m] ? logit[m * lanes + j] : top[m];
      }
    }
    for (int m = 0; m < count; ++m) {
      total[m] = math::exp_nonpositive(-top[m]);
      for (int c = 0; c < size; ++c) sum[m * size + c] = T(0);
    }
    slot = 0;
    for (Index s = 0; s < Input::scales; ++s) {
      const auto seen = input.seen(s, row0, row1, false);
      if (seen.until == seen.from) continue;
      const ScaleStore<T, size> store = input.store_of(s, sequence);
      for (Index tile = seen.from / key_tile; tile * key_tile < seen.until; ++tile, ++slot) {
        for (int m = 0; m < count; ++m) {
          const T e = input.emphasis.at(row0 + m / group, s);
          T* const w = weight + m * lanes + slot * width;
          for (int j = 0; j < width; ++j) w[j] = e * math::exp_nonpositive(w[j] - top[m]);
          T lane[8] = {};
          for (int j = 0; j < width; j += 8)
            for (int i = 0; i < 8; ++i) lane[i] += w[j + i];
          total[m] += tree_sum<8>(lane);
        }
        // Only values that some row of the block sees are read: others may not be written yet.
        const Index low = larger(0, seen.from - tile * key_tile), high = smaller(key_tile, seen.until - tile * key_tile);
        tile::multiply_add<T, size>(count, static_cast<int>(high - low), weight + slot * width + low, lanes, 1,
                                    store.value_at(head, tile) + low * size, size, sum, size);
      }
    }
    for (int m = 0; m < count; ++m) {
      const Index vector = (row0 + m / group) * heads + head * group + m % group;
      for (int c = 0; c < size; ++c) out[vector * size + c] = sum[m * size + c] / total[m];
      if (log_total != nullptr) log_total[vector] = top[m] + math::log(total[m]);
    }
  }
};

}  // namespace ops
}  // namespace hybridmoe
