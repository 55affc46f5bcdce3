#pragma once
/// @file key_tokens.hpp
/// The part of adaptive attention that chooses key tokens: scores, lists for every block, and what a sequence carries.

#include <hybridmoe/attention/scorer.hpp>
#include <hybridmoe/ops/key_mass.hpp>
#include <hybridmoe/ops/key_tokens.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// The store of key tokens: at most `entries`; when a block of `block` tokens closes, its `candidates` best may enter.
struct Store {
  Index entries = 512, candidates = 8, block = 64;
};

/// In the place of key tokens: none.
struct NoKeyTokens {
  static constexpr Index entries = 0, candidates = 0, grid = 1;
  static constexpr bool sound = true;
  template <bool>
  struct Requirements {};

  template <class Env, Index kv_heads, Index size, bool kept>
  struct Part {
    template <class T, class Storage>
    struct Parameters {};
    static void visit(auto&&, const Name&, auto&...) {}
    template <class T>
    using State = Stateless;
    template <class T>
    struct Tape {
      ops::KeyLists<T, 0, 1> lists{};
      static constexpr T* loss = nullptr;
      HYBRIDMOE_FUNCTION constexpr Tape(auto&, Extent) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent) {
      return 0;
    }
    static constexpr Index list_room = 0;
    static constexpr Index lists_for(Extent) { return 0; }
    template <class T, class Stores>
    HYBRIDMOE_FUNCTION static Stores places(const Stores& stores, States<Stateless>) {
      return stores;
    }
    template <class Space, class T, class Storage, class Stores>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>&, const Parameters<T, Storage>&, Rows<const T, Env::width>,
                                           const Stores&, States<Stateless>, const Tape<T>&) {}
    template <int heads, class Shape, class Space, class T, class Stores>
    HYBRIDMOE_FUNCTION static void warm(const Call<Space>&, const T*, const T*, const Stores&, const Tape<T>&) {}
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>&, const Parameters<T, Flat>&, Rows<const T, Env::width>,
                                            const Tape<T>&, const T*, Rows<T, Env::width>, Parameters<T, Flat>&) {}
    static constexpr Flops flops_per_token() { return {}; }
    static constexpr Index recurrent_elements = 0;
  };
};

/// Key tokens scored by a scorer:: policy and kept in a store. Tensors: key_tokens.* of the scorer.
/// @tparam Warm  scorer::Cold or `scorer::Warm<…>`
template <Store store, class Scorer, class Warm>
struct ChosenKeyTokens {
  static constexpr Index entries = store.entries, candidates = store.candidates, grid = store.block;
  static constexpr bool positive = entries > 0 && candidates > 0 && grid > 0;
  static constexpr bool sound = positive && candidates < grid;
  template <bool asked>
  struct Requirements {
    static_assert(!asked || positive, "attention::Store needs at least one entry, one candidate and a positive block");
    static_assert(!asked || !positive || candidates < grid,
                  "Store::candidates must be less than Store::block: the next best score is what theirs are held against");
  };

  /// @tparam kept  whether the state keeps the key tokens' keys and values; otherwise it keeps those of all positions anyway
  template <class Env, Index kv_heads, Index size_, bool kept>
  struct Part {
    static constexpr int size = static_cast<int>(size_), kv = static_cast<int>(kv_heads);
    static constexpr Index width = Env::width;
    using Score = typename Scorer::template Layer<Env>;
    template <class T>
    using Lives = ops::KeyLives<T, entries, candidates, grid, larger(1, larger(Env::chunk, Env::rewind))>;

    template <class T, class Storage>
    using Parameters = typename Score::template Parameters<T, Storage>;
    static void visit(auto&& f, const Name& at, auto&... p) { Score::visit(f, at / "key_tokens", p...); }

    template <class T>
    struct Keys {
      static constexpr Index tiles = ops::tiles_for(Lives<T>::room);
      Array<T, kv_heads, tiles, size, ops::key_tile> keys;
      Array<T, kv_heads, tiles, ops::key_tile, size> values;
    };
    template <class T>
    struct State {
      [[no_unique_address]] Optional<kept, Keys<T>, 10> keys;
      Lives<T> lives;
    };

    static constexpr Index list_room = ops::KeyLists<float, entries, grid>::room;
    static constexpr Index lists_for(Extent e) { return ops::KeyLists<float, entries, grid>::lists_for(e.rows, e.sequences); }
    template <class T>
    struct Tape {
      typename Score::template Tape<T> scorer;
      T* score;  ///< [rows]
      ops::KeyBook<T, entries, grid> book;
      ops::KeyLists<T, entries, grid> lists;
      T *mass = nullptr, *loss = nullptr;  ///< [kv heads, rows], [sequences]: only with Warm, in training
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : scorer(arena, e), score(arena.template take<T>(e.rows)), book(arena, lists_for(e)), lists(book.lists) {
        if (!Warm::active || !e.training) return;
        mass = arena.template take<T>(kv_heads * e.rows);
        loss = arena.template take<T>(e.sequences);
      }
    };
    template <class T>
    struct Scratch {
      T* d_score;  ///< [rows]
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e) : d_score(arena.template take<T>(e.rows)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      return Score::template workspace_bytes<T, Storage>(e) + (e.training ? planned_bytes<Scratch<T>>(e) : 0);
    }

    template <class T>
    using Stores = ops::KeyStores<T, size, kv_heads>;

    /// Where the lists' places point to.
    template <class T>
    HYBRIDMOE_FUNCTION static Stores<T> places(const Stores<T>& stores, States<State<T>> states) {
      if constexpr (kept)
        if (states) {
          constexpr Index tiles = Keys<T>::tiles;
          return {nullptr, nullptr, 0, states.base, states.stride, kv_heads * tiles * size * ops::key_tile, tiles};
        }
      return stores;
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           const Stores<T>& stores, States<State<T>> states, const Tape<T>& tape) {
      const Batch& batch = call.batch;
      Score::forward(call, p, x, tape.score, tape.scorer);
      std::byte* const lives = states ? states.base + offsetof(State<T>, lives) : nullptr;
      call.space.each(batch.sequences, ops::CloseBlocks<T, entries, candidates, grid, Lives<T>, kept>{
                                           batch, tape.score, tape.book, lives, states.stride});
      if constexpr (kept)
        if (states)
          call.space.each(batch.sequences * kv_heads,
                          ops::KeepKeys<T, size, kv_heads, entries, grid>{batch, tape.lists, stores, places<T>(stores, states)});
    }

    /// The loss that warms the scorer, in training: from the queries, what rows reach, and the keys.
    template <int heads, class Shape, class Space, class T>
    HYBRIDMOE_FUNCTION static void warm(const Call<Space>& call, const T* ready, const T* reach, const Stores<T>& stores,
                                        const Tape<T>& tape) {
      if constexpr (Warm::active) {
        using Mass = ops::KeyMass<T, heads, kv, size, Shape>;
        call.space.each(Mass::items(call.batch), Mass{call.batch, Warm::every, ready, reach, stores, tape.mass});
        call.space.each(call.batch.sequences,
                        ops::WarmScores<T, kv, grid, false>{call.batch, warmth<T>(call), tape.mass, tape.score, tape.loss});
      }
    }

    /// d_weight [lists, kv heads, room]: each kv head's gradient by the key tokens' weights.
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, const T* d_weight, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      Arena arena = call.arena;
      const Scratch<T> s(arena, Extent::of(call.batch, true));
      call.space.each(call.batch.sequences,
                      ops::KeyScoresBackward<T, kv, entries, grid>{call.batch, tape.lists, d_weight, s.d_score});
      if (Warm::active && call.auxiliary != 0)
        call.space.each(call.batch.sequences,
                        ops::WarmScores<T, kv, grid, true>{call.batch, static_cast<T>(call.auxiliary) * warmth<T>(call),
                                                           tape.mass, tape.score, s.d_score});
      Score::backward(call.with(arena), p, x, tape.scorer, s.d_score, dx, gradient);
    }

    static constexpr Flops flops_per_token() { return Score::flops_per_token(); }
    static constexpr Index recurrent_elements = kept ? 2 * kv_heads * size * entries : 0;

   private:
    template <class T, class Space>
    HYBRIDMOE_FUNCTION static T warmth(const Call<Space>& call) {
      return T(Warm::coefficient) * T(grid) / static_cast<T>(call.batch.rows);
    }
  };
};

}  // namespace hybridmoe::attention
