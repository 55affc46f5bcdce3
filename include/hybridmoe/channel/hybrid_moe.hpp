#pragma once
/// @file hybrid_moe.hpp
/// The channel mixer of HybridMoE: none to K routed experts per token (router::Dynamic) beside a shared expert that every token
/// goes through, as wide as the token is worth, modulated by the whole routing distribution, with a stand-in for what a budget
/// took away:
///
///   h = silu(W_g x)⊙(W_u x)⊙(1 + A·B·ρ)      ρ = softmax(z), S equal slices
///   y = Σ_s a_s·W_d⁽ˢ⁾h⁽ˢ⁾ + Σ_e g_e·E_e(x) + (1 − G)·V·h⁽¹⁾
///
/// elastic.hpp says how a is found, stand_in.hpp what G is and how V learns. Slices and experts that weigh nothing are not
/// computed, forward or backward.

#include <hybridmoe/channel/elastic.hpp>
#include <hybridmoe/channel/expert_bank.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/stand_in.hpp>
#include <hybridmoe/ops/fill.hpp>
#include <hybridmoe/router/dynamic.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// The shared expert. Each feature can be left out; `hidden` can then be raised to refill the cost.
struct SharedPlus {
  Index hidden = 0;
  Index slices = 4;       ///< nested widths; 1: every token uses all of it
  Index modulation = 16;  ///< rank of the modulation by ρ; 0: none
  bool stand_in = true;   ///< V
  float distil = 0.1f;    ///< coefficient of the loss by which V learns beside the model's; 0: none
};

/// Tensors: router.*, experts.E.{gate, up, down}.weight, shared.S.{gate, up, down, modulate}.weight, slice_gate.weight [1,
/// width], mix.weight [modulation, count] B, stand_in.weight [width, hidden/slices] V. Reads Complexity, Decisions, Context,
/// Budget, Target; reports Used::experts, Used::weight, Used::slices.
template <Experts routed_, SharedPlus shared_, class Router = router::Dynamic<>>
struct HybridMoe {
  static_assert(routed_.count > 0 && routed_.hidden > 0, "channel::HybridMoe needs experts and a positive Experts::hidden");
  static_assert(shared_.slices > 0 && shared_.hidden > 0 && shared_.hidden % shared_.slices == 0,
                "channel::HybridMoe: SharedPlus::slices must divide a positive SharedPlus::hidden");
  static_assert(shared_.modulation >= 0, "SharedPlus::modulation is a rank, or 0");

  template <class Env>
  struct Layer {
    using RouterLayer = typename Router::template Layer<Env, routed_.count, routed_.active.least, routed_.active.most>;
    using Parts = LayerList<RouterLayer>;
    static_assert(router::Router<RouterLayer>, "channel::HybridMoe's router lacks a part that router/router.hpp lists");
    static constexpr Index width = Env::width;
    static constexpr Index count = routed_.count, most = routed_.active.most, expert_count = count;
    static constexpr Index slices = shared_.slices, slice = shared_.hidden / slices, modulation = shared_.modulation;
    static constexpr bool causal = RouterLayer::causal;
    static constexpr bool elastic = slices > 1, modulated = modulation > 0;
    static constexpr bool stands_in = shared_.stand_in, distils = stands_in && shared_.distil > 0;
    using Routed = ExpertBank<count, routed_.hidden, width, most>;
    using Shared = ExpertBank<slices, slice, width, slices, modulation, stands_in>;

    template <class T, class Storage>
    struct Parameters {
      typename RouterLayer::template Parameters<T, Storage> router;
      typename Routed::template Parameters<T, Storage> experts;
      typename Shared::template Parameters<T, Storage> shared;
      [[no_unique_address]] Optional<elastic, Array<T, 1, width>, 31> slice_gate;  // one row: not worth a packed panel
      [[no_unique_address]] Optional<modulated, Weight<T, Storage, modulation, count>, 32> mix;
      [[no_unique_address]] Optional<stands_in, Stacked<Weight<T, Storage, width, slice>, 1>, 33> stand_in;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      RouterLayer::visit(f, at / "router", p.router...);
      Routed::visit(f, at / "experts", p.experts...);
      Shared::visit(f, at / "shared", p.shared...);
      constexpr Trait zero{.start = Start::constant, .a = 0};
      if constexpr (elastic) f(at / "slice_gate" / "weight", zero, p.slice_gate...);
      if constexpr (modulated) f(at / "mix" / "weight", Trait::weight(0.2f), p.mix...);
      if constexpr (stands_in) f(at / "stand_in" / "weight", zero, p.stand_in[0]...);
    }

    template <class T>
    using State = Stateless;

    template <class T>
    struct Tape {
      router::Choice<T, most> choice;
      typename RouterLayer::template Tape<T> router;
      typename Routed::template Tape<T> routed;
      Index* slice_list;                 ///< [rows, slices]
      T *slice_weight, *slice_u, *real;  ///< [rows, slices] a; [rows] w·x; [rows] ñ
      T* q;                              ///< [rows, modulation] B·ρ
      typename Shared::template Tape<T> shared;
      router::Unbounded<T, most> unbounded;
      Index *stand_in_use, *stand_in_offset, *stand_in_source, *stand_in_place;  ///< as ops::Dispatch for one expert
      T *rest, *stand_in_out;                                                    ///< [rows] 1 − G; [places, width] V·h
      Index *distilled_offset, *distilled_source;                                ///< [2], [distilled rows]
      T *residual, *loss, *factor, *value;                                       ///< [distilled rows, width], [1] each
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : choice(arena, e.rows),
            router(arena, e),
            routed(arena, e.rows, e.training),
            slice_list(arena.template take<Index>(e.rows * slices)),
            slice_weight(arena.template take<T>(e.rows * slices)),
            slice_u(arena.template take<T>(elastic ? e.rows : 0)),
            real(arena.template take<T>(e.rows)),
            q(arena.template take<T>(e.rows * modulation)),
            shared(arena, e.rows, e.training) {
        const Index stand = stands_in ? e.rows : 0, distilled = distils && e.training ? distilled_rows(e) : 0;
        const Index lists = distilled > 0 ? e.rows * most : 0;
        if (stands_in) unbounded.sum = arena.template take<T>(e.rows);
        if (stands_in && e.training) unbounded.threshold = arena.template take<router::Threshold<T>>(e.rows);
        Index* const expert = arena.template take<Index>(lists);
        T* const weight = arena.template take<T>(lists);
        if (distilled > 0) {
          unbounded.expert = expert;
          unbounded.weight = weight;
        }
        stand_in_use = arena.template take<Index>(stand);
        stand_in_offset = arena.template take<Index>(2);
        stand_in_source = arena.template take<Index>(stand);
        stand_in_place = arena.template take<Index>(stand);
        rest = arena.template take<T>(stand);
        stand_in_out = arena.template take<T>(stand * width);
        distilled_offset = arena.template take<Index>(2);
        distilled_source = arena.template take<Index>(distilled);
        residual = arena.template take<T>(distilled * width);
        loss = arena.template take<T>(1);
        factor = arena.template take<T>(1);
        value = e.training ? arena.template take<T>(1) : nullptr;
      }
    };

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const bool packs = e.training || !std::is_same_v<Storage, Packed>, training = e.training;
      const Index rows = e.rows;
      Index mixing = 0, standing = 0;
      if constexpr (modulated) mixing = product_workspace<T, Storage, modulation, count>(e);
      if constexpr (stands_in) standing = packs ? V<exec::Inline, T>::workspace_bytes(rows, training) : 0;
      const Index router = RouterLayer::template workspace_bytes<T, Storage>(e);
      Index forward = larger(larger(router, mixing), larger(Routed::template forward_bytes<T>(rows, training, packs),
                                                            Shared::template forward_bytes<T>(rows, training, packs)));
      if constexpr (stands_in)
        forward = larger(forward,
                         larger(SortOne<exec::Inline>::workspace_bytes(rows), planned_bytes<StandScratch<T>>(rows) + standing));
      if (!training) return forward;
      if constexpr (distils) {
        const Index distilled = distilled_rows(e);
        forward = larger(forward, planned_bytes<DistilScratch<T>>(e) + Routed::template forward_bytes<T>(distilled, false, true));
      }
      const Index backward = planned_bytes<BackwardScratch<T>>(rows);
      const Index stand_stage = stands_in ? planned_bytes<StandBackward<T>>(rows) + standing : 0;
      const Index shared_stage = planned_bytes<typename Shared::template BackwardScratch<T>>(rows) +
                                 larger(Shared::template product_bytes<T>(rows, true, true), stand_stage);
      const Index routed_stage =
          planned_bytes<typename Routed::template BackwardScratch<T>>(rows) + Routed::template product_bytes<T>(rows, true, true);
      const Index gate = elastic ? ops::Matmul<exec::Inline, T, 1, width>::workspace_bytes(rows, true) : 0;
      return larger(forward, backward + larger(larger(shared_stage, routed_stage), larger(larger(mixing, gate), router)));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless>, const Tape<T>& tape) {
      const Space& space = call.space;
      const Index rows = call.batch.rows;
      RouterLayer::forward(call, p.router, x, tape.choice, tape.router, tape.unbounded);
      router::count_loads<count>(call, tape.choice);
      // (Backward reads the tape, whether a row has an expert or not.)
      const bool begun = call.training || most_experts(most, static_cast<T>(call.side.most_budget)) > 0;
      if (begun) {
        Routed::forward(space, call.arena, rows, p.experts, x.data, tape.choice.expert, static_cast<const T*>(nullptr),
                        tape.routed);
        Routed::template combine<false>(space, rows, tape.routed, tape.choice.weight, y.data);
      }
      space.each(divide_up(rows, elastic_rows),
                 ElasticKernel<T, width, slices>{rows, streams_of<T>(call), x.data, first_element<const T, elastic>(p.slice_gate),
                                                 tape.slice_u, tape.real, tape.slice_list, tape.slice_weight,
                                                 call.side.template report<T>(call.layer, Used::slices), call.side.used_width});
      if constexpr (modulated)
        Mix<Space, T>::forward(space, call.arena, rows, tape.router.probability, p.mix, static_cast<const T*>(nullptr), tape.q);
      Shared::forward(space, call.arena, rows, p.shared, x.data, tape.slice_list, tape.q, tape.shared);
      if (begun)
        Shared::template combine<true>(space, rows, tape.shared, tape.slice_weight, y.data);
      else
        Shared::template combine<false>(space, rows, tape.shared, tape.slice_weight, y.data);
      if constexpr (stands_in) stand_in(call, p, y, tape);
      if (!call.training) return;
      // (Training is done on flat weights; for packed ones no code is made.)
      if constexpr (distils && std::is_same_v<Storage, Flat>) distil(call, p, x, tape);
      const Index blocks = divide_up(rows, price_block);
      Arena arena = call.arena;
      T* const partial = arena.template take<T>(blocks);
      const StreamRows<T> target = call.side.template rows<stream::Target, T>();
      space.each(blocks, PriceKernel<T, most>{rows, target, call.price * expert_flops, call.price * slice_flops,
                                              tape.choice.expert, tape.choice.weight, tape.real, partial});
      space.each(1, AuxiliaryKernel<T>{rows, blocks, partial, tape.router.value, distils ? tape.loss : nullptr, T(shared_.distil),
                                       tape.value});
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Space& space = call.space;
      const Index rows = call.batch.rows;
      const T share = rows > 0 ? static_cast<T>(call.auxiliary) / static_cast<T>(rows) : T(0);
      Arena arena = call.arena;
      const BackwardScratch<T> s(arena, rows);
      {
        Arena inner = arena;
        const typename Shared::template BackwardScratch<T> b(inner, rows);
        Shared::backward_out(space, inner, rows, p.shared, tape.shared, tape.slice_weight, dy.data, s.d_slice, b,
                             gradient.shared);
        if constexpr (stands_in) stand_in_backward(call, inner, p, tape, dy.data, s.d_rest, b.dgate, gradient);
        ops::zero(space, rows * modulation, s.dq);
        Shared::backward_in(space, inner, rows, p.shared, x.data, tape.q, tape.shared, b, dx.data, s.dq, gradient.shared);
      }
      {
        Arena inner = arena;
        const typename Routed::template BackwardScratch<T> b(inner, rows);
        Routed::backward_out(space, inner, rows, p.experts, tape.routed, tape.choice.weight, dy.data, s.dweight, b,
                             gradient.experts);
        Routed::backward_in(space, inner, rows, p.experts, x.data, static_cast<const T*>(nullptr), tape.routed, b, dx.data,
                            static_cast<T*>(nullptr), gradient.experts);
      }
      space.each(divide_up(rows, stand_in_rows),
                 StandInBackwardKernel<T, most>{rows, tape.choice.expert, tape.choice.weight, tape.unbounded.sum,
                                                stands_in ? s.d_rest : nullptr, call.side.template rows<stream::Target, T>(),
                                                call.price * expert_flops, share, s.dweight, s.d_unbounded});
      if constexpr (elastic) {
        space.each(
            divide_up(rows, elastic_rows),
            ElasticBackwardKernel<T, width, slices>{rows, streams_of<T>(call), call.price * slice_flops, share, p.slice_gate.data,
                                                    tape.slice_u, s.d_slice, tape.slice_list, s.du, dx.data});
        ops::Matmul<Space, T, 1, width>::backward_weight(space, arena, rows, x.data, s.du, gradient.slice_gate,
                                                         static_cast<T*>(nullptr));
      }
      router::BeyondWeights<T> beyond{nullptr, stands_in ? s.d_unbounded : nullptr};
      if constexpr (modulated) {
        ops::zero(space, rows * count, s.d_probability);
        Mix<Space, T>::backward_input(space, arena, rows, s.dq, p.mix, s.d_probability);
        Mix<Space, T>::backward_weight(space, arena, rows, tape.router.probability, s.dq, gradient.mix, static_cast<T*>(nullptr));
        beyond.probability = s.d_probability;
      }
      RouterLayer::backward(call.with(arena), p.router, x, tape.router, tape.choice, s.dweight, dx, gradient.router,
                            tape.unbounded, beyond);
    }

    /// Auxiliary losses (of the router, the price, the distillation) and the load of each expert, after a training forward.
    template <class T>
    HYBRIDMOE_FUNCTION static router::Losses<T> losses(const Tape<T>& tape) {
      return {tape.value, tape.router.load};
    }
    /// The distillation's loss alone, without its coefficient; null where there is none.
    template <class T>
    HYBRIDMOE_FUNCTION static const T* distillation(const Tape<T>& tape) {
      return distils ? tape.loss : nullptr;
    }

    // Accounting.
    static constexpr Index expert_parameters = Routed::parameters_of_one, slice_parameters = Shared::parameters_of_one;
    static constexpr Index mixing_parameters = modulation * count, gate_parameters = elastic ? width : 0;
    static constexpr Index stand_in_parameters = stands_in ? width * slice : 0;
    static constexpr double expert_flops = 2.0 * expert_parameters, slice_flops = 2.0 * slice_parameters;
    /// At the nominal choice a token has the router's target, all slices and the stand-in.
    static constexpr Spread active_parameters() {
      const Index nominal = static_cast<Index>(RouterLayer::nominal * static_cast<double>(expert_parameters) + 0.5);
      const Index all = slices * slice_parameters + mixing_parameters + gate_parameters;
      return RouterLayer::active_parameters() + Spread{slice_parameters + mixing_parameters, nominal + all + stand_in_parameters,
                                                       most * expert_parameters + all + stand_in_parameters};
    }
    static constexpr Flops flops_per_token(Index) {
      return RouterLayer::flops_per_token() +
             Flops::product(RouterLayer::nominal * static_cast<double>(expert_parameters) +
                            static_cast<double>(slices * slice_parameters + mixing_parameters + gate_parameters));
    }
    /// The most forward FLOPs of a token at budget β, whatever was learned.
    static constexpr double capped_flops(Index, double beta) {
      return RouterLayer::flops_per_token().forward + expert_flops * static_cast<double>(most_experts(most, beta)) +
             slice_flops * static_cast<double>(most_slices(slices, beta)) +
             2.0 * (mixing_parameters + gate_parameters + stand_in_parameters);
    }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using Mix = ops::Matmul<Space, T, modulation, count>;
    template <class Space, class T>
    using V = ops::GroupedMatmul<Space, T, 1, width, slice>;
    template <class Space>
    using SortOne = ops::Dispatch<Space, 1, 1>;
    template <class Space, class T>
    using MoveH = ops::ExpertRows<Space, T, slice, 1>;
    template <class Space, class T>
    using MoveOut = ops::ExpertRows<Space, T, width, 1>;

    template <class T>
    struct StandScratch {
      T* h;  // [places, slice]
      HYBRIDMOE_FUNCTION constexpr StandScratch(auto& arena, Index rows) : h(arena.template take<T>(rows * slice)) {}
    };
    template <class T>
    struct StandBackward {
      T *h, *dh, *dout;  // [places, slice] twice, [places, width]
      HYBRIDMOE_FUNCTION constexpr StandBackward(auto& arena, Index rows)
          : h(arena.template take<T>(rows * slice)),
            dh(arena.template take<T>(rows * slice)),
            dout(arena.template take<T>(rows * width)) {}
    };
    template <class T>
    struct DistilScratch {
      Index *use, *place, *missing;  // [rows] twice, [distilled rows, most]
      T *x, *whole, *squares;        // [distilled rows, width] twice, [distilled rows, 2]
      typename Routed::template Tape<T> routed;
      HYBRIDMOE_FUNCTION constexpr DistilScratch(auto& arena, Extent e)
          : use(arena.template take<Index>(e.rows)),
            place(arena.template take<Index>(e.rows)),
            missing(arena.template take<Index>(distilled_rows(e) * most)),
            x(arena.template take<T>(distilled_rows(e) * width)),
            whole(arena.template take<T>(distilled_rows(e) * width)),
            squares(arena.template take<T>(distilled_rows(e) * 2)),
            routed(arena, distilled_rows(e), false) {}
    };
    template <class T>
    struct BackwardScratch {
      T *dweight, *d_slice, *d_rest, *d_unbounded, *dq, *d_probability, *du;
      HYBRIDMOE_FUNCTION constexpr BackwardScratch(auto& arena, Index rows)
          : dweight(arena.template take<T>(rows * most)),
            d_slice(arena.template take<T>(rows * slices)),
            d_rest(arena.template take<T>(stands_in ? rows : 0)),
            d_unbounded(arena.template take<T>(stands_in ? rows : 0)),
            dq(arena.template take<T>(rows * modulation)),
            d_probability(arena.template take<T>(modulated ? rows * count : 0)),
            du(arena.template take<T>(elastic ? rows : 0)) {}
    };

    template <class T, class Space>
    HYBRIDMOE_FUNCTION static ElasticStreams<T> streams_of(const Call<Space>& call) {
      return {call.side.template rows<stream::Decisions, T>(), call.side.template rows<stream::Budget, T>(),
              call.side.template rows<stream::Target, T>(), call.layer * Decision::fields + Decision::slices};
    }

    /// y += (1 − G)·V·h⁽¹⁾. Every row goes through slice 0, so that row r's h lies at place r.
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void stand_in(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<T, width> y,
                                            const Tape<T>& tape) {
      const Space& space = call.space;
      const Index rows = call.batch.rows;
      const Index* const places = tape.stand_in_offset + 1;
      space.each(divide_up(rows, stand_in_rows), StandInKernel<T, most>{rows, tape.choice.expert, tape.choice.weight,
                                                                        tape.unbounded.sum, tape.stand_in_use, tape.rest});
      SortOne<Space>::sort(space, call.arena, rows, tape.stand_in_use, tape.stand_in_offset, tape.stand_in_source,
                           tape.stand_in_place);
      Arena arena = call.arena;
      const StandScratch<T> s(arena, rows);
      MoveH<Space, T>::gather(space, rows, places, tape.stand_in_source, tape.shared.h, s.h);
      V<Space, T>::forward(space, arena, rows, tape.stand_in_offset, s.h, p.stand_in, tape.stand_in_out);
      MoveOut<Space, T>::template combine<true>(space, rows, tape.stand_in_place, tape.rest, tape.stand_in_out, y.data);
    }

    /// d_rest is assigned, dh (of slice 0) and the gradient are added to.
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void stand_in_backward(const Call<Space>& call, Arena arena, const Parameters<T, Flat>& p,
                                                     const Tape<T>& tape, const T* dy, T* d_rest, T* dh,
                                                     Parameters<T, Flat>& gradient) {
      const Space& space = call.space;
      const Index rows = call.batch.rows;
      const Index* const places = tape.stand_in_offset + 1;
      const StandBackward<T> s(arena, rows);
      MoveOut<Space, T>::combine_backward(space, rows, tape.stand_in_place, tape.rest, tape.stand_in_out, dy, s.dout, d_rest);
      MoveH<Space, T>::clear(space, rows, places, s.dh);
      V<Space, T>::backward_input(space, arena, rows, tape.stand_in_offset, s.dout, p.stand_in, s.dh);
      MoveH<Space, T>::gather_backward(space, rows, tape.stand_in_place, s.dh, dh);
      if constexpr (distils)
        space.each(distilled_rows(Extent::of(call.batch, true)),
                   DistilBackwardKernel<T, width>{tape.distilled_offset + 1, tape.distilled_source, tape.stand_in_place,
                                                  static_cast<T>(call.auxiliary) * T(shared_.distil), tape.factor, tape.rest,
                                                  tape.residual, s.dout});
      MoveH<Space, T>::gather(space, rows, places, tape.stand_in_source, tape.shared.h, s.h);
      V<Space, T>::backward_weight(space, arena, rows, tape.stand_in_offset, s.h, s.dout, gradient.stand_in);
    }

    /// The loss of the distillation and what its gradient by V needs. Experts that a distilled row did not go through are run for
    /// those rows alone.
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void distil(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                          const Tape<T>& tape) {
      const Space& space = call.space;
      const Extent e = Extent::of(call.batch, true);
      const Index* const distilled = tape.distilled_offset + 1;
      Arena arena = call.arena;
      const DistilScratch<T> s(arena, e);
      HYBRIDMOE_ASSERT(call.batch.row_position != nullptr || e.rows == 0);
      space.each(divide_up(e.rows, stand_in_rows), DistilledKernel{e.rows, call.layer, call.batch.row_position, s.use});
      SortOne<Space>::sort(space, arena, e.rows, s.use, tape.distilled_offset, tape.distilled_source, s.place);
      const Index most_rows = distilled_rows(e);
      space.each(most_rows, MissingKernel<T, width, most>{distilled, tape.distilled_source, tape.choice.expert,
                                                          tape.unbounded.expert, x.data, s.missing, s.x});
      Routed::forward(space, arena, most_rows, p.experts, s.x, s.missing, static_cast<const T*>(nullptr), s.routed);
      space.each(most_rows,
                 ResidualKernel<T, width, most>{distilled, tape.distilled_source, tape.choice.expert, tape.unbounded.expert,
                                                tape.choice.weight, tape.unbounded.weight, tape.routed.place, s.missing,
                                                s.routed.place, tape.routed.out, s.routed.out, tape.stand_in_place, tape.rest,
                                                tape.stand_in_out, tape.residual, s.whole, s.squares});
      space.each(1, DistilKernel<T>{distilled, s.squares, tape.loss, tape.factor});
    }
  };
};

}  // namespace hybridmoe::channel
