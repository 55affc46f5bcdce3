#pragma once
/// @file adaptive.hpp
/// A norm with a strength: y = γ ⊙ x·r^{−α}, r = √(mean(x²) + ε), α in (½, 1). α = 1 is RMSNorm; a smaller one leaves part of the
/// row's size. The strength depends on the layer, on the row's complexity and on the controller; the gain γ on the row's budget,
/// as norms of networks of several widths have gains for each (Yu et al., "Slimmable neural networks", 2019).

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/norm/epsilon.hpp>
#include <hybridmoe/ops/adaptive_norm.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::norm {

/// Where the gain of an adaptive norm starts.
enum class GainStart {
  by_depth,  ///< 1/√(l + 1) in layer l, so that deep layers do not take over the residual stream; 1 outside the layers
  one        ///< 1
};

/// α = ½ + ½σ(strength + by_complexity·(2c − 1) + shift): `strength` starts at 4 (α ≈ 0.991), `by_complexity` at 0. Reads
/// c = stream::Complexity (absent: ½) and shift = Decision::norm of its layer in stream::Decisions (absent: 0).
/// γ = weight + (1 − β)·by_budget, by_budget starting at 0. Reads β = stream::Budget (absent: 1).
template <GainStart start = GainStart::one, class Epsilon_ = Epsilon<1, 1'000'000>>
struct Adaptive {
  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;

    template <class T, class Storage>
    struct Parameters {
      Array<T, width> weight, by_budget;
      Array<T, 1> strength, by_complexity;
    };
    static constexpr void visit(auto&& f, const Name& at, auto&... p) {
      Trait gain = Trait::gain();
      gain.by_depth = start == GainStart::by_depth;
      f(at / "weight", gain, p.weight...);
      f(at / "by_budget", Trait::bias(), p.by_budget...);
      f(at / "strength", Trait::gain(4.0f), p.strength...);
      f(at / "by_complexity", Trait::bias(), p.by_complexity...);
    }

    template <class T>
    using State = Stateless;
    template <class T>
    struct Tape {
      ops::AdaptiveNormTape<T> kept{};  ///< nothing outside training
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent extent) {
        if (!extent.training) return;
        kept.gate = arena.template take<T>(extent.rows);
        kept.inverse = arena.template take<T>(extent.rows);
        kept.scale = arena.template take<T>(extent.rows);
      }
    };
    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Extent extent) {
      return extent.training ? Op<exec::Inline, T>::workspace_bytes(extent.rows) : 0;
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless>, const Tape<T>& tape) {
      Op<Space, T>::forward(call.space, call.batch.rows, x.data, gain<T>(call, p), strength<T>(call, p),
                            Epsilon_::template value<T>, y.data, tape.kept);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      Op<Space, T>::backward(
          call.space, call.arena, call.batch.rows, x.data, gain<T>(call, p), strength<T>(call, p), tape.kept, dy.data, dx.data,
          {gradient.weight.data, gradient.by_budget.data, gradient.strength.data, gradient.by_complexity.data});
    }

    /// Least: without a complexity and a budget, whose factors are then not read. Target: at full budget.
    static constexpr Spread active_parameters() { return {width + 1, width + 2, 2 * width + 2}; }
    /// As RMSNorm's, below the full budget another gain, and some twenty operations per row for the strength.
    static constexpr Flops flops_per_token(Index) { return {6.0 * width + 20, 18.0 * width + 40}; }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using Op = ops::AdaptiveNorm<Space, T, width>;

    template <class T, class Space, class P>
    HYBRIDMOE_FUNCTION static ops::NormGain<T> gain(const Call<Space>& call, const P& p) {
      ops::NormGain<T> result{.weight = p.weight.data, .by_budget = p.by_budget.data};
      if (const auto budget = call.side.template rows<stream::Budget, T>()) result.budget = {budget.value, nullptr, budget.width};
      return result;
    }
    template <class T, class Space, class P>
    HYBRIDMOE_FUNCTION static ops::NormStrength<T> strength(const Call<Space>& call, const P& p) {
      ops::NormStrength<T> result{.constant = p.strength.data, .slope = p.by_complexity.data};
      if (const auto c = call.side.template rows<stream::Complexity, T>()) result.complexity = {c.value, c.gradient, c.width};
      if (const auto d = call.side.template rows<stream::Decisions, T>()) {
        const Index column = call.layer * Decision::fields + Decision::norm;
        result.shift = {d.value + column, d.gradient == nullptr ? nullptr : d.gradient + column, d.width};
      }
      return result;
    }
  };
};

}  // namespace hybridmoe::norm
