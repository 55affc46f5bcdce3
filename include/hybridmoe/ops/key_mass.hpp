#pragma once
/// @file key_mass.hpp
/// What a scorer of key tokens should find: A_j, the part of full attention that rows give to token j beyond their windows,
/// summed over a sample of rows and all heads; and the loss that teaches it, Σ over closed blocks of KL(A/ΣA ‖ softmax r).
/// A is a target: it has no gradient here.

#include <hybridmoe/ops/weighted_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Each kv head's part of A, from every `every`-th row. One item: one kv head of one sequence. Training only.
template <class T, int heads, int kv_heads, int size, class Shape>
struct KeyMass {
  static constexpr int group = heads / kv_heads;
  static constexpr int block = query_tile;  ///< sampled rows that are taken together

  Batch batch;
  Index every;
  const T* ready;  ///< [rows, heads·size]
  const T* reach;  ///< [rows, columns]
  KeyStores<T, size, kv_heads> stores;
  T* mass;  ///< [kv_heads, rows]

  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * kv_heads; }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index head = item % kv_heads, sequence = item / kv_heads;
    const Index begin = batch.begin[sequence], length = batch.begin[sequence + 1] - begin;
    const KeyStore<T, size> store = stores.of(sequence, begin, 0);
    T* const to = mass + head * batch.rows + begin;
    for (Index j = 0; j < length; ++j) to[j] = T(0);
    T score[block * key_tile], maximum[block], total[block], outside[key_tile];
    RowReach<T, Shape> row[block];
    for (Index from = every - 1; from < length; from += every * block) {
      const int rows = static_cast<int>(smaller(block, divide_up(length - from, every)));
      Index whole = 0;
      for (int r = 0; r < rows; ++r) {
        row[r] = RowReach<T, Shape>(from + r * every, reach + (begin + from + r * every) * Shape::columns);
        whole = larger(whole, row[r].whole);
      }
      if (whole == 0) continue;  // all windows cover everything
      for (Index h = head * group; h < (head + 1) * group; ++h) {
        const T* const query = ready + ((begin + from) * heads + h) * size;
        for (int r = 0; r < rows; ++r) {
          maximum[r] = math::lowest<T>;
          total[r] = T(0);
        }
        for (Index tile = 0; tile * key_tile <= row[rows - 1].position; ++tile) {
          scores(rows, query, store.key_at(head, tile), score);
          for (int r = 0; r < rows; ++r)
            soften(score + r * key_tile, AllVisible{VisibleLanes(0, row[r].position - tile * key_tile)}, maximum[r], total[r]);
        }
        for (int r = 0; r < rows; ++r) maximum[r] += math::log(total[r]);
        for (Index base = 0; base < whole; base += key_tile) {
          scores(rows, query, store.key_at(head, base / key_tile), score);
          T sum[key_tile] = {};
          for (int r = 0; r < rows; ++r) {
            const T* const s = score + r * key_tile;
            const int last = static_cast<int>(row[r].position - base);
            for (int j = 0; j < key_tile; ++j) outside[j] = math::select(j <= last, T(1) - row[r].local(last - j), T(0));
            for (int j = 0; j < key_tile; ++j)
              sum[j] += outside[j] * math::exp(math::select(outside[j] > T(0), s[j] - maximum[r], math::lowest<T>));
          }
          const Index count = smaller(key_tile, length - base);
          for (Index j = 0; j < count; ++j) to[base + j] += sum[j];
        }
      }
    }
  }

 private:
  HYBRIDMOE_FUNCTION void scores(int rows, const T* query, const T* keys, T* score) const {
    tile::multiply<T, key_tile>(rows, size, query, every * heads * size, 1, keys, key_tile, score, key_tile);
  }
};

/// One block's target and what the scorer says: π = A/ΣA and q = softmax r.
template <class T, int kv_heads, Index grid>
struct KeyTarget {
  T target[grid], said[grid];

  /// Whether any row gave anything to the block that begins with row `first`.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE bool of(Index rows, Index first, const T* mass, const T* score) {
    T all = 0, top = score[first], powers = 0;
    for (Index i = 0; i < grid; ++i) {
      target[i] = 0;
      for (int h = 0; h < kv_heads; ++h) target[i] += mass[h * rows + first + i];
      all += target[i];
      top = score[first + i] > top ? score[first + i] : top;
    }
    if (!(all > T(0))) return false;
    for (Index i = 0; i < grid; ++i) said[i] = math::exp(score[first + i] - top);
    for (Index i = 0; i < grid; ++i) powers += said[i];
    for (Index i = 0; i < grid; ++i) {
      target[i] /= all;
      said[i] /= powers;
    }
    return true;
  }
};

/// loss[sequence] = Σ over its closed blocks of KL(π ‖ q); or d_score += scale·(q − π). One item: a sequence.
template <class T, int kv_heads, Index grid, bool back>
struct WarmScores {
  Batch batch;
  T scale;
  const T *mass, *score;  ///< [kv_heads, rows], [rows]
  T* to;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index sequence) const {
    KeyTarget<T, kv_heads, grid> block;
    T loss = 0;
    for (Index first = batch.begin[sequence]; first + grid <= batch.begin[sequence + 1]; first += grid) {
      if (!block.of(batch.rows, first, mass, score)) continue;
      for (Index i = 0; i < grid; ++i) {
        if constexpr (back)
          to[first + i] += scale * (block.said[i] - block.target[i]);
        else if (block.target[i] > T(0))
          loss += block.target[i] * (math::log(block.target[i]) - math::log(block.said[i]));
      }
    }
    if constexpr (!back) to[sequence] = scale * loss;
  }
};

}  // namespace hybridmoe::ops
