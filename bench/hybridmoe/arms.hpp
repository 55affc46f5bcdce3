#pragma once
// The models of docs/results/hybridmoe-plan.md, each under the name that the plan gives it. ARM chooses one when arm.cpp is
// compiled.

#include <hybridmoe/hybridmoe.hpp>
#include <hybridmoe/zoo/hybridmoe.hpp>

namespace arms {

namespace hm = hybridmoe;
using hm::Index;

#if !defined(CONTEXT)
#define CONTEXT 256
#endif

constexpr hm::zoo::HybridSizes pico_sizes(Index shared_hidden, Index fixed_window = 0) {
  hm::zoo::HybridSizes s = hm::zoo::hybrid_pico;
  s.context = CONTEXT;
  s.shared.hidden = shared_hidden;
  s.fixed_window = fixed_window;
  s.rewind = 0;
  return s;
}
constexpr Index pico_hidden = hm::zoo::hybrid_pico.shared.hidden;
using Layers = hm::Pattern<"GLLM">;
using WithMechanism = hm::Pattern<"GLAM">;  // its third layer chooses how it attends
struct Full : hm::zoo::HybridModel<pico_sizes(pico_hidden), Layers> {};

constexpr double forward(auto model) { return hm::Account<decltype(model)>::flops_per_token(256).forward; }
constexpr auto active(auto model) { return hm::Account<decltype(model)>::active_parameters().target; }

/// The width, `first` plus a multiple of `by`, at which a cost comes nearest to `wanted`. It is linear in the width: `at_first`
/// at the first, `after` one `by` further.
constexpr Index nearest_width(double wanted, Index first, double at_first, Index by, double after) {
  return first + by * (static_cast<Index>((wanted - at_first) / (after - at_first) + 1000.5) - 1000);
}
constexpr bool within_1_percent(double of, double wanted) { return of < 1.01 * wanted && of > 0.99 * wanted; }

// By way of a base that takes values only: g++ 12 fails on a model whose sizes are an expression of template parameters.
template <hm::zoo::HybridSizes sizes, hm::zoo::HybridParts parts, class Pattern>
struct HybridOf : hm::zoo::HybridModel<sizes, Pattern, parts> {};
template <Index hidden, Index fixed_window, hm::zoo::HybridParts parts, class Pattern = Layers>
struct Hybrid : HybridOf<pico_sizes(hidden, fixed_window), parts, Pattern> {};

/// full with other parts or layers, and the shared expert widened (or narrowed) until a token's nominal forward FLOPs are full's.
template <hm::zoo::HybridParts parts, Index fixed_window = 0, class Pattern = Layers>
struct Refilled {
  template <Index hidden>
  using At = Hybrid<hidden, fixed_window, parts, Pattern>;
  static constexpr double wanted = forward(Full{});
  static constexpr Index hidden =
      nearest_width(wanted, pico_hidden, forward(At<pico_hidden>{}), 4, forward(At<pico_hidden + 4>{}));
  using Model = At<hidden>;
  static_assert(hidden > 0 && within_1_percent(forward(Model{}), wanted));
};

using FullTypes = hm::zoo::HybridTypes<pico_sizes(pico_hidden), hm::zoo::HybridParts{}>;
/// full with another channel mixer, which knows no budget, in its experts' place.
template <class Other>
struct OtherChannelTypes : FullTypes {
  template <char letter, class Mixer>
  using SlotOf = hm::Slot<letter, hm::Block<Mixer, Other, hm::block::Norm<FullTypes::Before>, FullTypes::After>>;
};
template <template <Index> class Channel, Index hidden>
struct OtherChannel
    : hm::zoo::HybridModel<pico_sizes(pico_hidden), Layers, hm::zoo::HybridParts{}, OtherChannelTypes<Channel<hidden>>> {};
/// The same at equal nominal forward FLOPs.
template <template <Index> class Channel>
struct EqualChannel {
  static constexpr double wanted = forward(Full{});
  static constexpr Index hidden =
      nearest_width(wanted, 32, forward(OtherChannel<Channel, 32>{}), 1, forward(OtherChannel<Channel, 33>{}));
  using Model = OtherChannel<Channel, hidden>;
  static_assert(within_1_percent(forward(Model{}), wanted));
};
template <Index hidden>
struct Dense : hm::channel::SwiGlu<hidden> {};
template <Index hidden>
struct FixedK
    : hm::channel::Moe<hm::Experts{.count = 8, .active = 2, .hidden = 96}, hm::router::TopK<>, hm::channel::SwiGlu<hidden>> {};

/// A source whose segments' vectors stay out of the stack's input: their weights are zero at the start, and do not move.
template <class Source>
struct TokensAlone {
  template <class Env>
  struct Layer : Source::template Layer<Env> {
    static void visit(auto&& f, const hm::Name& at, auto&... p) {
      const auto hold = [&](const hm::Name& name, hm::Trait trait, auto&... tensor) {
        if (name.text().ends_with("output.weight")) trait.speed = 0;
        f(name, trait, tensor...);
      };
      Source::template Layer<Env>::visit(hold, at, p...);
    }
  };
};
/// full with the tokens' own scale alone: segments are cut, but neither the stack's input, nor attention, nor routers read them.
template <hm::zoo::HybridSizes sizes>
struct TokenScaleTypes : hm::zoo::HybridTypes<sizes, hm::zoo::HybridParts{.segments = false}, hm::control::ByteClasses> {
  using Base = hm::zoo::HybridTypes<sizes, hm::zoo::HybridParts{.segments = false}, hm::control::ByteClasses>;
  using All = hm::Sources<typename Base::Estimator, typename Base::Control, TokensAlone<typename Base::Segments>>;
};
template <hm::zoo::HybridSizes sizes>
struct TokenScaleOf : hm::zoo::HybridModel<sizes, Layers, hm::zoo::HybridParts{.segments = false}, TokenScaleTypes<sizes>> {};
template <Index hidden>
struct TokenScale : TokenScaleOf<pico_sizes(hidden)> {};
struct EqualTokenScale {
  static constexpr double wanted = forward(Full{});
  static constexpr Index hidden =
      nearest_width(wanted, pico_hidden, forward(TokenScale<pico_hidden>{}), 4, forward(TokenScale<pico_hidden + 4>{}));
  using Model = TokenScale<hidden>;
  static_assert(within_1_percent(forward(Model{}), wanted));
};

using QueryKey = hm::attention::NormedQueryKey<>;
constexpr hm::Heads heads = hm::zoo::hybrid_pico.heads;
constexpr hm::LanguageSizes outer{.vocab = 256, .width = hm::zoo::hybrid_pico.width, .context = CONTEXT};
template <class Channel>
using Plain =
    hm::LanguageModel<outer, hm::Pattern<"GLLL">, hm::Slot<'G', hm::Block<hm::attention::Full<heads, QueryKey>, Channel>>,
                      hm::Slot<'L', hm::Block<hm::attention::Local<heads, 128, QueryKey>, Channel>>>;
template <template <Index> class Channel, Index hidden>
struct PlainAt : Plain<Channel<hidden>> {};
/// The plain model of a family of channel mixers whose active parameters are nearest to full's.
template <template <Index> class Channel>
struct EqualActive {
  static constexpr double wanted = static_cast<double>(active(Full{}));
  static constexpr Index hidden = nearest_width(wanted, 32, static_cast<double>(active(PlainAt<Channel, 32>{})), 1,
                                                static_cast<double>(active(PlainAt<Channel, 33>{})));
  using Model = PlainAt<Channel, hidden>;
  static_assert(within_1_percent(static_cast<double>(active(Model{})), wanted));
};

using Parts = hm::zoo::HybridParts;
constexpr Parts skeleton_parts{.windows = false,
                               .segments = false,
                               .adaptive_norm = false,
                               .complexity = false,
                               .controller = false,
                               .dynamic_experts = false,
                               .elastic = false,
                               .modulation = false,
                               .stand_in = false};

/// How an arm trains, where it is not like full.
struct Training {
  bool sampled = true;
  bool leaning = false;  // twins' budgets lean to lower ones, so that no budget is far behind a model for it alone
  double budget = 1;
  bool twins_teach = true;
};

template <class Model_, Training training_ = Training{}>
struct Arm {
  using Model = Model_;
  static constexpr Training training = training_;
};
constexpr Training plain_training{.sampled = false};

#if !defined(MEAN_WINDOW)
#define MEAN_WINDOW 48
#endif
#if !defined(TIME_HIDDEN)
#define TIME_HIDDEN 1344
#endif

struct full : Arm<Full> {};
struct dense_active : Arm<EqualActive<Dense>::Model, plain_training> {};
struct dense_time : Arm<PlainAt<Dense, TIME_HIDDEN>, plain_training> {};
struct dense_half_more : Arm<PlainAt<Dense, EqualActive<Dense>::hidden * 3 / 2>, plain_training> {};
struct dense_twice : Arm<PlainAt<Dense, EqualActive<Dense>::hidden * 2>, plain_training> {};
struct fixed_k : Arm<EqualActive<FixedK>::Model, plain_training> {};
struct skeleton : Arm<hm::zoo::HybridModel<pico_sizes(pico_hidden), Layers, skeleton_parts>, plain_training> {};
struct windows_fixed : Arm<Refilled<Parts{.windows = false}, MEAN_WINDOW>::Model> {};
struct key_tokens_none : Arm<Refilled<Parts{.key_tokens = false}>::Model> {};
struct key_tokens_warm : Arm<Refilled<Parts{.warm_keys = true}>::Model> {};
struct key_tokens_random : Arm<Refilled<Parts{.random_keys = true}>::Model> {};
struct experts_fixed : Arm<Refilled<Parts{.dynamic_experts = false}>::Model> {};
struct experts_dense : Arm<EqualChannel<Dense>::Model> {};
struct experts_top_k : Arm<EqualChannel<FixedK>::Model> {};
struct experts_random_count : Arm<Refilled<Parts{.random_count = true}>::Model> {};
struct experts_random : Arm<Refilled<Parts{.random_experts = true}>::Model> {};
struct semantic_none : Arm<Refilled<Parts{.semantic = false}>::Model> {};
struct elastic_none : Arm<Refilled<Parts{.elastic = false}>::Model> {};
struct stand_in_none : Arm<Refilled<Parts{.stand_in = false}>::Model> {};
struct segments_none : Arm<Refilled<Parts{.segments = false}>::Model> {};
struct segments_tokens : Arm<EqualTokenScale::Model> {};
struct segments_fixed : Arm<Refilled<Parts{.fixed_segments = true}>::Model> {};
struct segments_random : Arm<Refilled<Parts{.random_segments = true}>::Model> {};
struct complexity_none : Arm<Refilled<Parts{.complexity = false}>::Model> {};
struct joining_none : Arm<Refilled<Parts{.joining = false}>::Model> {};
struct complexity_shuffled : Arm<Refilled<Parts{.shuffled_complexity = true}>::Model> {};
struct controller_none : Arm<Refilled<Parts{.controller = false}>::Model> {};
struct controller_constant : Arm<Refilled<Parts{.constant_controller = true}>::Model> {};
struct mechanism : Arm<Refilled<Parts{}, 0, WithMechanism>::Model> {};
struct mechanism_constant : Arm<Refilled<Parts{.constant_controller = true}, 0, WithMechanism>::Model> {};
struct norm_rms : Arm<Refilled<Parts{.adaptive_norm = false}>::Model> {};
struct budgets_none : Arm<Full, plain_training> {};
struct budget_half : Arm<Full, Training{.sampled = false, .budget = 0.5}> {};
struct budget_quarter : Arm<Full, Training{.sampled = false, .budget = 0.25}> {};
struct full_leaning : Arm<Full, Training{.leaning = true}> {};
struct twins_none : Arm<Full, Training{.twins_teach = false}> {};

/// How the plan trains an arm.
template <class Chosen>
hm::train::Options options(std::uint64_t seed, Index steps, double rate) {
  hm::train::Options options{.batch = 8 * 256 / CONTEXT, .length = CONTEXT};
  options.schedule = {.peak = rate, .warmup = 50, .steps = steps, .last = 0.1};
  options.seed = seed;
  options.budgets.sampled = Chosen::training.sampled;
  if (Chosen::training.leaning) options.budgets.above = 0.125, options.budgets.lean = 1.75, options.budgets.evenly = true;
  if (!Chosen::training.twins_teach) options.budgets.twin_loss = options.budgets.gain_loss = 0;
  options.budgets.fixed.budget = Chosen::training.budget;
  return options;
}

}  // namespace arms
