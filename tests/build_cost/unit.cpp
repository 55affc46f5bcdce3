// What a unit costs that trains a model and generates from it. The macros choose:
//   LAYERS=n  a model of n layers
//   KINDS     the kinds of layer, for all patterns over them
//   ONLY      a model of another pattern (88 letters, not periodic), whose kinds of layer come from the unit of KINDS (extern
//             templates); with FURTHER four more
//   MAIN      a program that uses it
//   DESCRIBE=name   the table of a model of zoo/hybridmoe.hpp alone
//   WHOLE=name      a model of zoo/hybridmoe.hpp
// With none of them, the cost of including the library.
#include <hybridmoe/hybridmoe.hpp>
#if defined(DESCRIBE) || defined(WHOLE)
#include <hybridmoe/zoo/hybridmoe.hpp>
#endif

namespace hm = hybridmoe;

constexpr hm::LanguageSizes sizes{.vocab = 256, .width = 64, .context = 128};
constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 16};
constexpr hm::Experts experts{.count = 4, .active = 2, .hidden = 64};
constexpr hm::ssm::Mamba2Sizes scan{.heads = 4, .head = 16, .state = 16};
using GlobalBlock = hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<128>>;
using LocalBlock = hm::Block<hm::attention::Local<heads, 32>, hm::channel::Moe<experts>>;
using ScanBlock = hm::Block<hm::ssm::Mamba2<scan>, hm::channel::SwiGlu<128>>;
template <class Pattern>
using ModelOf =
    hm::LanguageModel<sizes, Pattern, hm::Slot<'G', GlobalBlock>, hm::Slot<'L', LocalBlock>, hm::Slot<'S', ScanBlock>>;

/// A step of training, and a token.
template <class Description>
float use(const hm::train::Text& text) {
  using Model = hm::Model<Description, float>;
  Model model{hm::Seed{1}};
  auto trainer = hm::train::Trainer<Model>::create(model, text, {.batch = 1, .length = 16});
  if (!trainer || !trainer->step()) return 0;
  const auto packed = hm::pack(model);
  using Stepper = hm::generate::Stepper<Description, float>;
  std::vector<std::byte> memory(hm::to_size(Stepper::required_bytes()));
  auto stepper = Stepper::create(packed.parameters(), memory.data(), Stepper::required_bytes());
  if (!stepper) return 0;
  const auto logits = stepper->step(3);
  return logits ? *logits.value() : 0;
}

#if defined(ONLY) || defined(KINDS)
using Kinds = ModelOf<hm::Pattern<"G">>::Core;  // the same for every pattern
using Space = hm::exec::Inline;
#if defined(KINDS)
#define ELSEWHERE
#else
#define ELSEWHERE extern
#endif
ELSEWHERE template class hm::ModelCore<Kinds, float, Space, hm::Flat>;
ELSEWHERE template class hm::ModelCore<Kinds, float, Space, hm::Packed>;
ELSEWHERE template class hm::train::TrainerCore<Kinds, float, Space>;
ELSEWHERE template class hm::generate::StepperCore<Kinds, float, hm::Packed>;
#endif

#if defined(LAYERS)
struct First : ModelOf<hm::Pattern<"GLLS", hm::layers<LAYERS>>> {};
float first(const hm::train::Text& text) { return use<First>(text); }
#endif

template <hm::Index count>
using Letters =
    hm::Pattern<"GLLLSLLSSLGLLSLLLGSLLSLLLLGSSLLSLGLLLSLLGSSSLLGLLLLSLGLLSLLSGLLLSLLGSLLSLLLLGLSLLSSLGLLS", hm::layers<count>>;
#if defined(ONLY)
struct Second : ModelOf<Letters<88>> {};
float second(const hm::train::Text& text) { return use<Second>(text); }
#endif
#if defined(FURTHER)
template <hm::Index count>
struct Further : ModelOf<Letters<count>> {};
float further(const hm::train::Text& text) {
  return use<Further<87>>(text) + use<Further<86>>(text) + use<Further<85>>(text) + use<Further<84>>(text);
}
#endif

#if defined(DESCRIBE)
std::string table() { return hm::describe<hm::zoo::DESCRIBE>(); }
#endif
#if defined(WHOLE)
float whole(const hm::train::Text& text) { return use<hm::zoo::WHOLE>(text); }
#endif

#if defined(MAIN)
float second(const hm::train::Text& text);
int main() {
  const auto text = hm::train::Text::bytes(std::string(1000, 'x'));
  return text && second(*text) != 0 ? 0 : 1;
}
#endif
