#pragma once
/// @file dynamic.hpp
/// The router that gives a token as many experts as it is worth: none to `most`, under a budget that no learned value exceeds.
///
///   z_e = W_e·x + κ·cos(a, C_e) + u_e      a = P·[x; context; c]: similarity to learned centroids (X-MoE, Chi et al. 2022)
///   θ   = max(τ, (1−f)·z₍m+1₎ + f·z₍m+2₎)   m = ⌊K̃⌋, f = K̃ − m, K̃ = K(β)·spent         (dynamic_rule.hpp)
///   spent = 1 − (1 − q)·(1 − decision): a target of 1 leaves the number to τ alone
///   g_e = 1 − exp(−(z_e − θ)₊/T)            y = Σ_{g>0} g_e·E_e(x), not renormalised
///   τ   = T(β) + a·(½ − c)                  T(β): six knots that an integral controller moves until the mean number of experts
///                                           is what is wanted (no sparsity loss); u: moved by the sign of the load's error
///                                           (Wang et al., "Auxiliary-loss-free load balancing", 2024)

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/router/dynamic_backward.hpp>
#include <hybridmoe/router/router.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

struct DynamicOptions {
  float target = 2;      ///< experts that a token gets in the mean, at full budget
  Index semantic = 32;   ///< rank of the space of centroids; 0: linear scores alone
  Index context = 0;     ///< width of stream::Context, 2·(segment width); 0: not read
  bool adaptive = true;  ///< false: K̃ = target·K(β)/most for every token, no τ
  bool offset = false;   ///< a learned number is added to τ; T(β) of the same layer answers it
  Placebo placebo = Placebo::none;
  float warm = 0.15f;        ///< part of training in which the mean that is wanted falls from `most` to the target
  float balance = 1e-3f;     ///< rate of u, per step
  float control = 1e-2f;     ///< rate of T(β), per step and expert that is missing
  float z = 1e-4f;           ///< coefficient of the z-loss
  float temperature = 0.3f;  ///< T at the start
  float slope = 5;           ///< a at the start: how far a complexity that learned what computing gains is trusted
  double expert_flops = 0;   ///< forward FLOPs of an expert, for the price of weights; 0 where the channel mixer charges them
};

/// Tensors: weight [count, width], projection [semantic, width], context_projection [semantic, context], complexity_projection
/// [semantic], centroid [count, semantic], similarity [1] κ, bias [count] u, log_temperature [1], knots [6], slope [1],
/// offset [1]. Reads Complexity, Decisions, Context, Budget, Target; reports Used::experts and Used::weight.
template <DynamicOptions options = DynamicOptions{}>
struct Dynamic {
  template <Index least, Index most>
  static constexpr bool accepts = least == 0;

  template <class Environment, Index count_, Index least_, Index most_>
  struct Layer {
    static_assert(least_ == 0, "router::Dynamic may give a token no expert at all: Experts::active must be {0, most}");
    static_assert(most_ > 0 && most_ + 2 <= count_, "router::Dynamic needs two experts more than a token can get");
    static_assert(options.target > 0 && static_cast<double>(options.target) <= static_cast<double>(most_),
                  "DynamicOptions::target must lie above 0 and not above the most experts of a token");
    static_assert(options.temperature > 0, "DynamicOptions::temperature must be positive");
    static_assert(options.semantic >= 0 && options.context >= 0, "DynamicOptions: a width is negative");
    static_assert(options.semantic > 0 || options.context == 0, "DynamicOptions::context is read by semantic scores only");

    static constexpr Index width = Environment::width;
    static constexpr Index count = count_, least = 0, most = most_;
    static constexpr double nominal = static_cast<double>(options.target);
    static constexpr Index target = static_cast<Index>(nominal + 0.5);
    static constexpr bool causal = true;
    static constexpr Index rank = options.semantic, context = options.context;
    static constexpr StreamShapes takes = StreamShapes{}.with<stream::Context>(context);
    /// Whether τ takes part.
    static constexpr bool thresholded = options.adaptive && options.placebo != Placebo::random_count;
    static constexpr bool offset = thresholded && options.offset;

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, count, width> weight;
      [[no_unique_address]] Optional<(rank > 0), Weight<T, Storage, rank, width>, 20> projection;
      [[no_unique_address]] Optional<(context > 0), Weight<T, Storage, rank, context>, 21> context_projection;
      [[no_unique_address]] Optional<(rank > 0), Array<T, rank>, 22> complexity_projection;
      [[no_unique_address]] Optional<(rank > 0), Array<T, count, rank>, 23> centroid;
      [[no_unique_address]] Optional<(rank > 0), Array<T, 1>, 24> similarity;
      Array<T, count> bias;
      Array<T, 1> log_temperature;
      [[no_unique_address]] Optional<thresholded, Array<T, budget_knots>, 25> knots;
      [[no_unique_address]] Optional<thresholded, Array<T, 1>, 26> slope;
      [[no_unique_address]] Optional<offset, Array<T, 1>, 27> offset_value;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      f(at / "weight", Trait::weight(), p.weight...);
      if constexpr (rank > 0) {
        f(at / "projection", Trait::weight(), p.projection...);
        if constexpr (context > 0) f(at / "context_projection", Trait::weight(), p.context_projection...);
        f(at / "complexity_projection", Trait::bias(), p.complexity_projection...);
        f(at / "centroid", Trait::weight(0.2f), p.centroid...);
        f(at / "similarity", Trait::gain(1.0f), p.similarity...);
      }
      f(at / "bias", Trait::controlled(Update::sign, options.balance), p.bias...);
      f(at / "log_temperature", Trait::gain(log_start), p.log_temperature...);
      if constexpr (thresholded) {
        f(at / "knots", Trait::controlled(Update::integral, options.control), p.knots...);
        f(at / "slope", Trait::gain(options.slope), p.slope...);
      }
      if constexpr (offset) f(at / "offset", Trait::bias(), p.offset_value...);
    }

    template <class T>
    struct Tape {
      T *score, *probability, *projected;                       ///< [rows, count] z and its softmax ρ; [rows, rank] a
      T* log_sum = nullptr;                                     // [rows]: only when training, as what follows
      Threshold<T>* threshold = nullptr;                        // [rows]
      T *load = nullptr, *missing = nullptr, *value = nullptr;  // [count], [knots], [1]
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : score(arena.template take<T>(e.rows * count)),
            probability(arena.template take<T>(e.rows * count)),
            projected(arena.template take<T>(e.rows * rank)) {
        if (!e.training) return;
        log_sum = arena.template take<T>(e.rows);
        threshold = arena.template take<Threshold<T>>(e.rows);
        load = arena.template take<T>(count);
        missing = arena.template take<T>(budget_knots);
        value = arena.template take<T>(1);
      }
    };

    template <class T>
    struct ForwardScratch {
      T *inverse, *from_context;  // [count], [rows, rank]
      HYBRIDMOE_FUNCTION constexpr ForwardScratch(auto& arena, Index rows)
          : inverse(arena.template take<T>(rank > 0 ? count : 0)),
            from_context(arena.template take<T>(context > 0 ? rows * rank : 0)) {}
    };
    template <class T>
    struct SumScratch {
      T* partial;
      HYBRIDMOE_FUNCTION constexpr SumScratch(auto& arena, Index rows)
          : partial(arena.template take<T>(divide_up(rows, dynamic_block) * DynamicSumKernel<T, count, most>::sums)) {}
    };
    template <class T>
    struct BackwardScratch {
      T *inverse, *d_score, *d_cosine, *d_projected, *partial;
      HYBRIDMOE_FUNCTION constexpr BackwardScratch(auto& arena, Index rows)
          : inverse(arena.template take<T>(rank > 0 ? count : 0)),
            d_score(arena.template take<T>(rows * count)),
            d_cosine(arena.template take<T>(rank > 0 ? rows * count : 0)),
            d_projected(arena.template take<T>(rows * rank)),
            partial(arena.template take<T>(divide_up(rows, dynamic_block) * DynamicSums<count, rank>::size)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      Index products = product_workspace<T, Storage, count, width>(e);
      if constexpr (rank > 0) {
        products = larger(products, product_workspace<T, Storage, rank, width>(e));
        if constexpr (context > 0) products = larger(products, product_workspace<T, Storage, rank, context>(e));
        if (e.training) products = larger(products, matmul_scratch<T>(e.rows));
      }
      const Index forward = planned_bytes<ForwardScratch<T>>(e.rows);
      if (!e.training) return forward + products;
      return larger(forward + planned_bytes<SumScratch<T>>(e.rows), planned_bytes<BackwardScratch<T>>(e.rows) + products);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           const Choice<T, most>& choice, const Tape<T>& tape) {
      forward(call, p, x, choice, tape, Unbounded<T, most>{});
    }

    /// Also fills `unbounded`, as far as it is asked for.
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           const Choice<T, most>& choice, const Tape<T>& tape,
                                           const Unbounded<T, most>& unbounded) {
      const Space& space = call.space;
      const Index rows = call.batch.rows;
      Arena arena = call.arena;
      const ForwardScratch<T> s(arena, rows);
      const T* const none = nullptr;
      const T* from_context = nullptr;
      ops::Matmul<Space, T, count, width>::forward(space, arena, rows, x.data, p.weight, none, tape.score);
      if constexpr (rank > 0) {
        ops::Matmul<Space, T, rank, width>::forward(space, arena, rows, x.data, p.projection, none, tape.projected);
        space.each(count, CentroidLengthKernel<T, rank>{p.centroid.data, s.inverse});
        if constexpr (context > 0) {
          if (const T* const given = context_of<T>(call).value; given != nullptr) {
            ops::Matmul<Space, T, rank, context>::forward(space, arena, rows, given, p.context_projection, none, s.from_context);
            from_context = s.from_context;
          }
        }
      }
      const DynamicRule<T, most> rule = rule_of(call, p);
      space.each(divide_up(rows, dynamic_rows),
                 DynamicChoiceKernel<T, count, most, rank>{
                     rows, rule, semantic_of(p, s.inverse), p.bias.data, from_context, tape.projected, tape.score,
                     tape.probability, tape.log_sum, tape.threshold, choice.expert, choice.weight, unbounded,
                     call.side.template report<T>(call.layer, Used::experts),
                     call.side.template report<T>(call.layer, Used::weight), call.side.used_width});
      if (tape.value == nullptr) return;
      const SumScratch<T> sums(arena, rows);
      const Index blocks = divide_up(rows, dynamic_block);
      space.each(blocks, DynamicSumKernel<T, count, most>{rows, rule, call.price * options.expert_flops, choice.expert,
                                                          choice.weight, tape.log_sum, sums.partial});
      space.each(1, DynamicTotalKernel<T, count>{rows, blocks, T(options.z), sums.partial, tape.load, tape.missing, tape.value});
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, const Choice<T, most>& choice, const T* dweight,
                                            Rows<T, width> dx, Parameters<T, Flat>& gradient) {
      backward(call, p, x, tape, choice, dweight, dx, gradient, Unbounded<T, most>{}, BeyondWeights<T>{});
    }

    /// The same with gradients by what else was read of the router.
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, const Choice<T, most>& choice, const T* dweight,
                                            Rows<T, width> dx, Parameters<T, Flat>& gradient, const Unbounded<T, most>& unbounded,
                                            const BeyondWeights<T>& beyond) {
      const Space& space = call.space;
      const Index rows = call.batch.rows, blocks = divide_up(rows, dynamic_block);
      Arena arena = call.arena;
      const BackwardScratch<T> s(arena, rows);
      if constexpr (rank > 0) space.each(count, CentroidLengthKernel<T, rank>{p.centroid.data, s.inverse});
      const T auxiliary = static_cast<T>(call.auxiliary), share = rows > 0 ? auxiliary / static_cast<T>(rows) : T(0);
      const Semantic<T> semantic = semantic_of(p, s.inverse);
      space.each(blocks, DynamicBackwardKernel<T, count, most, rank>{rows,
                                                                     rule_of(call, p),
                                                                     semantic,
                                                                     T(2) * T(options.z) * share,
                                                                     share,
                                                                     call.price * options.expert_flops,
                                                                     tape.projected,
                                                                     tape.score,
                                                                     tape.probability,
                                                                     tape.log_sum,
                                                                     tape.threshold,
                                                                     choice.expert,
                                                                     choice.weight,
                                                                     dweight,
                                                                     unbounded,
                                                                     beyond,
                                                                     s.d_score,
                                                                     s.d_cosine,
                                                                     s.d_projected,
                                                                     s.partial});
      space.each(
          1, DynamicGradientKernel<T, count, rank>{
                 blocks, auxiliary, semantic, s.partial, tape.load, tape.missing, first_element<T, (rank > 0)>(gradient.centroid),
                 first_element<T, (rank > 0)>(gradient.similarity), first_element<T, (rank > 0)>(gradient.complexity_projection),
                 gradient.bias.data, gradient.log_temperature.data, first_element<T, thresholded>(gradient.knots),
                 first_element<T, thresholded>(gradient.slope), first_element<T, offset>(gradient.offset_value)});
      multiply_back<count>(call, arena, x.data, s.d_score, p.weight, dx.data, gradient.weight);
      if constexpr (rank > 0) {
        ops::Matmul<Space, T, count, rank>::backward_weight(space, arena, rows, tape.projected, s.d_cosine, gradient.centroid,
                                                            static_cast<T*>(nullptr));
        multiply_back<rank>(call, arena, x.data, s.d_projected, p.projection, dx.data, gradient.projection);
        if constexpr (context > 0) {
          const StreamRows<T> given = context_of<T>(call);
          if (given)
            multiply_back<rank>(call, arena, given.value, s.d_projected, p.context_projection, given.gradient,
                                gradient.context_projection);
        }
      }
    }

    template <class T>
    HYBRIDMOE_FUNCTION static Losses<T> losses(const Tape<T>& tape) {
      return {tape.value, tape.load};
    }

    // Accounting.
    static constexpr Index matrices = count * width + rank * width + count * rank;
    static constexpr Index small =
        (rank > 0 ? rank + 1 : 0) + count + 1 + (thresholded ? budget_knots + 1 : 0) + (offset ? 1 : 0);
    static constexpr Spread active_parameters() {
      const Index all = matrices + rank * context + small;
      return {matrices, all, all};
    }
    static constexpr Flops flops_per_token() { return Flops::product(static_cast<double>(matrices + rank * context)); }

   private:
    /// log T at the start; std::log is no constant expression everywhere.
    static constexpr float log_start = [] {
      double x = static_cast<double>(options.temperature), whole = 0;
      for (; x > 1.5; x /= 2) whole += 0.6931471805599453;
      for (; x < 0.75; x *= 2) whole -= 0.6931471805599453;
      const double t = (x - 1) / (x + 1);
      double term = t, sum = 0;
      for (int n = 1; n < 60; n += 2, term *= t * t) sum += term / n;
      return static_cast<float>(whole + 2 * sum);
    }();

    template <class T>
    static constexpr Index matmul_scratch(Index rows) {
      return ops::Matmul<exec::Inline, T, count, larger(rank, 1)>::workspace_bytes(rows, true);
    }

    template <class T, class Space>
    HYBRIDMOE_FUNCTION static StreamRows<T> context_of(const Call<Space>& call) {
      const StreamRows<T> rows = call.side.template rows<stream::Context, T>();
      HYBRIDMOE_ASSERT(!rows || rows.width == context);
      return rows;
    }

    /// Experts wanted in the mean at full budget at this point of training.
    template <class T, class Space>
    HYBRIDMOE_FUNCTION static T goal(const Call<Space>& call) {
      const double left = options.warm > 0 ? 1 - call.progress / static_cast<double>(options.warm) : 0.0;
      return static_cast<T>(nominal + (static_cast<double>(most) - nominal) * (left > 0 ? left : 0.0));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static DynamicRule<T, most> rule_of(const Call<Space>& call, const Parameters<T, Storage>& p) {
      const Side& side = call.side;
      HYBRIDMOE_ASSERT(options.placebo == Placebo::none || call.batch.row_position != nullptr || call.batch.rows == 0);
      return {side.template rows<stream::Complexity, T>(),
              side.template rows<stream::Decisions, T>(),
              side.template rows<stream::Budget, T>(),
              side.template rows<stream::Target, T>(),
              call.layer * Decision::fields + Decision::experts,
              call.batch.row_position,
              call.layer,
              goal<T>(call),
              options.adaptive,
              options.placebo,
              p.log_temperature.data,
              first_element<const T, thresholded>(p.knots),
              first_element<const T, thresholded>(p.slope),
              first_element<const T, offset>(p.offset_value)};
    }
    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static Semantic<T> semantic_of(const Parameters<T, Storage>& p, const T* inverse) {
      return {first_element<const T, (rank > 0)>(p.centroid), inverse, first_element<const T, (rank > 0)>(p.similarity),
              first_element<const T, (rank > 0)>(p.complexity_projection)};
    }
    /// d_input (unless null) and d_weight of a product.
    template <Index out, class Space, class T, Index in>
    HYBRIDMOE_FUNCTION static void multiply_back(const Call<Space>& call, const Arena& arena, const T* input, const T* dy,
                                                 const Array<T, out, in>& weight, T* d_input, Array<T, out, in>& d_weight) {
      using Product = ops::Matmul<Space, T, out, in>;
      if (d_input != nullptr) Product::backward_input(call.space, arena, call.batch.rows, dy, weight, d_input);
      Product::backward_weight(call.space, arena, call.batch.rows, input, dy, d_weight, static_cast<T*>(nullptr));
    }
  };
};

}  // namespace hybridmoe::router
