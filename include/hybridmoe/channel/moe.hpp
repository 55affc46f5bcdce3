#pragma once
/// @file moe.hpp
/// Mixture of experts: a router gives each token some of `count` SwiGLU experts; y = Σ weight·expert(x) (+ shared(x)).
/// Tokens are sorted to their experts and each expert's rows go through one product; no row is padded or dropped.

#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/dispatch.hpp>
#include <hybridmoe/ops/expert_swiglu.hpp>
#include <hybridmoe/router/top_k.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// How many experts a token gets: a number, or {least, most}.
struct Active {
  Index least, most;
  constexpr Active(Index always) : least(always), most(always) {}
  constexpr Active(Index least_, Index most_) : least(least_), most(most_) {}
};

/// The experts of a layer: how many there are, how many a token gets, and the width inside each.
struct Experts {
  Index count = 8;
  Active active = 2;
  Index hidden = 0;
};

}  // namespace hybridmoe

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// In the place of a shared expert: none.
struct NotShared {
  template <class Env>
  struct Layer {
    template <class T, class Storage>
    struct Parameters {};
    template <class T>
    using Tape = Tapeless;
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent) {
      return 0;
    }
    static constexpr bool causal = true;
    static constexpr Spread active_parameters() { return {}; }
    static constexpr Flops flops_per_token(Index) { return {}; }
  };
};

/// Routed SwiGLU experts and, if given, a channel mixer that every token goes through as well (DeepSeek-MoE's shared expert),
/// plain (`channel::SwiGlu<…>`) or scaled per token (channel::Gated<`channel::SwiGlu<…>`>, Qwen2-MoE).
/// Tensors: router.*, experts.E.{gate, up, down}.weight, shared.*.
template <Experts experts, class Router = router::TopK<>, class Shared = NotShared>
struct Moe {
  static constexpr bool counted = experts.count > 0 && experts.hidden > 0;
  static constexpr bool chosen = 0 <= experts.active.least && experts.active.least <= experts.active.most &&
                                 experts.active.most <= experts.count && experts.active.most > 0;
  /// Whether the router, if it asks, can choose so many.
  static constexpr bool accepted() {
    if constexpr (requires { Router::template accepts<experts.active.least, experts.active.most>; })
      return Router::template accepts<experts.active.least, experts.active.most>;
    return true;
  }
  static constexpr bool sound = counted && chosen && accepted();
  template <bool asked>
  struct Requirements {
    static_assert(!asked || counted, "channel::Moe needs at least one expert and a positive Experts::hidden");
    static_assert(!asked || !chosen || accepted(),
                  "Experts::active does not suit the router: router::TopK gives every token equally many experts and wants one "
                  "number, router::Dynamic may give none and wants {0, most}");
    static_assert(!asked || !counted || chosen, "Experts::active must lie between 0 and Experts::count, with a positive maximum");
  };

  template <class Env>
  struct Layer {
    using RouterLayer = typename Router::template Layer<Env, experts.count, experts.active.least, experts.active.most>;
    using SharedLayer = typename Shared::template Layer<Env>;
    using Parts = LayerList<RouterLayer, SharedLayer>;
    static_assert(router::Router<RouterLayer>, "channel::Moe's router lacks a part that router/router.hpp lists");
    static constexpr bool has_shared = !std::is_same_v<Shared, NotShared>;
    static constexpr Index width = Env::width;
    static constexpr Index count = experts.count, hidden = experts.hidden, most = experts.active.most;
    static constexpr Index expert_count = count;
    static constexpr bool causal = RouterLayer::causal && SharedLayer::causal;

    template <class T, class Storage>
    struct Parameters {
      typename RouterLayer::template Parameters<T, Storage> router;
      Stacked<Weight<T, Storage, hidden, width>, count> gate, up;
      Stacked<Weight<T, Storage, width, hidden>, count> down;
      [[no_unique_address]] typename SharedLayer::template Parameters<T, Storage> shared;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      RouterLayer::visit(f, at / "router", p.router...);
      for (Index e = 0; e < count; ++e) {
        f(at / "experts" / e / "gate" / "weight", Trait::weight(), p.gate[e]...);
        f(at / "experts" / e / "up" / "weight", Trait::weight(), p.up[e]...);
        f(at / "experts" / e / "down" / "weight", Trait::output(), p.down[e]...);
      }
      if constexpr (has_shared) SharedLayer::visit(f, at / "shared", p.shared...);
    }

    template <class T>
    using State = Stateless;

    /// `places` below is the number of (token, expert) pairs of the call, at most rows·most.
    template <class T>
    struct Tape {
      router::Choice<T, most> choice;
      Index *offset, *source, *place;  // [count + 1], [places], [rows, most]: see ops::Dispatch
      T *gate, *up;                    // [places, hidden]
      T* out;                          // [places, width] unweighted
      typename RouterLayer::template Tape<T> router;
      [[no_unique_address]] typename SharedLayer::template Tape<T> shared;
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : choice(arena, e.rows),
            offset(arena.template take<Index>(count + 1)),
            source(arena.template take<Index>(e.rows * most)),
            place(arena.template take<Index>(e.rows * most)),
            gate(arena.template take<T>(e.rows * most * hidden)),
            up(arena.template take<T>(e.rows * most * hidden)),
            out(arena.template take<T>(e.rows * most * width)),
            router(arena, e),
            shared(arena, e) {}
    };

    template <class T>
    struct ForwardScratch {
      T *gathered, *active;  // [places, width], [places, hidden]
      HYBRIDMOE_FUNCTION constexpr ForwardScratch(auto& arena, Extent e)
          : gathered(arena.template take<T>(e.rows * most * width)),
            active(e.training ? arena.template take<T>(e.rows * most * hidden) : nullptr) {}
    };
    template <class T>
    struct BackwardScratch {
      T *dweight, *gathered, *dout, *dgate, *dup;  // [rows, most], [places, width] twice, [places, hidden] twice
      HYBRIDMOE_FUNCTION constexpr BackwardScratch(auto& arena, Index rows)
          : dweight(arena.template take<T>(rows * most)),
            gathered(arena.template take<T>(rows * most * width)),
            dout(arena.template take<T>(rows * most * width)),
            dgate(arena.template take<T>(rows * most * hidden)),
            dup(arena.template take<T>(rows * most * hidden)) {}
    };

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const bool packs = e.training || !std::is_same_v<Storage, Packed>;
      const Index products = !packs ? 0
                                    : larger(In<exec::Inline, T>::workspace_bytes(e.rows * most, e.training),
                                             Out<exec::Inline, T>::workspace_bytes(e.rows * most, e.training));
      const Index forward = planned_bytes<ForwardScratch<T>>(e) + products;
      const Index backward = e.training ? planned_bytes<BackwardScratch<T>>(e.rows) : 0;
      const Index parts =
          larger(RouterLayer::template workspace_bytes<T, Storage>(e), SharedLayer::template workspace_bytes<T, Storage>(e));
      return larger(larger(forward, Sort<exec::Inline>::workspace_bytes(e.rows)), backward + larger(products, parts));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless> states, const Tape<T>& tape) {
      const Space& space = call.space;
      const Index rows = call.batch.rows, most_places = rows * most;
      const Index* const places = tape.offset + count;
      if constexpr (has_shared) SharedLayer::forward(call, p.shared, x, y, states, tape.shared);
      RouterLayer::forward(call, p.router, x, tape.choice, tape.router);
      router::count_loads<count>(call, tape.choice);
      Sort<Space>::sort(space, call.arena, rows, tape.choice.expert, tape.offset, tape.source, tape.place);

      Arena arena = call.arena;
      const ForwardScratch<T> scratch(arena, Extent{rows, call.batch.sequences, call.training});
      T* const active = call.training ? scratch.active : tape.gate;
      Move<Space, T>::gather(space, rows, places, tape.source, x.data, scratch.gathered);
      In<Space, T>::forward(space, arena, most_places, tape.offset, scratch.gathered, p.gate, tape.gate);
      In<Space, T>::forward(space, arena, most_places, tape.offset, scratch.gathered, p.up, tape.up);
      ops::ExpertSwiGlu<Space, T, hidden>::forward(space, most_places, places, tape.gate, tape.up, active);
      Out<Space, T>::forward(space, arena, most_places, tape.offset, active, p.down, tape.out);
      Move<Space, T>::template combine<has_shared>(space, rows, tape.place, tape.choice.weight, tape.out, y.data);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      using Activation = ops::ExpertSwiGlu<Space, T, hidden>;
      const Space& space = call.space;
      const Index rows = call.batch.rows, most_places = rows * most;
      const Index* const places = tape.offset + count;
      Arena arena = call.arena;
      const BackwardScratch<T> s(arena, rows);
      Move<Space, T>::combine_backward(space, rows, tape.place, tape.choice.weight, tape.out, dy.data, s.dout, s.dweight);
      // The activation is computed again: it costs less than the memory to keep it. Its room then takes the gradient of `up`.
      Activation::forward(space, most_places, places, tape.gate, tape.up, s.dup);
      Out<Space, T>::backward_weight(space, arena, most_places, tape.offset, s.dup, s.dout, gradient.down);
      ops::ExpertRows<Space, T, hidden, most>::clear(space, rows, places, s.dgate);
      Out<Space, T>::backward_input(space, arena, most_places, tape.offset, s.dout, p.down, s.dgate);
      Activation::backward(space, most_places, places, tape.gate, tape.up, s.dgate, s.dgate, s.dup);

      Move<Space, T>::gather(space, rows, places, tape.source, x.data, s.gathered);
      In<Space, T>::backward_weight(space, arena, most_places, tape.offset, s.gathered, s.dgate, gradient.gate);
      In<Space, T>::backward_weight(space, arena, most_places, tape.offset, s.gathered, s.dup, gradient.up);
      Move<Space, T>::clear(space, rows, places, s.gathered);
      In<Space, T>::backward_input(space, arena, most_places, tape.offset, s.dgate, p.gate, s.gathered);
      In<Space, T>::backward_input(space, arena, most_places, tape.offset, s.dup, p.up, s.gathered);
      Move<Space, T>::gather_backward(space, rows, tape.place, s.gathered, dx.data);

      const Call<Space> inner = call.with(arena);
      RouterLayer::backward(inner, p.router, x, tape.router, tape.choice, s.dweight, dx, gradient.router);
      if constexpr (has_shared) SharedLayer::backward(inner, p.shared, x, tape.shared, dy, dx, gradient.shared);
    }

    /// Auxiliary losses and the load of each expert, after a training forward; pointers into the tape.
    template <class T>
    HYBRIDMOE_FUNCTION static router::Losses<T> losses(const Tape<T>& tape) {
      return RouterLayer::template losses<T>(tape.router);
    }

    // Accounting.
    static constexpr Index expert_parameters = 3 * width * hidden;
    static constexpr Spread active_parameters() {
      return RouterLayer::active_parameters() + SharedLayer::active_parameters() +
             Spread{RouterLayer::least * expert_parameters, RouterLayer::target * expert_parameters,
                    RouterLayer::most * expert_parameters};
    }
    /// For a token with the router's target number of experts.
    static constexpr Flops flops_per_token(Index context) {
      return RouterLayer::flops_per_token() + SharedLayer::flops_per_token(context) +
             Flops::product(static_cast<double>(RouterLayer::target * expert_parameters));
    }
    /// The most forward FLOPs of a token at budget β: a router that may give none obeys K(β), another gives always the same.
    static constexpr double capped_flops(Index context, double beta) {
      const Index asked = RouterLayer::least == 0 ? most_experts(most, beta) : most;
      return RouterLayer::flops_per_token().forward + most_flops<SharedLayer>(context, beta) +
             2.0 * static_cast<double>(asked * expert_parameters);
    }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using In = ops::GroupedMatmul<Space, T, count, hidden, width>;
    template <class Space, class T>
    using Out = ops::GroupedMatmul<Space, T, count, width, hidden>;
    template <class Space>
    using Sort = ops::Dispatch<Space, count, most>;
    template <class Space, class T>
    using Move = ops::ExpertRows<Space, T, width, most>;
  };
};

}  // namespace hybridmoe::channel
