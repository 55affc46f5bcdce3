#pragma once
/// @file key_tokens.hpp
/// Which tokens of a sequence stay in reach of attention beyond its window. Positions are divided into blocks of `grid`; when a
/// block closes, its `candidates` highest scores r become candidates (of equal scores the earlier token), ϑ is the next one.
/// The rows of block b know S_b, the `entries` highest candidates of the blocks before b; η_b is the next one (−∞ if there is
/// none) and never falls, so that what S has dropped never returns and keeping S and η is enough. A key token weighs
///
///   a_j = 1 − exp(−(r_j − max(ϑ, η_b)))
///
/// which reaches 0 where the token would be dropped.
///
/// A state records each key token's life, the blocks from birth to before death that know it, for as many blocks as a call or
/// Environment::rewind reaches back: closing a block again forgets what was born later and revives what died later.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/ops/top_k.hpp>
#include <hybridmoe/ops/weighted_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// The lists of key tokens, with what following lists and gradients are made from.
template <class T, Index entries, Index grid>
struct KeyBook {
  static constexpr Index room = KeyLists<T, entries, grid>::room;
  KeyLists<T, entries, grid> lists;
  T *score, *theta;        ///< [lists, room] r, ϑ of the token's block
  std::int32_t* theta_at;  ///< [lists, room] the position of ϑ
  T* eta;                  ///< [lists]
  std::int32_t* eta_at;    ///< [lists] the position of η, −1: none

  HYBRIDMOE_FUNCTION constexpr KeyBook(auto& arena, Index count)
      : lists{arena.template take<std::int32_t>(count), arena.template take<std::int32_t>(count * room),
              arena.template take<std::int32_t>(count * room), arena.template take<std::int32_t>(count * room),
              arena.template take<T>(count * room)},
        score(arena.template take<T>(count * room)),
        theta(arena.template take<T>(count * room)),
        theta_at(arena.template take<std::int32_t>(count * room)),
        eta(arena.template take<T>(count)),
        eta_at(arena.template take<std::int32_t>(count)) {}

  /// Entry `from` of one list becomes entry `to` of another (or the same).
  HYBRIDMOE_FUNCTION void copy(Index to, Index from) const {
    lists.position[to] = lists.position[from];
    lists.place[to] = lists.place[from];
    score[to] = score[from];
    theta[to] = theta[from];
    theta_at[to] = theta_at[from];
  }
};

/// What a sequence carries of its key tokens.
/// @tparam span  the most positions that a call or a rewind reaches back
template <class T, Index entries, Index candidates, Index grid, Index span>
struct KeyLives {
  static constexpr Index history = divide_up(span, grid);        ///< blocks
  static constexpr Index room = entries + candidates * history;  ///< of records
  static constexpr Index ring = round_up(grid + span, grid);     ///< of scores
  static constexpr std::int32_t alive = std::int32_t{1} << 30;   ///< the death of who has not died

  Array<T, room> score, theta;
  Array<T, ring> recent;                                   ///< r by position
  Array<T, history + 2> eta;                               ///< by block
  Array<std::int32_t, room> position, birth, death, slot;  ///< in ascending position
  Array<std::int32_t, 2> count;                            ///< of records
};

/// Makes the lists of all blocks of a call. One item: a sequence. Lives is KeyLives; null states: training, where a list's place
/// is the position and nothing is carried.
/// @tparam kept  places in the state are slots of a store of key tokens; otherwise positions
template <class T, Index entries, Index candidates, Index grid, class Lives, bool kept>
struct CloseBlocks {
  Batch batch;
  const T* score;  ///< [rows] r
  KeyBook<T, entries, grid> book;
  std::byte* states;  ///< the first sequence's Lives, `stride` bytes apart
  Index stride;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index sequence) const {
    const Index begin = batch.begin[sequence], start = batch.start[sequence], end = start + batch.begin[sequence + 1] - begin;
    Lives* const lives = states == nullptr ? nullptr : reinterpret_cast<Lives*>(states + batch.slot[sequence] * stride);
    if (lives != nullptr) {
      if (start == 0) lives->count[0] = 0;
      for (Index p = start; p < end; ++p) lives->recent[p % Lives::ring] = score[begin + p - start];
    }
    const Index first = book.lists.list_of(sequence, begin, start, start);
    for (Index block = start / grid; block * grid < end; ++block) {
      const Index list = first + block - start / grid;
      const bool closes = block * grid >= start;
      if (block == 0) {
        book.lists.count[list] = 0;
        book.eta[list] = math::lowest<T>;
        book.eta_at[list] = -1;
        if (lives != nullptr && closes) lives->eta[0] = math::lowest<T>;
      } else if (block == start / grid) {
        load(*lives, closes ? block - 1 : block, list);
      } else {
        book.lists.count[list] = book.lists.count[list - 1];
        book.eta[list] = book.eta[list - 1];
        book.eta_at[list] = book.eta_at[list - 1];
        for (Index i = 0; i < book.lists.count[list]; ++i) book.copy(list * book.room + i, (list - 1) * book.room + i);
      }
      if (closes && block > 0) {
        T r[grid];
        for (Index i = 0; i < grid; ++i) {
          const Index p = (block - 1) * grid + i;
          r[i] = lives == nullptr ? score[begin + p] : lives->recent[p % Lives::ring];
        }
        close(r, block, list);
        if (lives != nullptr) record(*lives, block, list);
      }
      weigh(list);
    }
  }

 private:
  /// S of a block from the records.
  HYBRIDMOE_FUNCTION void load(const Lives& lives, Index block, Index list) const {
    Index count = 0;
    for (Index i = 0; i < lives.count[0]; ++i) {
      if (lives.birth[i] > block || lives.death[i] <= block || count == entries) continue;
      const Index to = list * book.room + count++;
      book.lists.position[to] = lives.position[i];
      book.lists.place[to] = kept ? lives.slot[i] : lives.position[i];
      book.score[to] = lives.score[i];
      book.theta[to] = lives.theta[i];
      book.theta_at[to] = -1;
    }
    book.lists.count[list] = static_cast<std::int32_t>(count);
    book.eta[list] = lives.eta[block % (Lives::history + 2)];
    book.eta_at[list] = -1;
  }

  /// S of block − 1, which `list` holds, becomes S of `block`: r are the scores of block − 1.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void close(const T* r, Index block, Index list) const {
    Index best[candidates + 1];
    top_k<candidates + 1>(r, grid, candidates + 1, best);
    Index next = 0;  // the lowest of them, of equal ones the last
    for (Index i = 1; i <= candidates; ++i)
      if (!(r[best[i]] > r[best[next]])) next = i;
    const Index first = list * book.room, from = (block - 1) * grid;
    Index count = book.lists.count[list];
    for (Index i = 0; i <= candidates; ++i) {
      if (i == next) continue;
      const T s = r[best[i]];
      const auto position = static_cast<std::int32_t>(from + best[i]);
      if (count == entries) {
        Index lowest = 0;
        for (Index e = 1; e < count; ++e)
          if (!(book.score[first + e] > book.score[first + lowest])) lowest = e;
        const bool enters = s > book.score[first + lowest];
        const T lost = enters ? book.score[first + lowest] : s;
        if (lost > book.eta[list]) {
          book.eta[list] = lost;
          book.eta_at[list] = enters ? book.lists.position[first + lowest] : position;
        }
        if (!enters) continue;
        for (Index e = lowest + 1; e < count; ++e) book.copy(first + e - 1, first + e);
        --count;
      }
      const Index to = first + count++;
      book.lists.position[to] = position;
      book.lists.place[to] = position;
      book.score[to] = s;
      book.theta[to] = r[best[next]];
      book.theta_at[to] = static_cast<std::int32_t>(from + best[next]);
    }
    book.lists.count[list] = static_cast<std::int32_t>(count);
  }

  /// Brings the records to the state after closing: who is in the list lives, and gets a slot if it is new.
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void record(Lives& lives, Index block, Index list) const {
    const auto now = static_cast<std::int32_t>(block), gone = static_cast<std::int32_t>(block - Lives::history);
    bool used[Lives::room] = {};
    Index kept_records = 0, entry = 0;
    const Index first = list * book.room, count = book.lists.count[list];
    for (Index i = 0; i < lives.count[0]; ++i) {
      if (lives.birth[i] >= now || lives.death[i] <= gone) continue;
      if (lives.death[i] >= now) lives.death[i] = Lives::alive;
      const Index to = kept_records++;
      lives.position[to] = lives.position[i];
      lives.birth[to] = lives.birth[i];
      lives.death[to] = lives.death[i];
      lives.slot[to] = lives.slot[i];
      lives.score[to] = lives.score[i];
      lives.theta[to] = lives.theta[i];
      used[lives.slot[to]] = true;
      if (lives.death[to] != Lives::alive) continue;
      if (entry < count && book.lists.position[first + entry] == lives.position[to])
        ++entry;
      else
        lives.death[to] = now;
    }
    Index free = 0;
    for (; entry < count; ++entry) {
      while (used[free]) ++free;
      const Index to = kept_records++;
      HYBRIDMOE_ASSERT(to < Lives::room);
      lives.position[to] = book.lists.position[first + entry];
      lives.birth[to] = now;
      lives.death[to] = Lives::alive;
      lives.slot[to] = static_cast<std::int32_t>(free++);
      lives.score[to] = book.score[first + entry];
      lives.theta[to] = book.theta[first + entry];
      if (kept) book.lists.place[first + entry] = lives.slot[to];
    }
    lives.count[0] = static_cast<std::int32_t>(kept_records);
    lives.eta[block % (Lives::history + 2)] = book.eta[list];
  }

  HYBRIDMOE_FUNCTION void weigh(Index list) const {
    const T eta = book.eta[list];
    const Index end = list * book.room + book.lists.count[list];
    for (Index e = list * book.room; e < end; ++e) {
      const bool dropped = eta > book.theta[e];
      book.lists.weight[e] = T(1) - math::exp((dropped ? eta : book.theta[e]) - book.score[e]);
      book.lists.against[e] = dropped ? book.eta_at[list] : book.theta_at[e];
    }
    for (Index e = end; e % key_tile != 0; ++e) {
      book.lists.position[e] = 0;
      book.lists.place[e] = 0;
      book.lists.weight[e] = T(0);
    }
  }
};

/// Copies keys and values of new key tokens from the sequence's ring to their slots. One item: (sequence, kv head).
template <class T, int size, Index kv_heads, Index entries, Index grid>
struct KeepKeys {
  Batch batch;
  KeyLists<T, entries, grid> lists;
  KeyStores<T, size, kv_heads> from, to;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index sequence = item / kv_heads, head = item % kv_heads;
    const Index begin = batch.begin[sequence], start = batch.start[sequence], end = start + batch.begin[sequence + 1] - begin;
    const KeyStore<T, size> ring = from.of(sequence, begin, batch.slot[sequence]),
                            kept = to.of(sequence, begin, batch.slot[sequence]);
    for (Index block = larger(1, divide_up(start, grid)); block * grid < end; ++block) {
      const Index list = lists.list_of(sequence, begin, start, block * grid);
      for (Index e = list * lists.room + lists.count[list] - 1; e >= list * lists.room; --e) {
        const Index position = lists.position[e], place = lists.place[e];
        if (position < (block - 1) * grid) break;
        const T* const key = ring.key_at(head, position / key_tile) + position % key_tile;
        const T* const value = ring.value_at(head, position / key_tile) + position % key_tile * size;
        T* const key_to = kept.key_at(head, place / key_tile) + place % key_tile;
        T* const value_to = kept.value_at(head, place / key_tile) + place % key_tile * size;
        for (int i = 0; i < size; ++i) key_to[i * key_tile] = key[i * key_tile];
        for (int i = 0; i < size; ++i) value_to[i] = value[i];
      }
    }
  }
};

/// d_score [rows] (assigned) from the kv heads' gradients by the key tokens' weights. One item: a sequence. Training only.
template <class T, int kv_heads, Index entries, Index grid>
struct KeyScoresBackward {
  Batch batch;
  KeyLists<T, entries, grid> lists;
  const T* d_weight;  ///< [lists, kv_heads, room]
  T* d_score;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index sequence) const {
    const Index begin = batch.begin[sequence], end = batch.begin[sequence + 1] - begin;
    for (Index row = begin; row < begin + end; ++row) d_score[row] = T(0);
    for (Index from = 0; from < end; from += grid) {
      const Index list = lists.list_of(sequence, begin, 0, from);
      for (Index e = 0; e < lists.count[list]; ++e) {
        T d = 0;
        for (int h = 0; h < kv_heads; ++h) d += d_weight[(list * kv_heads + h) * lists.room + e];
        d *= T(1) - lists.weight[list * lists.room + e];
        d_score[begin + lists.position[list * lists.room + e]] += d;
        if (lists.against[list * lists.room + e] >= 0) d_score[begin + lists.against[list * lists.room + e]] -= d;
      }
    }
  }
};

}  // namespace hybridmoe::ops
