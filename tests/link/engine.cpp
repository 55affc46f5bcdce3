// What an engine compiles: a model that runs in the engine's memory. Its object must need nothing that engines do without.
#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;

constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 8};
constexpr hm::Experts experts{.count = 4, .active = 2, .hidden = 32};
constexpr hm::ssm::Mamba2Sizes scan{.heads = 4, .head = 16, .state = 16};
struct Brain : hm::LanguageModel<hm::LanguageSizes{.vocab = 64, .width = 32, .context = 64}, hm::Pattern<"GLSE">,
                                 hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<64>>>,
                                 hm::Slot<'L', hm::Block<hm::attention::Local<heads, 16>, hm::channel::Gelu<64>>>,
                                 hm::Slot<'S', hm::Block<hm::ssm::Mamba2<scan>>>,
                                 hm::Slot<'E', hm::Block<hm::attention::Full<heads>, hm::channel::Moe<experts>>>> {};
using Stepper = hm::generate::Stepper<Brain, float, hm::Packed>;

hm::Index brain_bytes() { return Stepper::required_bytes(); }

/// The likeliest token after `token`, or −1.
int brain_next(Stepper& stepper, int token) {
  const auto logits = stepper.step(token);
  if (!logits) return -1;
  int best = 0;
  for (int i = 1; i < static_cast<int>(Brain::vocab); ++i)
    if (logits.value()[i] > logits.value()[best]) best = i;
  return best;
}
