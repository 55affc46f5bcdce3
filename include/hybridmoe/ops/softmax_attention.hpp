#pragma once
/// @file softmax_attention.hpp
/// Causal softmax attention in one pass over key tiles with running maximum and sum (Milakov and Gimelshein 2018; Dao et al.,
/// "FlashAttention", 2022). Tiles lie on absolute multiples of 32 keys and are visited in order, masked keys weigh exactly
/// zero, and sums over head elements and keys run in ascending order: a row's bits do not depend on its neighbours.

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/ops/key_store.hpp>
#include <hybridmoe/ops/tile.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Query vectors (rows × heads that share a kv head) of one item.
inline constexpr int query_tile = 32;

/// Keys whose scores are softened together.
inline constexpr int softmax_lanes = 8;

/// Visible keys of a tile, as bounds within it: lane numbers compare as fast as floats.
struct VisibleLanes {
  int first, last;
  HYBRIDMOE_FUNCTION VisibleLanes(Index first_key, Index last_key)
      : first(static_cast<int>(larger(-1, smaller(first_key, key_tile)))),
        last(static_cast<int>(larger(-1, smaller(last_key, key_tile)))) {}
  HYBRIDMOE_FUNCTION bool operator[](int lane) const { return (lane >= first) & (lane <= last); }
  /// All visible lanes lie in the whole groups of softmax_lanes from begin() to end(); none if end() is not above begin().
  HYBRIDMOE_FUNCTION int begin() const { return first < 0 ? 0 : first / softmax_lanes * softmax_lanes; }
  HYBRIDMOE_FUNCTION int end() const {
    return last < first ? begin() : last < key_tile ? (last / softmax_lanes + 1) * softmax_lanes : static_cast<int>(key_tile);
  }
};

/// What a query row sees of a tile: the visible keys, all alike. `of` is the mask of some lanes from `lane` on.
struct AllVisible {
  VisibleLanes visible;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE bool operator()(int lane) const { return visible[lane]; }
  template <class T>
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T weigh(int, T power) const {
    return power;
  }
#if HYBRIDMOE_VECTOR
  template <class T, int lanes>
  HYBRIDMOE_INLINE auto of(int lane) const {
    using Number = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
    using V = cpu::Vector<Number, lanes>;
    static constexpr Number order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const V number = cpu::load<Number, lanes>(order) + cpu::splat<Number, lanes>(lane);
    return (number >= cpu::splat<Number, lanes>(visible.first)) & (number <= cpu::splat<Number, lanes>(visible.last));
  }
#endif
};

/// The highest of `other` and the scores that are seen of [from, to), whole groups of softmax_lanes; the others become −∞.
template <class T, class Seen>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T highest_seen(T* score, int from, int to, const Seen& seen, T other) {
  T top[softmax_lanes];
#if HYBRIDMOE_VECTOR
  // By registers: of the loop below g++ makes a branch for every key.
  constexpr int lanes = smaller(softmax_lanes, cpu::register_lanes<T>), parts = softmax_lanes / lanes;
  using V = cpu::Vector<T, lanes>;
  const V unseen = cpu::splat<T, lanes>(math::lowest<T>);
  V most[parts];
  for (int p = 0; p < parts; ++p) most[p] = cpu::splat<T, lanes>(other);
  for (int j = from; j < to; j += softmax_lanes)
    for (int p = 0; p < parts; ++p) {
      T* const at = score + j + p * lanes;
      const V s = seen.template of<T, lanes>(j + p * lanes) ? cpu::load<T, lanes>(at) : unseen;
      cpu::store<T, lanes>(at, s);
      most[p] = s > most[p] ? s : most[p];
    }
  for (int p = 0; p < parts; ++p) cpu::store<T, lanes>(top + p * lanes, most[p]);
#else
  for (int i = 0; i < softmax_lanes; ++i) top[i] = other;
  for (int j = from; j < to; j += softmax_lanes)
    for (int i = 0; i < softmax_lanes; ++i) {
      const T s = seen(j + i) ? score[j + i] : math::lowest<T>;
      score[j + i] = s;
      top[i] = s > top[i] ? s : top[i];
    }
#endif
  return tree_maximum<softmax_lanes>(top);
}

/// The scores of one query row against one tile become weights: softmax with a running maximum. On return score[j] is
/// e^{s_j − maximum}, weighed as `seen` says, and 0 where not seen; the caller scales its sums by the returned factor.
template <class T, class Seen>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T soften(T* score, const Seen& seen, T& maximum, T& total) {
  constexpr int lanes = softmax_lanes;
  const int from = seen.visible.begin(), to = seen.visible.end();
  for (int j = 0; j < from; j += lanes) cpu::clear<lanes>(score + j);
  for (int j = to; j < key_tile; j += lanes) cpu::clear<lanes>(score + j);
  const T next = highest_seen(score, from, to, seen, maximum);
  if (next == math::lowest<T>) {  // nothing visible yet: leave the sums alone
    for (int j = from; j < to; ++j) score[j] = T(0);
    return T(1);
  }
  T lane[lanes] = {};
  for (int j = from; j < to; j += lanes)
    for (int i = 0; i < lanes; ++i) {
      const T weight = seen.weigh(j + i, math::exp_nonpositive(score[j + i] - next));  // e^{−∞} is exactly 0
      score[j + i] = weight;
      lane[i] += weight;
    }
  const T factor = maximum == math::lowest<T> ? T(0) : math::exp_nonpositive(maximum - next);
  total = total * factor + tree_sum<softmax_lanes>(lane);
  maximum = next;
  return factor;
}

/// out[row, head] = Σ_k softmax(q·k)·v. One item: (sequence, kv head, block of rows).
template <class T, int heads, int kv_heads, int size, class Mask>
struct SoftmaxAttention {
  static constexpr int group = heads / kv_heads;
  static constexpr int block = group >= query_tile ? 1 : query_tile / group;  ///< rows of an item

  Batch batch;
  const T* ready;  ///< [rows, heads·size] normalised, rotated, scaled queries
  KeyStores<T, size, kv_heads> stores;
  T* out;             ///< [rows, heads·size]
  T* log_sum_of_exp;  ///< [rows, heads]

  HYBRIDMOE_FUNCTION static Index blocks(const Batch& b) { return divide_up(b.longest, block); }
  HYBRIDMOE_FUNCTION static Index items(const Batch& b) { return b.sequences * kv_heads * blocks(b); }

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index chunk = item % blocks(batch), head = item / blocks(batch) % kv_heads, sequence = item / blocks(batch) / kv_heads;
    const Index begin = batch.begin[sequence];
    const Index row0 = begin + chunk * block, row1 = smaller(row0 + block, batch.begin[sequence + 1]);
    if (row0 >= row1) return;
    const Index position0 = batch.start[sequence] + (row0 - begin), position1 = position0 + (row1 - row0) - 1;
    const KeyStore<T, size> store = stores.of(sequence, begin, stores.state_base == nullptr ? 0 : batch.slot[sequence]);

    const int count = static_cast<int>(row1 - row0) * group;
    T query[block * group * size], sum[block * group * size], score[block * group * key_tile];
    T maximum[block * group], total[block * group];
    for (int m = 0; m < count; ++m) {
      const T* from = ready + ((row0 + m / group) * heads + head * group + m % group) * size;
      for (int i = 0; i < size; ++i) query[m * size + i] = from[i];
      cpu::clear<size>(sum + m * size);
      maximum[m] = math::lowest<T>;
      total[m] = T(0);
    }
    for (Index tile = Mask::first(position0) / key_tile; tile <= position1 / key_tile; ++tile) {
      tile::multiply<T, key_tile>(count, size, query, size, 1, store.key_at(head, tile), key_tile, score, key_tile);
      const Index base = tile * key_tile;
      for (int m = 0; m < count; ++m) {
        const Index position = position0 + m / group;
        const AllVisible seen{VisibleLanes(Mask::first(position) - base, position - base)};
        const T factor = soften(score + m * key_tile, seen, maximum[m], total[m]);
        if (factor != T(1))
          for (int i = 0; i < size; ++i) sum[m * size + i] *= factor;
      }
      // Only keys that some row of the item sees are read: others may not be written yet.
      const Index low = larger(0, Mask::first(position0) - base), high = smaller(key_tile - 1, position1 - base);
      tile::multiply_add<T, size>(count, static_cast<int>(high - low + 1), score + low, key_tile, 1,
                                  store.value_at(head, tile) + low * size, size, sum, size);
    }
    for (int m = 0; m < count; ++m) {
      const Index vector = (row0 + m / group) * heads + head * group + m % group;
      const T inverse = T(1) / total[m];
      for (int i = 0; i < size; ++i) out[vector * size + i] = sum[m * size + i] * inverse;
      if (log_sum_of_exp != nullptr) log_sum_of_exp[vector] = maximum[m] + math::log(total[m]);
    }
  }
};

}  // namespace hybridmoe::ops
