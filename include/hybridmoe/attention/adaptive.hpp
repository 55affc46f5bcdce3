#pragma once
/// @file adaptive.hpp
/// Attention that chooses how far it looks, for every row: a window of real-valued size, key tokens beyond it, or all tokens.
/// One weight says it all (ops/weighted_attention.hpp); the modes are its corners:
///
///   AdaptiveLocal  L: the window alone                     state: a ring of the largest window
///   KeyTokens      M: the window and key tokens            state: the ring and a store of bounded size
///   TriModal       A: the controller weighs key tokens     state: all keys
///                     and all tokens (stream::Decisions)

#include <hybridmoe/attention/key_tokens.hpp>
#include <hybridmoe/attention/reach.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/ops/weighted_attention_backward.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// What a training forward says of the price of its reach.
template <class T>
struct ReachLosses {
  const T* value = nullptr;  ///< [1] the auxiliary loss (not scaled by call.auxiliary)
};

/// The core of the modes. Options as attention::Softmax, and in any order a window:: policy (default window::Decided).
/// @tparam Keys  NoKeyTokens, or `ChosenKeyTokens<…>`
/// @tparam all   whether the weights of key tokens and of all tokens are decided at run time
template <Heads heads, Window bounds, class Keys, bool all, class... Options>
struct Adaptive {
  using Policy = Option<window::Tag, window::Decided, Options...>;
  using Mask = std::conditional_t<all, mask::Causal, mask::Window<larger(1, bounds.most)>>;
  using Inner = Softmax<heads, Mask, Option<position::Tag, position::Rotary<>, Options...>,
                        Option<QueryKeyNormTag, PlainQueryKey, Options...>, Option<BiasTag, Bias<false, false>, Options...>>;

  static constexpr bool options =
      (has_a_tag<Options, position::Tag, QueryKeyNormTag, BiasTag, window::Tag, scorer::Tag, scorer::WarmTag> && ...);
  static constexpr bool bounded = 0 < bounds.least && bounds.least <= bounds.most;
  static constexpr bool ramped = 0 < bounds.ramp && bounds.ramp <= bounds.least;
  static constexpr bool covers = Keys::entries == 0 || Keys::grid + bounds.ramp <= bounds.least;
  static constexpr bool sound = options && bounded && ramped && covers && Keys::sound && Inner::sound;
  template <bool asked>
  struct Requirements : std::conditional_t<asked && !Inner::sound, typename Inner::template Requirements<asked>, Absent<0>>,
                        std::conditional_t<asked && !Keys::sound, typename Keys::template Requirements<asked>, Absent<1>> {
    static_assert(!asked || options,
                  "an option of this attention mode is none of: a position:: encoding, NormedQueryKey, Bias, a window:: policy, "
                  "a scorer:: policy");
    static_assert(!asked || bounded, "attention::Window needs 0 < least <= most");
    static_assert(!asked || !bounded || ramped, "attention::Window::ramp must be positive and at most the least window");
    static_assert(!asked || !ramped || covers,
                  "attention::Window::least must be at least Store::block + ramp: key tokens are chosen when a block closes");
  };

  template <class Env>
  struct Layer {
    using Core = typename Inner::template Layer<Env>;
    using Part = typename Keys::template Part<Env, heads.kv, heads.size, !all>;
    using Shape = ops::ReachShape<bounds.ramp, all, Keys::entries, Keys::grid>;
    static constexpr Index width = Env::width;
    static constexpr bool causal = true, rewinds = true, keyed = Keys::entries > 0;

    template <class T, class Storage>
    struct Parameters {
      typename Core::template Parameters<T, Storage> core;
      [[no_unique_address]] typename Part::template Parameters<T, Storage> keys;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      Core::visit(f, at, p.core...);
      Part::visit(f, at, p.keys...);
    }

    /// Keys and values by position, and the store of key tokens.
    template <class T>
    struct StateOf {
      typename Core::template State<T> core;
      typename Part::template State<T> keys;
    };
    template <class T>
    using State = std::conditional_t<keyed, StateOf<T>, typename Core::template State<T>>;

    template <class T>
    struct Tape {
      typename Core::template Tape<T> core;
      typename Part::template Tape<T> keys;
      T *reach, *partial = nullptr, *value = nullptr;  ///< [rows, columns]; of the price: [blocks of rows], [1]
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : core(arena, e), keys(arena, e), reach(arena.template take<T>(e.rows * Shape::columns)) {
        if (!e.training) return;
        partial = arena.template take<T>(divide_up(e.rows, reach_rows));
        value = arena.template take<T>(1);
      }
    };

    template <class T>
    struct Scratch {
      typename Core::template Scratch<T> core;
      T *d_reach, *d_weight;  ///< [rows, kv heads, columns], [lists, kv heads, room]
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e)
          : core(arena, e),
            d_reach(arena.template take<T>(e.rows * heads.kv * Shape::columns)),
            d_weight(arena.template take<T>(Part::lists_for(e) * heads.kv * Part::list_room)) {}
    };

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const Index core = Core::template workspace_bytes<T, Storage>(e), keys = Part::template workspace_bytes<T, Storage>(e);
      if (!e.training) return larger(core, keys);
      const Index products = core - planned_bytes<typename Core::template Scratch<T>>(e);
      return planned_bytes<Scratch<T>>(e) + larger(products, keys);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      const Batch& batch = call.batch;
      const auto stores = Core::template stores_of<T>({states.base, states.stride}, tape.core);
      const auto part = part_states<T>(states);
      Core::prepare(call, p.core, x, stores, tape.core);
      const Index blocks = divide_up(batch.rows, reach_rows);
      call.space.each(blocks, ReachKernel<T, Shape, Policy, bounds.least, bounds.most>{batch, WindowStreams<T>::of(call),
                                                                                       ReachReport<T>::of(call), tape.reach});
      Part::forward(call, p.keys, x, stores, part, tape.keys);
      if (tape.value != nullptr) {
        call.space.each(blocks, ReachCostKernel<T, Shape>{cost(call, tape), tape.partial});
        Part::template warm<static_cast<int>(heads.query), Shape>(call, tape.core.ready, tape.reach, stores, tape.keys);
        call.space.each(1, ReachCostTotal<T>{batch.rows, batch.sequences, tape.partial, tape.keys.loss, tape.value});
      }
      using Attend = ops::WeightedAttention<T, heads.query, heads.kv, Core::size, Shape>;
      call.space.each(Attend::items(batch),
                      Attend{batch, tape.core.ready, tape.reach, stores, tape.keys.lists, Part::template places<T>(stores, part),
                             tape.core.mixed, tape.core.log_sum_of_exp});
      Core::finish(call, p.core, tape.core, y);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Batch& batch = call.batch;
      Arena arena = call.arena;
      const Scratch<T> s(arena, Extent::of(batch, true));
      const Call<Space> rest = call.with(arena);
      Core::finish_backward(rest, p.core, tape.core, dy, s.core, gradient.core);
      using Attend = ops::WeightedAttentionBackward<T, heads.query, heads.kv, Core::size, Shape>;
      call.space.each(Attend::items(batch),
                      Attend{batch, tape.core.ready, tape.reach, bounds.most, Core::template stores_of<T>({}, tape.core),
                             tape.keys.lists, tape.core.mixed, tape.core.log_sum_of_exp, s.core.d_mixed, s.core.d_query,
                             s.core.d_key, s.core.d_value, s.d_reach, s.d_weight, s.core.inner_products});
      using Back = ReachBackward<T, Shape, Policy, bounds.least, bounds.most, static_cast<int>(heads.kv)>;
      const T auxiliary = static_cast<T>(call.auxiliary) / static_cast<T>(batch.rows);
      call.space.each(divide_up(batch.rows, reach_rows),
                      Back{cost(call, tape), WindowStreams<T>::of(call), auxiliary, s.d_reach});
      Core::prepare_backward(rest, p.core, x, tape.core, s.core, dx, gradient.core);
      Part::backward(rest, p.keys, x, tape.keys, s.d_weight, dx, gradient.keys);
    }

    /// The price of windows and reach, after a training forward; a pointer into the tape.
    template <class T>
    HYBRIDMOE_FUNCTION static ReachLosses<T> losses(const Tape<T>& tape) {
      return {tape.value};
    }

    // Accounting. The nominal choice is the neutral one: the largest window and, where they are decided, all tokens.
    static constexpr Index recurrent_elements = Part::recurrent_elements;
    /// Least: a row that sees no key token beyond its window, or decides against them, meets no scorer.
    static constexpr Spread active_parameters() {
      constexpr Index all_of_them = element_count<Parameters<float, Flat>, float>;
      return {Core::active_parameters().least, all_of_them, all_of_them};
    }
    static constexpr Index cache_elements(Index context) { return Core::cache_elements(context); }
    static constexpr Flops flops_per_token(Index context) {
      const double tokens = static_cast<double>(smaller(Keys::entries, context * Keys::candidates / Keys::grid));
      const double core = per_key * tokens;
      return Core::flops_per_token(context) + Part::flops_per_token() + Flops{core, core * 3.5};
    }
    /// The most operations forward of one token of a sequence of at most `context` at budget β.
    static constexpr double capped_flops(Index context, double beta) {
      const double widest = widest_window(bounds.least, bounds.most, beta),
                   whole = static_cast<double>(static_cast<Index>(widest)),
                   window = whole < widest ? whole + 1 : whole;  // part of a key costs a key
      const double length = static_cast<double>(context);
      const double keys = all || length < window ? length : window;
      const double tokens = static_cast<double>(smaller(Keys::entries, context * Keys::candidates / Keys::grid));
      return Core::flops_per_token(1).forward - per_key + Part::flops_per_token().forward + per_key * (keys + tokens);
    }

   private:
    static constexpr double per_key = 4.0 * static_cast<double>(Core::inner);

    template <class T>
    HYBRIDMOE_FUNCTION static States<typename Part::template State<T>> part_states(States<State<T>> states) {
      if constexpr (keyed)
        if (states) return {states.base + offsetof(StateOf<T>, keys), states.stride};
      return {};
    }
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static ReachCost<T, Shape> cost(const Call<Space>& call, const Tape<T>& tape) {
      return {call.batch,      tape.reach, call.side.template rows<stream::Target, T>(),
              tape.keys.lists, call.price, static_cast<T>(per_key)};
    }
  };
};

/// L: softmax attention within a window whose size each row decides, a real number of keys.
template <Heads heads, Window bounds = Window{}, class... Options>
struct AdaptiveLocal : Adaptive<heads, bounds, NoKeyTokens, false, Options...> {};

/// Key tokens as the options say: a scorer:: policy (default `scorer::Learned<>`), and `scorer::Warm<…>` if it shall be warmed.
template <Store store, class... Options>
using KeyTokensOf =
    ChosenKeyTokens<store, Option<scorer::Tag, scorer::Learned<>, Options...>, Option<scorer::WarmTag, scorer::Cold, Options...>>;

/// M: the window, and key tokens beyond it. Options also: those of KeyTokensOf.
template <Heads heads, Window bounds = Window{}, Store store = Store{}, class... Options>
struct KeyTokens : Adaptive<heads, bounds, KeyTokensOf<store, Options...>, false, Options...> {};

/// A: the window, and beyond it key tokens and all tokens, each with a weight in [0, 1] that stream::Decisions gives (neutral:
/// 1, which is full attention). Options as KeyTokens.
template <Heads heads, Window bounds = Window{}, Store store = Store{}, class... Options>
struct TriModal : Adaptive<heads, bounds, KeyTokensOf<store, Options...>, true, Options...> {};

}  // namespace hybridmoe::attention
