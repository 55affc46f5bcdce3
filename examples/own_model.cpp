// A model of one's own: layers by letters, each a mixer over the sequence and a channel mixer, here a hybrid of attention, a
// window with routed experts, and a state-space mixer.
#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;
//! [model]
constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 32};
constexpr hm::Experts experts{.count = 4, .active = 2, .hidden = 128};
constexpr hm::ssm::Mamba2Sizes scan{.heads = 8, .head = 32, .state = 32};
using Gated = hm::channel::SwiGlu<384>;
using Routed = hm::channel::Moe<experts, hm::router::TopK<>, hm::channel::SwiGlu<128>>;
struct Small : hm::LanguageModel<hm::LanguageSizes{.vocab = 256, .width = 128, .context = 512}, hm::Pattern<"GLLS">,
                                 hm::Slot<'G', hm::Block<hm::attention::Full<heads>, Gated>>,
                                 hm::Slot<'L', hm::Block<hm::attention::Local<heads, 64>, Routed>>,
                                 hm::Slot<'S', hm::Block<hm::ssm::Mamba2<scan>, Gated>>> {};
static_assert(hm::Account<Small>::active_parameters().most < 1'000'000);
//! [model]
int fail(const hm::Error& error) { return std::printf("%s\n", error.message().c_str()), 1; }

int main(int count, char** words) {
  const auto text = hm::train::Text::read(count > 1 ? words[1] : "text.txt");
  if (!text) return fail(text.error());
  hm::Model<Small, hm::f32> model{hm::Seed{7}};
  const hm::train::Options options{.batch = 4, .length = 256, .schedule = {.peak = 3e-3, .warmup = 50}};
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, options);
  if (!trainer) return fail(trainer.error());
  const auto report = hm::train::fit(*trainer, {.seconds = count > 2 ? std::atof(words[2]) : 60.0, .progress = false});
  if (!report) return fail(report.error());
  std::printf("%s\nvalidation: %.3f bits per byte\n", hm::describe<Small>().c_str(), trainer->evaluate() / std::log(2.0));
}
