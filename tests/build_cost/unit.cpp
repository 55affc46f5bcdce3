// What a unit costs that trains a model and generates from it. The macros choose:
//   LAYERS   how many layers the model has
//   SECOND   a second model, of another pattern (88 letters, not periodic) over the same layers
//   ONLY     nothing but the second model, its layers compiled elsewhere (extern templates)
//   NOTHING  no model at all: the cost of including the library
#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;

#if !defined(LAYERS)
#define LAYERS 4
#endif

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
  auto trainer = hm::train::Trainer<Model>::create(model, text, {});
  if (!trainer || !trainer->step()) return 0;
  const auto packed = hm::pack(model);
  auto stepper = hm::generate::Stepper<Description, float>::create(packed.parameters(), nullptr, 0);
  if (!stepper) return 0;
  const auto logits = stepper->step(3);
  return logits ? *logits.value() : 0;
}

#if !defined(NOTHING) && !defined(ONLY)
struct First : ModelOf<hm::Pattern<"GLLS", hm::layers<LAYERS>>> {};
float first(const hm::train::Text& text) { return use<First>(text); }
#endif

#if defined(SECOND)
struct Second : ModelOf<hm::Pattern<"GLLLSLLSSLGLLSLLLGSLLSLLLLGSSLLSLGLLLSLLGSSSLLGLLLLSLGLLSLLSGLLLSLLGSLLSLLLLGLSLLSSLGLLS">> {
};
float second(const hm::train::Text& text) { return use<Second>(text); }
#endif

#if defined(ONLY)
struct Second : ModelOf<hm::Pattern<"GLLLSLLSSLGLLSLLLGSLLSLLLLGSSLLSLGLLLSLLGSSSLLGLLLLSLGLLSLLSGLLLSLLGSLLSLLLLGLSLLSSLGLLS">> {
};
using Kinds = Second::Layers;
using Space = hm::exec::Inline;
extern template float* Kinds::forward<Space, float, hm::Packed>(const hm::Call<Space>&, Kinds::Layers, const float*, hm::Packed,
                                                                std::byte*, hm::Index, float*, float*);
extern template void Kinds::forward_training<Space, float>(const hm::Call<Space>&, Kinds::Layers, const float*, float*, hm::Arena,
                                                           bool);
extern template float* Kinds::backward<Space, float>(const hm::Call<Space>&, Kinds::Layers, const float*, float*, float*,
                                                     hm::Arena, bool, float*, float*);
/// The model's two functions: everything else is a class that a program instantiates once.
void infer(const hm::Call<Space>& call, const float* parameters, const std::int32_t* token, std::byte* states,
           const hm::Index* wanted, float* logits) {
  Second::forward<hm::Packed>(call, parameters, token, states, Second::state_stride<float>(), wanted, 1, logits);
}
void learn(const hm::Call<Space>& call, const float* parameters, const std::int32_t* token, const std::int32_t* target,
           double* loss, float* gradient) {
  Second::loss_and_gradient(call, parameters, token, target, 1.0f, false, loss, gradient, nullptr);
}
#endif
