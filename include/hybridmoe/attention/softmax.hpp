#pragma once
/// @file softmax.hpp
/// Causal softmax attention (Vaswani et al. 2017) with multi-head, grouped-query or multi-query heads, full or in a sliding
/// window: y = W_o · softmax(q·k/√size + mask)·v.

#include <hybridmoe/attention/heads.hpp>
#include <hybridmoe/attention/mask.hpp>
#include <hybridmoe/core/options.hpp>
#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/fill.hpp>
#include <hybridmoe/ops/softmax_attention_backward.hpp>
#include <hybridmoe/position/rotary.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// The core of every softmax attention mode. A mode is a Mask; options (any order): a position:: encoding (default
/// position::Rotary<>), attention::NormedQueryKey<...>, attention::Bias<input, output>.
template <Heads heads, class Mask, class... Options>
struct Softmax {
  using Position = Option<position::Tag, position::Rotary<>, Options...>;

  /// Whether the position encoding, if it asks, can work on heads of this size.
  static constexpr bool fits() {
    if constexpr (requires { Position::template fits<heads.size>; }) return Position::template fits<heads.size>;
    return true;
  }
  static constexpr bool positive = heads.query > 0 && heads.kv > 0 && heads.size > 0;
  static constexpr bool divides = positive && heads.query % heads.kv == 0;
  static constexpr bool options = (has_a_tag<Options, position::Tag, QueryKeyNormTag, BiasTag> && ...);
  static constexpr bool sound = divides && options && fits();
  template <bool asked>
  struct Requirements {
    static_assert(!asked || positive, "Heads::query, Heads::kv and Heads::size must be positive");
    static_assert(!asked || !positive || divides, "Heads::kv must divide Heads::query");
    static_assert(!asked || !divides || options,
                  "an option of this attention mode is none of: a position:: encoding, NormedQueryKey, Bias");
    static_assert(!asked || !divides || fits(), "position::Rotary turns pairs: its dims must be even and at most Heads::size");
  };
  using QueryKeyNorm = Option<QueryKeyNormTag, PlainQueryKey, Options...>;
  using Biases = Option<BiasTag, Bias<false, false>, Options...>;

  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;
    static constexpr int size = static_cast<int>(heads.size);
    static constexpr Index inner = heads.query * heads.size, kv_inner = heads.kv * heads.size;

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, inner, width> query;
      Weight<T, Storage, kv_inner, width> key, value;
      Weight<T, Storage, width, inner> output;
      [[no_unique_address]] Optional<Biases::input, Array<T, inner>, 0> query_bias;
      [[no_unique_address]] Optional<Biases::input, Array<T, kv_inner>, 1> key_bias;
      [[no_unique_address]] Optional<Biases::input, Array<T, kv_inner>, 2> value_bias;
      [[no_unique_address]] Optional<Biases::output, Array<T, width>, 3> output_bias;
      [[no_unique_address]] Optional<QueryKeyNorm::weighted, Array<T, heads.size>, 4> query_gain;
      [[no_unique_address]] Optional<QueryKeyNorm::weighted, Array<T, heads.size>, 5> key_gain;
    };

    template <class F, class... P>
    static void visit(F&& f, const Name& at, P&... p) {
      f(at / "query" / "weight", Trait::weight(), p.query...);
      f(at / "key" / "weight", Trait::weight(), p.key...);
      f(at / "value" / "weight", Trait::weight(), p.value...);
      f(at / "output" / "weight", Trait::output(), p.output...);
      if constexpr (Biases::input) {
        f(at / "query" / "bias", Trait::bias(), p.query_bias...);
        f(at / "key" / "bias", Trait::bias(), p.key_bias...);
        f(at / "value" / "bias", Trait::bias(), p.value_bias...);
      }
      if constexpr (Biases::output) f(at / "output" / "bias", Trait::bias(), p.output_bias...);
      if constexpr (QueryKeyNorm::weighted) {
        f(at / "query_norm" / "weight", Trait::gain(), p.query_gain...);
        f(at / "key_norm" / "weight", Trait::gain(), p.key_gain...);
      }
    }

    static constexpr Index kept = Mask::kept(Env::context, Env::chunk + Env::rewind);
    static constexpr Index tiles = ops::tiles_for(kept) + (kept < Env::context);
    static constexpr bool rewinds = true;  // keys lie at their positions, and the ring keeps Env::rewind more than are seen

    /// Keys and values of one sequence: all of the context, or a ring of the window and the longest chunk.
    template <class T>
    struct State {
      Array<T, heads.kv, tiles, heads.size, ops::key_tile> keys;
      Array<T, heads.kv, tiles, ops::key_tile, heads.size> values;
    };

    template <class T>
    struct Tape {
      using Stores = ops::KeyStores<T, size, heads.kv>;
      T *query, *key, *value, *ready, *mixed, *log_sum_of_exp, *keys = nullptr, *values = nullptr;
      Index tape_tiles = 0;
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : query(arena.template take<T>(e.rows * inner)),
            key(arena.template take<T>(e.rows * kv_inner)),
            value(arena.template take<T>(e.rows * kv_inner)),
            ready(arena.template take<T>(e.rows * inner)),
            mixed(arena.template take<T>(e.rows * inner)),
            log_sum_of_exp(arena.template take<T>(e.rows * heads.query)) {
        if (e.training) {
          tape_tiles = Stores::tape_tiles_for(e.rows, e.sequences);
          keys = arena.template take<T>(Stores::tape_elements(e.rows, e.sequences));
          values = arena.template take<T>(Stores::tape_elements(e.rows, e.sequences));
        }
      }
    };

    template <class T>
    struct Scratch {
      T *d_mixed, *d_query, *d_key, *d_value, *inner_products, *partial;
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e)
          : d_mixed(arena.template take<T>(e.rows * inner)),
            d_query(arena.template take<T>(e.rows * inner)),
            d_key(arena.template take<T>(e.rows * kv_inner)),
            d_value(arena.template take<T>(e.rows * kv_inner)),
            inner_products(arena.template take<T>(e.rows * heads.query)),
            partial(arena.template take<T>(divide_up(e.rows, ops::head_rows) * size)) {}
    };

    template <class Space, class T>
    using In = ops::Matmul<Space, T, inner, width>;
    template <class Space, class T>
    using InKv = ops::Matmul<Space, T, kv_inner, width>;
    template <class Space, class T>
    using Out = ops::Matmul<Space, T, width, inner>;

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const Index products =
          larger(product_workspace<T, Storage, inner, width>(e),
                 larger(product_workspace<T, Storage, kv_inner, width>(e), product_workspace<T, Storage, width, inner>(e)));
      return products + (e.training ? planned_bytes<Scratch<T>>(e) : 0);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      const auto stores = stores_of<T>(states, tape);
      prepare(call, p, x, stores, tape);
      using Core = ops::SoftmaxAttention<T, heads.query, heads.kv, size, Mask>;
      call.space.each(Core::items(call.batch), Core{call.batch, tape.ready, stores, tape.mixed, tape.log_sum_of_exp});
      finish(call, p, tape, y);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      Arena arena = call.arena;
      const Scratch<T> s(arena, Extent::of(call.batch, true));
      const Call<Space> rest = call.with(arena);
      finish_backward(rest, p, tape, dy, s, gradient);
      using Core = ops::SoftmaxAttentionBackward<T, heads.query, heads.kv, size, Mask>;
      call.space.each(Core::items(call.batch),
                      Core{call.batch, tape.ready, stores_of<T>({}, tape), tape.mixed, tape.log_sum_of_exp, s.d_mixed, s.d_query,
                           s.d_key, s.d_value, s.inner_products});
      prepare_backward(rest, p, x, tape, s, dx, gradient);
    }

    // What is around the core, for attention modes with a core of their own (attention/adaptive.hpp).

    template <class T>
    HYBRIDMOE_FUNCTION static typename Tape<T>::Stores stores_of(States<State<T>> states, const Tape<T>& tape) {
      constexpr Index value_offset = heads.kv * tiles * heads.size * ops::key_tile;
      return {tape.keys, tape.values, tape.tape_tiles, states.base, states.stride, value_offset, tiles};
    }

    /// Before the core: tape.ready holds the queries, `stores` the keys and values.
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void prepare(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           const typename Tape<T>::Stores& stores, const Tape<T>& tape) {
      const Batch& batch = call.batch;
      In<Space, T>::forward(call.space, call.arena, batch.rows, x.data, p.query, first_element<T, Biases::input>(p.query_bias),
                            tape.query);
      InKv<Space, T>::forward(call.space, call.arena, batch.rows, x.data, p.key, first_element<T, Biases::input>(p.key_bias),
                              tape.key);
      InKv<Space, T>::forward(call.space, call.arena, batch.rows, x.data, p.value, first_element<T, Biases::input>(p.value_bias),
                              tape.value);
      call.space.each(divide_up(batch.rows, ops::head_rows),
                      ops::StoreHeads<T, heads.query, heads.kv, size, Position, QueryKeyNorm>{
                          batch, tape.query, tape.key, tape.value, first_element<T, QueryKeyNorm::weighted>(p.query_gain),
                          first_element<T, QueryKeyNorm::weighted>(p.key_gain), scale<T>(), tape.ready, stores});
    }
    /// After the core: tape.mixed goes through the output projection.
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void finish(const Call<Space>& call, const Parameters<T, Storage>& p, const Tape<T>& tape,
                                          Rows<T, width> y) {
      Out<Space, T>::forward(call.space, call.arena, call.batch.rows, tape.mixed, p.output,
                             first_element<T, Biases::output>(p.output_bias), y.data);
    }
    /// s.d_mixed from dy.
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void finish_backward(const Call<Space>& call, const Parameters<T, Flat>& p, const Tape<T>& tape,
                                                   Rows<const T, width> dy, const Scratch<T>& s, Parameters<T, Flat>& gradient) {
      const Index rows = call.batch.rows;
      ops::zero(call.space, rows * inner, s.d_mixed);
      Out<Space, T>::backward_input(call.space, call.arena, rows, dy.data, p.output, s.d_mixed);
      Out<Space, T>::backward_weight(call.space, call.arena, rows, tape.mixed, dy.data, gradient.output,
                                     first_element<T, Biases::output>(gradient.output_bias));
    }
    /// dx and the projections' gradients from s.d_query, s.d_key and s.d_value as the core left them.
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void prepare_backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                                    const Tape<T>& tape, const Scratch<T>& s, Rows<T, width> dx,
                                                    Parameters<T, Flat>& gradient) {
      const Batch& batch = call.batch;
      const Arena& arena = call.arena;
      unstore<heads.query>(call, tape.query, first_element<T, QueryKeyNorm::weighted>(p.query_gain), scale<T>(), s.d_query,
                           s.partial, first_element<T, QueryKeyNorm::weighted>(gradient.query_gain));
      unstore<heads.kv>(call, tape.key, first_element<T, QueryKeyNorm::weighted>(p.key_gain), T(1), s.d_key, s.partial,
                        first_element<T, QueryKeyNorm::weighted>(gradient.key_gain));
      In<Space, T>::backward_input(call.space, arena, batch.rows, s.d_query, p.query, dx.data);
      InKv<Space, T>::backward_input(call.space, arena, batch.rows, s.d_key, p.key, dx.data);
      InKv<Space, T>::backward_input(call.space, arena, batch.rows, s.d_value, p.value, dx.data);
      In<Space, T>::backward_weight(call.space, arena, batch.rows, x.data, s.d_query, gradient.query,
                                    first_element<T, Biases::input>(gradient.query_bias));
      InKv<Space, T>::backward_weight(call.space, arena, batch.rows, x.data, s.d_key, gradient.key,
                                      first_element<T, Biases::input>(gradient.key_bias));
      InKv<Space, T>::backward_weight(call.space, arena, batch.rows, x.data, s.d_value, gradient.value,
                                      first_element<T, Biases::input>(gradient.value_bias));
    }

    // Accounting.
    static constexpr Spread active_parameters() { return Spread::always(element_count<Parameters<float, Flat>, float>); }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index context) { return 2 * kv_inner * Mask::seen(context); }
    /// Products, and the mean over positions of scores and mixing (2·2·seen·inner; backward five such products against two).
    static constexpr Flops flops_per_token(Index context) {
      const double seen = static_cast<double>(Mask::seen(context)), all = static_cast<double>(context);
      const double mean = seen - seen * (seen - 1) / (2 * all);
      const double core = 4.0 * mean * static_cast<double>(inner);
      return Flops::product(static_cast<double>(width * (2 * inner + 2 * kv_inner))) + Flops{core, core * 3.5};
    }
    /// The most of one token, the last of `context`. The same at every budget: this attention has no choice.
    static constexpr double capped_flops(Index context, double) {
      return flops_per_token(1).forward + 4.0 * static_cast<double>((Mask::seen(context) - 1) * inner);
    }

   private:
    template <class T>
    HYBRIDMOE_FUNCTION static T scale() {
      return T(1) / math::sqrt(T(heads.size));
    }

    /// d (by the ready vectors) becomes the gradient by the projection's output; the gain's gradient is added to d_gain.
    template <int count, class Space, class T>
    HYBRIDMOE_FUNCTION static void unstore(const Call<Space>& call, const T* input, const T* gain, T factor, T* d, T* partial,
                                           T* d_gain) {
      const Index items = divide_up(call.batch.rows, ops::head_rows);
      call.space.each(items, ops::UnstoreHeads<T, count, size, Position, QueryKeyNorm>{
                                 call.batch, input, gain, factor, d, QueryKeyNorm::weighted ? partial : nullptr});
      if constexpr (QueryKeyNorm::weighted) call.space.each(1, ops::SumPartials<T, size>{items, partial, d_gain});
    }
  };
};

/// Full causal attention.
template <Heads heads, class... Options>
struct Full : Softmax<heads, mask::Causal, Options...> {};

/// Sliding-window attention over the last `window` tokens, the current one included; its state is a ring.
template <Heads heads, Index window, class... Options>
struct Local : Softmax<heads, mask::Window<window>, Options...> {};

}  // namespace hybridmoe::attention
