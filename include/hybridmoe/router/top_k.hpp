#pragma once
/// @file top_k.hpp
/// The usual router: scores = x·Wᵀ, softmax over all experts, the k best with their probabilities as weights.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/top_k.hpp>
#include <hybridmoe/router/balance.hpp>
#include <hybridmoe/router/router.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

struct TopKOptions {
  bool renormalise = true;  ///< the k weights sum to 1 (Mixtral), or stay probabilities (Qwen2-MoE, OLMoE, Switch)
  float balance = 0.01f;    ///< coefficient of the load-balancing loss
  float z = 0.0f;           ///< coefficient of the z-loss
};

/// Softmax over all experts, then top-k; of equal scores the lower expert is taken. Tensor: weight [count, width].
template <TopKOptions options = TopKOptions{}>
struct TopK {
  template <Index least, Index most>
  static constexpr bool accepts = least == most;

  template <class Environment, Index count_, Index least_, Index most_>
  struct Layer {
    static_assert(least_ == most_, "router::TopK gives every token equally many experts: Experts::active must be one number");
    static_assert(most_ > 0 && most_ <= count_, "router::TopK needs at least one active expert and no more than there are");
    static_assert(most_ > 1 || count_ == 1 || !options.renormalise,
                  "one renormalised expert always weighs 1 and its router learns nothing; set TopKOptions::renormalise to false");

    static constexpr Index width = Environment::width;
    static constexpr Index count = count_, least = least_, target = most_, most = most_;
    static constexpr bool causal = true;

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, count, width> weight;
    };
    static void visit(auto&& f, const Name& at, auto&... p) { f(at / "weight", Trait::weight(), p.weight...); }

    template <class T>
    struct Tape {
      T *probability = nullptr, *log_sum = nullptr;  // [rows, count], [rows]: only when training, as all of this
      T *load = nullptr, *value = nullptr;           // [count], [1]
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent extent) {
        if (!extent.training) return;
        probability = arena.template take<T>(extent.rows * count);
        log_sum = arena.template take<T>(extent.rows);
        load = arena.template take<T>(count);
        value = arena.template take<T>(1);
      }
    };

    /// The scores of a forward or their gradient in a backward; what is left serves the products.
    template <class T>
    struct Scratch {
      T* score;
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows) : score(arena.template take<T>(rows * count)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent extent) {
      return planned_bytes<Scratch<T>>(extent.rows) +
             larger(product_workspace<T, Storage, count, width>(extent),
                    extent.training ? Balance<exec::Inline, T, count, most>::workspace_bytes(extent.rows) : 0);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           const Choice<T, most>& choice, const Tape<T>& tape) {
      const Index rows = call.batch.rows;
      Arena arena = call.arena;
      const Scratch<T> scratch(arena, rows);
      ops::Matmul<Space, T, count, width>::forward(call.space, arena, rows, x.data, p.weight, static_cast<const T*>(nullptr),
                                                   scratch.score);
      ops::ChooseSoftmax<Space, T, count, most>::forward(call.space, rows, most, options.renormalise, scratch.score,
                                                         choice.expert, choice.weight, tape.probability, tape.log_sum);
      if (tape.probability != nullptr)
        Balance<Space, T, count, most>::forward(call.space, arena, rows, T(options.balance), T(options.z), choice.expert,
                                                tape.probability, tape.log_sum, tape.load, tape.value);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, const Choice<T, most>& choice, const T* dweight,
                                            Rows<T, width> dx, Parameters<T, Flat>& gradient) {
      using Product = ops::Matmul<Space, T, count, width>;
      const Index rows = call.batch.rows;
      Arena arena = call.arena;
      const Scratch<T> scratch(arena, rows);
      ops::ChooseSoftmax<Space, T, count, most>::backward(call.space, rows, options.renormalise, choice.expert, choice.weight,
                                                          tape.probability, dweight, scratch.score);
      if (call.auxiliary != 0)
        Balance<Space, T, count, most>::backward(call.space, rows, static_cast<T>(call.auxiliary) * T(options.balance),
                                                 static_cast<T>(call.auxiliary) * T(options.z), tape.probability, tape.log_sum,
                                                 tape.load, scratch.score);
      Product::backward_input(call.space, arena, rows, scratch.score, p.weight, dx.data);
      Product::backward_weight(call.space, arena, rows, x.data, scratch.score, gradient.weight, static_cast<T*>(nullptr));
    }

    template <class T>
    HYBRIDMOE_FUNCTION static Losses<T> losses(const Tape<T>& tape) {
      return {tape.value, tape.load};
    }

    static constexpr Spread active_parameters() { return Spread::always(count * width); }
    static constexpr Flops flops_per_token() { return Flops::product(static_cast<double>(count * width)); }
  };
};

}  // namespace hybridmoe::router
