// HybridMoE's parts, each alone in a model of other parts: what each is called and takes.
#include <cstdio>

#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;

constexpr hm::LanguageSizes sizes{.vocab = 256, .width = 128, .context = 512};
constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 32};
using Gated = hm::channel::SwiGlu<256>;
using Full = hm::attention::Full<heads>;
template <class Block, class... Options>
using One = hm::LanguageModel<sizes, hm::Pattern<"X", hm::layers<4>>, hm::Slot<'X', Block>, Options...>;

//! [windows]
constexpr hm::attention::Window window{.least = 32, .most = 128, .ramp = 8};
constexpr hm::attention::Store store{.entries = 64, .candidates = 4, .block = 16};
using Local = hm::attention::AdaptiveLocal<heads, window>;         // L
using KeyTokens = hm::attention::KeyTokens<heads, window, store>;  // M
using TriModal = hm::attention::TriModal<heads, window, store>;    // A
//! [windows]
struct Windows : One<hm::Block<Local, Gated>> {};
struct Keys : One<hm::Block<KeyTokens, Gated>> {};
struct Mechanisms : One<hm::Block<TriModal, Gated>> {};

//! [latent]
constexpr hm::attention::LatentHeads latent{.heads = 4, .latent = 64, .rotary = 16, .size = 32, .value = 32, .query_rank = 48};
using Global = hm::attention::Latent<latent>;
using Expanded = hm::attention::Latent<latent, hm::attention::Expanded>;  // the same parameters, another form
//! [latent]
struct Latent : One<hm::Block<Global, Gated>> {};
struct LatentExpanded : One<hm::Block<Expanded, Gated>> {};

//! [router]
constexpr hm::router::DynamicOptions routing{.target = 2, .semantic = 32, .expert_flops = 6.0 * 128 * 160};
using Mixture = hm::channel::Moe<hm::Experts{.count = 16, .active = {0, 4}, .hidden = 160}, hm::router::Dynamic<routing>, Gated>;
//! [router]
struct Routed : One<hm::Block<Full, Mixture>> {};

//! [experts]
constexpr hm::Experts experts{.count = 16, .active = {0, 4}, .hidden = 160};
constexpr hm::channel::SharedPlus shared{.hidden = 128, .slices = 4, .modulation = 16};
using Elastic = hm::channel::HybridMoe<experts, shared>;
//! [experts]
struct Shared : One<hm::Block<Full, Elastic>> {};

//! [segments]
constexpr hm::attention::CrossScaleOptions cross{.segment = 32};
using Scales = hm::attention::Together<hm::attention::Local<heads, 64>, hm::attention::CrossScale<hm::Heads{2, 1, 32}, cross>>;
struct Segmented
    : hm::LanguageModel<sizes, hm::Pattern<"LC", hm::layers<4>>, hm::Slot<'L', hm::Block<hm::attention::Local<heads, 64>, Gated>>,
                        hm::Slot<'C', hm::Block<Scales, Gated>>, hm::Sources<hm::embedding::Segments<>>> {};
//! [segments]

//! [control]
using Sources = hm::Sources<hm::control::Complexity<>,   // sets stream::Complexity: c of every row
                            hm::control::Controller<>>;  // reads it, the budget and the target; sets stream::Decisions
//! [control]
struct Controlled : One<hm::Block<Local, Elastic>, Sources> {};

//! [norm]
using Normed = hm::Block<hm::attention::Full<heads, hm::attention::NormedQueryKey<>>, Gated,
                         hm::block::Norm<hm::norm::Adaptive<>>, hm::block::PostNorm<hm::norm::Rms<>>>;
//! [norm]
struct Norms : One<Normed> {};

template <class Model>
void show(const char* part) {
  using Cost = hm::Account<Model>;
  std::printf("%-20s %8lld parameters, %8lld active; C(0)/C(1) = %.2f\n", part, static_cast<long long>(Cost::parameters()),
              static_cast<long long>(Cost::active_parameters().target), Cost::capped_flops(512, 0) / Cost::capped_flops(512, 1));
}

int main() {
  show<Windows>("adaptive windows");
  show<Keys>("key tokens");
  show<Mechanisms>("three mechanisms");
  show<Latent>("latent attention");
  show<LatentExpanded>("latent, expanded");
  show<Routed>("dynamic router");
  show<Shared>("elastic expert");
  show<Segmented>("segments");
  show<Controlled>("controller");
  show<Norms>("adaptive norm");
}
