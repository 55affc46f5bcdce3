#pragma once
/// @file hybridmoe.hpp
/// HybridMoE: a decoder that decides below a compute budget: for blocks of positions how far it looks, per token how many
/// experts it asks and how much it normalises. Letters: G latent attention over everything, L a window of adaptive size, M key
/// tokens and the window beside attention to closed segments, A an attention whose mechanism the controller chooses. Every part
/// is a layer or a source of its own (docs/parts/), and can be left out here for comparison.

#include <hybridmoe/attention/adaptive.hpp>
#include <hybridmoe/attention/cross_scale.hpp>
#include <hybridmoe/attention/latent.hpp>
#include <hybridmoe/attention/together.hpp>
#include <hybridmoe/channel/hybrid_moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/control/complexity.hpp>
#include <hybridmoe/control/controller.hpp>
#include <hybridmoe/embedding/segments.hpp>
#include <hybridmoe/model/language_model.hpp>
#include <hybridmoe/norm/adaptive.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::zoo {

/// An estimator that learns from what computing was worth alone (docs/parts/control.md), and a small one of bytes. It looks at
/// few tokens, so that it notices soon where text changes.
inline constexpr control::ComplexityOptions of_gains{.recent = 8, .speed = 4, .joining = 4, .uses = false};
inline constexpr control::ComplexityOptions of_gains_in_bytes{.recent = of_gains.recent,
                                                              .rank = 16,
                                                              .classes = 64,
                                                              .speed = of_gains.speed,
                                                              .joining = of_gains.joining,
                                                              .uses = of_gains.uses};

/// The numbers of a HybridMoE.
struct HybridSizes {
  Index vocab, width, context;
  Heads heads{};                                     ///< of L, M and A; G has as many query heads
  Index latent = 512, rotary = 64;                   ///< of G: what is kept of a token
  Index query_rank = 0;                              ///< of G: 0 for queries without a latent
  Experts experts{};                                 ///< routed; active {0, most}
  float nominal = 2;                                 ///< experts that a token gets in the mean, at full budget
  channel::SharedPlus shared{};                      ///< the elastic shared expert
  attention::Window window{};                        ///< of L, M and A
  Index fixed_window = 0;                            ///< without adaptive windows: their size, 0 for the largest
  attention::Store store{};                          ///< key tokens of M and A
  Heads cross{};                                     ///< of cross-scale attention in M
  SegmentLimits limits{};                            ///< of phrases, sentences and paragraphs
  Index block = 64;                                  ///< positions that the controller decides for together
  control::ComplexityOptions complexity = of_gains;  ///< of the estimator
  bool tied = true;
  Index chunk = 128, rewind = 16;
};

/// Which parts a HybridMoE has: all, unless a comparison leaves some out or puts a placebo in a part's place.
struct HybridParts {
  bool latent = true;         ///< G is latent attention; otherwise full attention on the heads of L
  bool windows = true;        ///< windows of adaptive size; otherwise the largest
  bool key_tokens = true;     ///< in M; otherwise a window alone
  bool segments = true;       ///< segments, their vectors in the stack's input, and cross-scale attention in M
  bool adaptive_norm = true;  ///< otherwise RMSNorm
  bool post_norm = true;      ///< RMSNorm after attention
  bool complexity = true;     ///< the estimator
  bool joining = true;        ///< its features in the stack's input
  bool controller = true;
  bool dynamic_experts = true;  ///< 0 … K by thresholds; otherwise the nominal number
  bool semantic = true;         ///< centroids beside linear scores
  bool elastic = true;          ///< slices of the shared expert
  bool modulation = true, stand_in = true;
  /// Whether scorers of M and A learn from full attention too (scorer::Warm, docs/parts/attention.md). Off by default: where a
  /// pattern has a G and windows of half its context, nothing was gained by it.
  bool warm_keys = false;
  // Placebos: the same cost, the decision taken without looking.
  bool random_count = false, random_experts = false, random_keys = false, fixed_segments = false, random_segments = false,
       shuffled_complexity = false, constant_controller = false;
};

/// The types that a HybridMoE is made of.
/// @tparam Classes  what ids mean to the estimator (control/classes.hpp). Only of bytes, with some tokens of one's own behind
/// them,
///                  can it be known here: a larger vocabulary has no syntax unless its type is given.
template <HybridSizes s, HybridParts parts,
          class Classes = std::conditional_t<s.vocab <= 512, control::ByteClasses, control::NoClasses>>
struct HybridTypes {
  using QueryKey = attention::NormedQueryKey<>;
  using Size = std::conditional_t<parts.windows, attention::window::Decided, attention::window::Fixed<s.fixed_window>>;
  using Scorer = std::conditional_t<parts.random_keys, attention::scorer::Random<>, attention::scorer::Learned<>>;
  using Warm = std::conditional_t<parts.warm_keys, attention::scorer::Warm<>, attention::scorer::Cold>;
  static constexpr Index segment = s.width / 4;
  static constexpr attention::LatentHeads latent{.heads = s.heads.query,
                                                 .latent = s.latent,
                                                 .rotary = s.rotary,
                                                 .size = s.heads.size,
                                                 .value = s.heads.size,
                                                 .query_rank = s.query_rank};
  using Global = std::conditional_t<parts.latent, attention::Latent<latent>, attention::Full<s.heads, QueryKey>>;
  using Local = attention::AdaptiveLocal<s.heads, s.window, QueryKey, Size>;
  using Keys =
      std::conditional_t<parts.key_tokens, attention::KeyTokens<s.heads, s.window, s.store, QueryKey, Size, Scorer, Warm>, Local>;
  using Cross = attention::CrossScale<s.cross, attention::CrossScaleOptions{.limits = s.limits, .segment = segment}>;
  using Mixed = std::conditional_t<parts.segments, attention::Together<Keys, Cross>, Keys>;
  using Adaptive = attention::TriModal<s.heads, s.window, s.store, QueryKey, Size, Scorer, Warm>;

  static constexpr channel::SharedPlus shared{.hidden = s.shared.hidden,
                                              .slices = parts.elastic ? s.shared.slices : 1,
                                              .modulation = parts.modulation ? s.shared.modulation : 0,
                                              .stand_in = s.shared.stand_in && parts.stand_in,
                                              .distil = s.shared.distil};
  using Router = router::Dynamic<router::DynamicOptions{.target = s.nominal,
                                                        .semantic = parts.semantic ? 32 : 0,
                                                        .context = parts.semantic&& parts.segments ? 2 * segment : 0,
                                                        .adaptive = parts.dynamic_experts,
                                                        .placebo = parts.random_count     ? router::Placebo::random_count
                                                                   : parts.random_experts ? router::Placebo::random_experts
                                                                                          : router::Placebo::none}>;
  using Channel = channel::HybridMoe<s.experts, shared, Router>;

  using Before = std::conditional_t<parts.adaptive_norm, norm::Adaptive<>, norm::Rms<>>;
  using After = std::conditional_t<parts.post_norm, block::PostNorm<norm::Rms<>>, block::Sequential>;
  template <char letter, class Mixer>
  using SlotOf = Slot<letter, Block<Mixer, Channel, block::Norm<Before>, After>>;

  using Timing = std::conditional_t<parts.shuffled_complexity, control::Shuffled<>, control::AsItIs>;
  using Boundaries = std::conditional_t<parts.fixed_segments, embedding::Fixed,
                                        std::conditional_t<parts.random_segments, embedding::Random, embedding::Learned>>;
  static constexpr control::ComplexityOptions complexity = [] {
    control::ComplexityOptions options = s.complexity;
    if (!parts.joining) options.joining = 0;
    return options;
  }();
  using Estimator = control::Complexity<complexity, Classes, Timing>;
  using Control = control::Controller<control::ControllerOptions{.block = s.block,
                                                                 .context = !parts.constant_controller,
                                                                 .complexity = !parts.constant_controller,
                                                                 .budget = !parts.constant_controller,
                                                                 .target = !parts.constant_controller}>;
  using Segments = embedding::Segments<embedding::SegmentOptions{.limits = s.limits, .width = segment}, Boundaries,
                                       embedding::NormedHierarchy>;

  template <bool present, class Source, class List>
  struct Prepend {
    using type = List;
  };
  template <class Source, class... Others>
  struct Prepend<true, Source, Sources<Others...>> {
    using type = Sources<Source, Others...>;
  };
  using OnlySegments = typename Prepend<parts.segments, Segments, Sources<>>::type;
  using FromController = typename Prepend<parts.controller, Control, OnlySegments>::type;
  using All = typename Prepend<parts.complexity, Estimator, FromController>::type;
};

/// The model. Name one by deriving from it, or from the sizes below.
template <HybridSizes s, class LayerPattern, HybridParts parts = HybridParts{}, class Types = HybridTypes<s, parts>>
using HybridModel = LanguageModel<
    LanguageSizes{.vocab = s.vocab, .width = s.width, .context = s.context, .tied = s.tied, .chunk = s.chunk, .rewind = s.rewind},
    LayerPattern, typename Types::template SlotOf<'G', typename Types::Global>,
    typename Types::template SlotOf<'L', typename Types::Local>, typename Types::template SlotOf<'M', typename Types::Mixed>,
    typename Types::template SlotOf<'A', typename Types::Adaptive>, typename Types::All>;

// The proposal's sizes. For vocabularies of this size the estimator predicts hashed classes, and knows no syntax.

inline constexpr HybridSizes hybrid_small{.vocab = 131072,
                                          .width = 2048,
                                          .context = 131072,
                                          .heads = Heads{16, 4, 128},
                                          .query_rank = 768,
                                          .experts = Experts{.count = 64, .active = {0, 4}, .hidden = 552},
                                          .nominal = 2.5f,
                                          .shared = channel::SharedPlus{.hidden = 7680},
                                          .cross = Heads{4, 1, 64}};
inline constexpr HybridSizes hybrid_medium{.vocab = 131072,
                                           .width = 4096,
                                           .context = 131072,
                                           .heads = Heads{32, 8, 128},
                                           .query_rank = 1536,
                                           .experts = Experts{.count = 128, .active = {0, 8}, .hidden = 752},
                                           .nominal = 4.5f,
                                           .shared = channel::SharedPlus{.hidden = 15360},
                                           .cross = Heads{8, 2, 64},
                                           .tied = false};
inline constexpr HybridSizes hybrid_large{.vocab = 131072,
                                          .width = 8192,
                                          .context = 131072,
                                          .heads = Heads{64, 16, 128},
                                          .query_rank = 2048,
                                          .experts = Experts{.count = 256, .active = {0, 12}, .hidden = 816},
                                          .nominal = 6.5f,
                                          .shared = channel::SharedPlus{.hidden = 8448},
                                          .cross = Heads{16, 4, 64},
                                          .tied = false};
/// For one machine: about 9 million parameters, 2 million active, 256 bytes as tokens.
inline constexpr HybridSizes hybrid_nano{.vocab = 256,
                                         .width = 128,
                                         .context = 512,
                                         .heads = Heads{4, 2, 32},
                                         .latent = 64,
                                         .rotary = 16,
                                         .experts = Experts{.count = 16, .active = {0, 4}, .hidden = 160},
                                         .nominal = 2,
                                         .shared = channel::SharedPlus{.hidden = 128},
                                         .window = attention::Window{.least = 32, .most = 128, .ramp = 8},
                                         .store = attention::Store{.entries = 64, .candidates = 4, .block = 16},
                                         .cross = Heads{2, 1, 32},
                                         .block = 16,
                                         .complexity = of_gains_in_bytes};
/// For experiments on two cores: about 1.2 million parameters, 0.57 million active.
inline constexpr HybridSizes hybrid_pico{.vocab = 256,
                                         .width = 96,
                                         .context = 512,
                                         .heads = Heads{3, 1, 32},
                                         .latent = 48,
                                         .rotary = 16,
                                         .experts = Experts{.count = 8, .active = {0, 4}, .hidden = 96},
                                         .nominal = 2,
                                         .shared = channel::SharedPlus{.hidden = 96, .modulation = 8},
                                         .window = attention::Window{.least = 32, .most = 128, .ramp = 8},
                                         .store = attention::Store{.entries = 64, .candidates = 4, .block = 16},
                                         .cross = Heads{1, 1, 32},
                                         .block = 16,
                                         .complexity = of_gains_in_bytes};

struct HybridSmall : HybridModel<hybrid_small, Pattern<"GLLM", layers<24>>> {};
struct HybridMedium : HybridModel<hybrid_medium, Pattern<"GLLLML", layers<48>>> {};
struct HybridLarge : HybridModel<hybrid_large, Pattern<"GLLLLML", layers<72>>> {};
struct HybridNano : HybridModel<hybrid_nano, Pattern<"GLLM", layers<8>>> {};
struct HybridPico : HybridModel<hybrid_pico, Pattern<"GLLM">> {};

}  // namespace hybridmoe::zoo
