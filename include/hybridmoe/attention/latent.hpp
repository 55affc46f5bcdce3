#pragma once
/// @file latent.hpp
/// Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2: a strong, economical, and efficient mixture-of-experts language
/// model", 2024), with QK-norm that survives absorption. Per row x, head i and earlier row j:
///
///   c_j = RMSNorm(W_down x_j)      k_ij = W_key,i c_j      v_ij = W_value,i c_j      ι_ij = 1/rms(k_ij)
///   s = (γ_q⊙γ_k⊙q̂_i)·k_ij·ι_ij + q^R_i·k^R_j, scaled by 1/√(size + rotary)          y = W_out·concat_i Σ_j softmax(s) v_ij
///
/// q̂ is the head's query over its root mean square; q^R and the one k^R are normalised so, too, and then rotated. Without
/// QK-norm (DeepSeek's form) q̂ = q, ι = 1, γ = 1 and q^R, k^R are only rotated. With query_rank > 0 queries come from a
/// normalised latent of that rank. See docs/parts/latent.md.

#include <hybridmoe/attention/heads.hpp>
#include <hybridmoe/attention/latent_shape.hpp>
#include <hybridmoe/core/options.hpp>
#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/norm/epsilon.hpp>
#include <hybridmoe/ops/fill.hpp>
#include <hybridmoe/ops/latent_attention_backward.hpp>
#include <hybridmoe/ops/latent_heads.hpp>
#include <hybridmoe/ops/norm.hpp>
#include <hybridmoe/position/rotary.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// Options (any order): attention::Absorbed (default) or Expanded; attention::NormedQueryKey<...> (default; its weights are γ_q
/// and γ_k) or PlainQueryKey; a position:: encoding of the rotary part (default position::Rotary<>); ScoreFactor<...>.
template <LatentHeads sizes, class... Options>
struct Latent {
  using Position = Option<position::Tag, position::Rotary<>, Options...>;
  using QueryKeyNorm = Option<QueryKeyNormTag, NormedQueryKey<>, Options...>;
  using Form = Option<LatentFormTag, Absorbed, Options...>;
  using Factor = Option<ScoreFactorTag, ScoreFactor<1, 1>, Options...>;

  static constexpr bool fits() {
    if constexpr (requires { Position::template fits<sizes.rotary>; }) return Position::template fits<sizes.rotary>;
    return true;
  }
  static constexpr bool positive = sizes.heads > 0 && sizes.latent > 0 && sizes.rotary > 0 && sizes.size > 0 && sizes.value > 0;
  static constexpr bool ranked = sizes.query_rank >= 0;
  static constexpr bool options = (has_a_tag<Options, position::Tag, QueryKeyNormTag, LatentFormTag, ScoreFactorTag> && ...);
  static constexpr bool sound = positive && ranked && options && fits();
  template <bool asked>
  struct Requirements {
    static_assert(!asked || positive, "LatentHeads::heads, latent, rotary, size and value must be positive");
    static_assert(!asked || !positive || ranked, "LatentHeads::query_rank must be positive, or 0 for queries without a latent");
    static_assert(!asked || !positive || options,
                  "an option of attention::Latent is none of: a position:: encoding, NormedQueryKey, PlainQueryKey, Absorbed, "
                  "Expanded, ScoreFactor");
    static_assert(!asked || !positive || fits(),
                  "position::Rotary turns pairs: its dims must be even and at most LatentHeads::rotary");
  };

  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;
    static constexpr bool rewinds = true;  // everything lies at its position
    static constexpr bool absorbed = std::is_same_v<Form, Absorbed>, normed = QueryKeyNorm::active,
                          weighted = QueryKeyNorm::weighted;
    using Shape = LatentShape<sizes, absorbed, normed, weighted, Env::context>;
    static constexpr int heads = Shape::heads, latent = Shape::latent, rotary = Shape::rotary, size = Shape::size,
                         value_size = Shape::value_size;
    static constexpr bool low_rank = Shape::low_rank;
    static constexpr Index rank = Shape::rank, query_in = low_rank ? rank : width, queries = Shape::queries,
                           keys_inner = Shape::keys_inner, inner = Shape::inner, lowered = Shape::lowered, tiles = Shape::tiles;
    template <class T>
    using Keys = typename Shape::template Keys<T>;
    using Epsilon = norm::Epsilon<1, 1'000'000>;  ///< of the latents' norms

    /// The same for both forms.
    template <class T, class Storage>
    struct Parameters {
      [[no_unique_address]] Optional<low_rank, Weight<T, Storage, rank, width>, 0> query_down;
      [[no_unique_address]] Optional<low_rank, Array<T, rank>, 1> query_down_norm;
      Weight<T, Storage, queries, query_in> query;  ///< rows per head: size | rotary
      Weight<T, Storage, lowered, width> down;      ///< rows: latent | rotary key
      Array<T, latent> down_norm;
      TwoSided<T, Storage, keys_inner, latent> key;  ///< queries are absorbed along the other side, and keys expanded by rows
      TwoSided<T, Storage, inner, latent> value;
      Weight<T, Storage, width, inner> output;
      [[no_unique_address]] Optional<weighted, Array<T, size>, 2> query_gain;
      [[no_unique_address]] Optional<weighted, Array<T, size>, 3> key_gain;
    };

    template <class F, class... P>
    static void visit(F&& f, const Name& at, P&... p) {
      if constexpr (low_rank) {
        f(at / "query_down" / "weight", Trait::weight(), p.query_down...);
        f(at / "query_down_norm" / "weight", Trait::gain(), p.query_down_norm...);
      }
      f(at / "query" / "weight", Trait::weight(), p.query...);
      f(at / "down" / "weight", Trait::weight(), p.down...);
      f(at / "down_norm" / "weight", Trait::gain(), p.down_norm...);
      f(at / "key" / "weight", Trait::weight(), p.key...);
      f(at / "value" / "weight", Trait::weight(), p.value...);
      f(at / "output" / "weight", Trait::output(), p.output...);
      if constexpr (weighted) {
        f(at / "query_norm" / "weight", Trait::gain(), p.query_gain...);
        f(at / "key_norm" / "weight", Trait::gain(), p.key_gain...);
      }
    }

    /// The latents, rotary keys and (absorbed, with QK-norm) inverse root mean squares of all positions. No values: they are the
    /// latents.
    template <class T>
    struct State {
      Array<T, tiles, Keys<T>::lines, ops::key_tile> lines;
    };

    template <class T>
    using Tape = typename Shape::template Tape<T>;
    template <class T>
    using Scratch = typename Shape::template Scratch<T>;

    template <class Space, class T>
    using QueryDown = ops::Matmul<Space, T, rank, width>;
    template <class Space, class T>
    using QueryDownNorm = ops::Norm<Space, T, rank>;
    template <class Space, class T>
    using Query = ops::Matmul<Space, T, queries, query_in>;
    template <class Space, class T>
    using Down = ops::Matmul<Space, T, lowered, width>;
    template <class Space, class T>
    using DownNorm = ops::Norm<Space, T, latent>;
    template <class Space, class T>
    using Key = ops::Matmul<Space, T, keys_inner, latent>;
    template <class Space, class T>
    using Value = ops::Matmul<Space, T, inner, latent>;
    template <class Space, class T>
    using HeadKey = ops::GroupedMatmul<Space, T, heads, size, latent>;
    template <class Space, class T>
    using HeadValue = ops::GroupedMatmul<Space, T, heads, value_size, latent>;
    template <class Space, class T>
    using Out = ops::Matmul<Space, T, width, inner>;

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      using exec::Inline;
      Index most = larger(product_workspace<T, Storage, queries, query_in>(e), product_workspace<T, Storage, lowered, width>(e));
      most = larger(most, product_workspace<T, Storage, width, inner>(e));
      if constexpr (low_rank) most = larger(most, product_workspace<T, Storage, rank, width>(e));
      if constexpr (absorbed) {
        most = larger(most, HeadValue<Inline, T>::workspace_bytes(heads * e.rows, e.training));
        if (e.training) most = larger(most, HeadKey<Inline, T>::workspace_bytes(heads * e.rows, true));
      }
      if (absorbed ? normed : e.training) most = larger(most, Key<Inline, T>::workspace_bytes(e.rows, e.training));
      if (!absorbed && e.training) most = larger(most, Value<Inline, T>::workspace_bytes(e.rows, true));
      if (!e.training) return most;
      most = larger(most, DownNorm<Inline, T>::workspace_bytes(e.rows, true, false));
      if constexpr (low_rank) most = larger(most, QueryDownNorm<Inline, T>::workspace_bytes(e.rows, true, false));
      return most + planned_bytes<Scratch<T>>(e);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      const Batch& batch = call.batch;
      const Space& space = call.space;
      const Index rows = batch.rows, items = divide_up(rows, ops::head_rows);
      const T* query_from = x.data;
      if constexpr (low_rank) {
        QueryDown<Space, T>::forward(space, call.arena, rows, x.data, p.query_down, nullptr, tape.query_low);
        QueryDownNorm<Space, T>::forward(space, rows, {tape.query_low, rank}, {.weight = p.query_down_norm.data},
                                         Epsilon::template value<T>, {tape.query_latent, rank}, {.inverse = tape.query_inverse});
        query_from = tape.query_latent;
      }
      Query<Space, T>::forward(space, call.arena, rows, query_from, p.query, nullptr, tape.query);
      Down<Space, T>::forward(space, call.arena, rows, x.data, p.down, nullptr, tape.down_rows);
      DownNorm<Space, T>::forward(space, rows, {tape.down_rows, lowered}, {.weight = p.down_norm.data},
                                  Epsilon::template value<T>, {tape.latents, latent}, {.inverse = tape.down_inverse});
      if constexpr (absorbed && normed)
        Key<Space, T>::forward(space, call.arena, rows, tape.latents, panels_of(p.key), nullptr, tape.head_key);

      space.each(items, ops::PrepareLatentQuery<T, heads, size, rotary, Position, QueryKeyNorm>{
                            batch, tape.query, gain_of<T>(p.query_gain), gain_of<T>(p.key_gain), scale<T>(),
                            by_head(tape.head_query, rows, size), by_head(tape.turned_query, rows, rotary)});
      const Keys<T> keys = keys_of(states, tape);
      space.each(items, ops::StoreLatent<T, Keys<T>, latent, size, Position, QueryKeyNorm>{batch, tape.latents, tape.down_rows,
                                                                                           tape.head_key, keys.stores});
      if constexpr (absorbed) {
        space.each(1, ops::EvenOffsets{heads, rows, tape.offset});
        using Absorb = ops::AbsorbQuery<T, heads, size, latent>;
        space.each(Absorb::items(rows), Absorb{rows, by_head(tape.head_query, rows, size), rows_of(p.key).data,
                                               by_head(tape.absorbed_query, rows, latent)});
      } else {
        using Expand = ops::ExpandLatent<T, Keys<T>, QueryKeyNorm>;
        const Index most = states ? tiles : ops::tiles_for(batch.longest);
        space.each(Expand::items(batch, most), Expand{batch, rows_of(p.key).data, rows_of(p.value).data, keys, most});
      }
      using Core = ops::LatentAttention<T, Keys<T>>;
      space.each(Core::items(batch), Core{batch, core_query(tape, rows), by_head(tape.turned_query, rows, rotary), keys,
                                          core_out(tape, rows), by_head(tape.log_sum_of_exp, rows, 1)});
      if constexpr (absorbed) {
        HeadValue<Space, T>::forward(space, call.arena, heads * rows, tape.offset, tape.mixed_latent,
                                     stacked<value_size, T>(by_heads(p.value)), tape.head_value);
        space.each(items, ops::CopyHeads<T, heads, value_size>{rows, by_head(tape.head_value, rows, value_size),
                                                               by_row(tape.mixed, value_size)});
      }
      Out<Space, T>::forward(space, call.arena, rows, tape.mixed, p.output, nullptr, y.data);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Batch& batch = call.batch;
      const Space& space = call.space;
      const Index rows = batch.rows, items = divide_up(rows, ops::head_rows);
      Arena arena = call.arena;
      const Scratch<T> s(arena, Extent::of(batch, true));

      ops::zero(space, rows * inner, s.d_mixed);
      Out<Space, T>::backward_input(space, arena, rows, dy.data, p.output, s.d_mixed);
      Out<Space, T>::backward_weight(space, arena, rows, tape.mixed, dy.data, gradient.output, nullptr);
      if constexpr (absorbed) {
        space.each(items, ops::CopyHeads<T, heads, value_size>{rows, by_row(s.d_mixed, value_size),
                                                               by_head(s.d_head_value, rows, value_size)});
        ops::zero(space, heads * rows * latent, s.d_mixed_latent);
        HeadValue<Space, T>::backward_input(space, arena, heads * rows, tape.offset, s.d_head_value,
                                            stacked<value_size, T>(p.value), s.d_mixed_latent);
        HeadValue<Space, T>::backward_weight(space, arena, heads * rows, tape.offset, tape.mixed_latent, s.d_head_value,
                                             stacked<value_size, T>(gradient.value));
      }
      const Keys<T> keys = keys_of(States<State<T>>{}, tape);
      using Core = ops::LatentAttentionBackward<T, Keys<T>>;
      space.each(Core::items(batch),
                 Core{batch, core_query(tape, rows), by_head(tape.turned_query, rows, rotary), keys, core_out(tape, rows),
                      by_head(tape.log_sum_of_exp, rows, 1),
                      absorbed ? by_head(s.d_mixed_latent, rows, latent) : by_row(s.d_mixed, value_size),
                      absorbed ? by_head(s.d_absorbed_query, rows, latent) : by_head(s.d_head_query, rows, size),
                      by_head(s.d_turned_query, rows, rotary),
                      absorbed ? by_head(s.d_shared, rows, latent) : by_row(s.d_key, size), by_head(s.d_rotary, rows, rotary),
                      by_row(s.d_value, value_size), by_head(s.d_inverse, rows, 1), by_head(s.inner_products, rows, 1)});
      if constexpr (absorbed) {
        HeadKey<Space, T>::forward(space, arena, heads * rows, tape.offset, s.d_absorbed_query, stacked<size, T>(p.key),
                                   s.d_head_query);
        HeadKey<Space, T>::backward_weight(space, arena, heads * rows, tape.offset, s.d_absorbed_query, tape.head_query,
                                           stacked<size, T>(gradient.key));
        space.each(items, ops::AddHeads<T, heads, latent>{rows, by_head(s.d_shared, rows, latent), s.d_latents});
      } else {
        ops::zero(space, rows * latent, s.d_latents);
        Value<Space, T>::backward_input(space, arena, rows, s.d_value, p.value, s.d_latents);
        Value<Space, T>::backward_weight(space, arena, rows, tape.latents, s.d_value, gradient.value, nullptr);
      }
      if constexpr (normed)
        space.each(items,
                   ops::InverseBackward<T, Keys<T>, size>{batch, tape.head_key, keys, by_head(s.d_inverse, rows, 1), s.d_key});
      if constexpr (normed || !absorbed) {
        Key<Space, T>::backward_input(space, arena, rows, s.d_key, p.key, s.d_latents);
        Key<Space, T>::backward_weight(space, arena, rows, tape.latents, s.d_key, gradient.key, nullptr);
      }

      DownNorm<Space, T>::template backward<true>(space, arena, rows, {tape.down_rows, lowered}, {.weight = p.down_norm.data},
                                                  {.inverse = tape.down_inverse}, {s.d_latents, latent}, {s.d_down, lowered},
                                                  {.weight = gradient.down_norm.data});
      space.each(items, ops::StoreLatentBackward<T, heads, latent, rotary, Position, QueryKeyNorm>{
                            batch, tape.down_rows, by_head(s.d_rotary, rows, rotary), s.d_down});
      Down<Space, T>::backward_input(space, arena, rows, s.d_down, p.down, dx.data);
      Down<Space, T>::backward_weight(space, arena, rows, x.data, s.d_down, gradient.down, nullptr);

      space.each(items, ops::PrepareLatentQueryBackward<T, heads, size, rotary, Position, QueryKeyNorm>{
                            batch, tape.query, gain_of<T>(p.query_gain), gain_of<T>(p.key_gain), scale<T>(),
                            by_head(s.d_head_query, rows, size), by_head(s.d_turned_query, rows, rotary), s.d_query,
                            weighted ? s.partial : nullptr});
      if constexpr (weighted) {
        space.each(1, ops::SumPartials<T, size>{items, s.partial, gradient.query_gain.data});
        space.each(1, ops::SumPartials<T, size>{items, s.partial + items * size, gradient.key_gain.data});
      }
      if constexpr (low_rank) {
        ops::zero(space, rows * rank, s.d_query_latent);
        Query<Space, T>::backward_input(space, arena, rows, s.d_query, p.query, s.d_query_latent);
        Query<Space, T>::backward_weight(space, arena, rows, tape.query_latent, s.d_query, gradient.query, nullptr);
        QueryDownNorm<Space, T>::template backward<true>(
            space, arena, rows, {tape.query_low, rank}, {.weight = p.query_down_norm.data}, {.inverse = tape.query_inverse},
            {s.d_query_latent, rank}, {s.d_query_latent, rank}, {.weight = gradient.query_down_norm.data});
        QueryDown<Space, T>::backward_input(space, arena, rows, s.d_query_latent, p.query_down, dx.data);
        QueryDown<Space, T>::backward_weight(space, arena, rows, x.data, s.d_query_latent, gradient.query_down, nullptr);
      } else {
        Query<Space, T>::backward_input(space, arena, rows, s.d_query, p.query, dx.data);
        Query<Space, T>::backward_weight(space, arena, rows, x.data, s.d_query, gradient.query, nullptr);
      }
    }

    // Accounting.
    static constexpr Spread active_parameters() { return Spread::always(element_count<Parameters<float, Flat>, float>); }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index context) { return Keys<float>::lines * context; }
    /// Products with weights, and the mean over positions of scores and mixing. Keys and values of the expanded form are counted
    /// once a token, as in training and in a prompt fed whole: calls with states form those of all earlier positions again.
    static constexpr Flops flops_per_token(Index context) { return flops(0.5 * (static_cast<double>(context) + 1)); }
    /// The most of one token, the last of `context`, counted likewise. The same at every budget: this attention has no choice.
    static constexpr double capped_flops(Index context, double) { return flops(static_cast<double>(context)).forward; }

   private:
    static constexpr Flops flops(double seen) {
      constexpr double h = heads, n = size, v = value_size, c = latent, r = rotary, w = static_cast<double>(width);
      constexpr double query = low_rank ? static_cast<double>(rank) * (w + h * (n + r)) : w * h * (n + r);
      constexpr double up = c * h * (n + v) + (absorbed && normed ? c * h * n : 0.0);  // keys for ι, beside the queries
      constexpr double key = absorbed ? c + r : n + r, value = absorbed ? c : v;
      return Flops::product(query + w * (c + r) + up + h * v * w) +
             Flops{2 * seen * h * (key + value), 2 * seen * h * (4 * key + 3 * value)};
    }
    template <class T>
    HYBRIDMOE_FUNCTION static T scale() {
      return T(Factor::value) / math::sqrt(T(size + rotary));
    }
    template <class T, class Tensor>
    HYBRIDMOE_FUNCTION static const T* gain_of(const Tensor& gain) {
      return first_element<const T, weighted>(gain);
    }
    /// [heads, rows, size] and [rows, heads, size].
    template <class T>
    HYBRIDMOE_FUNCTION static ops::HeadRows<T> by_head(T* data, Index rows, Index elements) {
      return {data, elements, rows * elements};
    }
    template <class T>
    HYBRIDMOE_FUNCTION static ops::HeadRows<T> by_row(T* data, Index elements) {
      return {data, heads * elements, elements};
    }
    /// A weight [heads·out, latent] as one of each head; of panels, where a head fills whole ones.
    template <int out, class T, class Tensor>
    HYBRIDMOE_FUNCTION static auto& stacked(Tensor& weight) {
      using Element = std::conditional_t<requires { Tensor::out; }, Panels<T, out, latent>, Array<T, out, latent>>;
      using Stack = hybridmoe::Stacked<Element, heads>;
      static_assert(sizeof(Stack) == sizeof(Tensor));
      return reinterpret_cast<std::conditional_t<std::is_const_v<Tensor>, const Stack, Stack>&>(weight);
    }
    /// What mixed latents are multiplied by, head by head: panels, where a head fills whole ones.
    template <class Tensor>
    HYBRIDMOE_FUNCTION static const auto& by_heads(const Tensor& weight) {
      if constexpr (value_size % panel_width == 0)
        return panels_of(weight);
      else
        return rows_of(weight);
    }

    template <class T>
    HYBRIDMOE_FUNCTION static Keys<T> keys_of(States<State<T>> states, const Tape<T>& tape) {
      const typename Keys<T>::Stores stores{tape.store, tape.store, tape.tape_tiles, states.base, states.stride, 0, tiles};
      if constexpr (absorbed)
        return {stores};
      else
        return {stores, tape.expanded};
    }
    /// What the core reads as queries and writes.
    template <class T>
    HYBRIDMOE_FUNCTION static ops::HeadRows<T> core_query(const Tape<T>& tape, Index rows) {
      return absorbed ? by_head(tape.absorbed_query, rows, latent) : by_head(tape.head_query, rows, size);
    }
    template <class T>
    HYBRIDMOE_FUNCTION static ops::HeadRows<T> core_out(const Tape<T>& tape, Index rows) {
      return absorbed ? by_head(tape.mixed_latent, rows, latent) : by_row(tape.mixed, value_size);
    }
  };
};

}  // namespace hybridmoe::attention
