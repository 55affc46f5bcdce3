#pragma once
// Two small models with texts, and trainers: what the tests of training share.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/gelu.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/norm/layer_norm.hpp>
#include <hybridmoe/ssm/mamba2.hpp>
#include <hybridmoe/train/trainer.hpp>
#include <support/numbers.hpp>

namespace test {

namespace hm = hybridmoe;

inline constexpr hm::LanguageSizes dense_sizes{.vocab = 41, .width = 12, .context = 40, .tied = false, .learned_positions = true};
using DenseG =
    hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{2, 2, 6}, hm::position::Nothing, hm::attention::Bias<true, true>>,
                            hm::channel::Gelu<20>, hm::block::Norm<hm::norm::LayerNorm<>>>>;
using DenseW = hm::Slot<'W', hm::Block<hm::attention::Local<hm::Heads{2, 1, 6}, 7>, hm::channel::SwiGlu<16>>>;
struct Dense : hm::LanguageModel<dense_sizes, hm::Pattern<"GW">, DenseG, DenseW> {};

/// Bytes below 41 with something to learn: each depends on the one before.
inline hm::train::Text dense_text(std::uint64_t seed = 1) {
  std::string content;
  int byte = 0;
  for (const double n : numbers(3000, seed)) content += static_cast<char>(byte = (3 * byte + (n > 0.5) + 2 * (n < -1)) % 41);
  return hm::train::Text::bytes(content, 0.2).value();
}

/// Three kinds of state, and experts.
inline constexpr hm::Heads small_heads{.query = 4, .kv = 2, .size = 12};
struct Small
    : hm::LanguageModel<
          hm::LanguageSizes{.vocab = 256, .width = 48, .context = 96, .chunk = 32}, hm::Pattern<"GLLS", hm::layers<5>>,
          hm::Slot<'G', hm::Block<hm::attention::Full<small_heads, hm::attention::NormedQueryKey<>>, hm::channel::SwiGlu<96>>>,
          hm::Slot<'L', hm::Block<hm::attention::Local<small_heads, 24>,
                                  hm::channel::Moe<hm::Experts{.count = 4, .active = 2, .hidden = 48}>>>,
          hm::Slot<'S', hm::Block<hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 4, .head = 16, .state = 16, .chunk = 32}>>>> {};

/// Words of a small language in any order.
inline hm::train::Text small_text() {
  const char* const words[] = {"the ", "river ", "carries ", "every ", "boat ", "that ", "nobody ", "has ", "tied ", "up. "};
  std::string content;
  for (const double n : numbers(4000, 7, 1000)) content += words[static_cast<std::size_t>(std::fabs(n)) % 10];
  return hm::train::Text::bytes(content).value();
}

template <class Model>
auto trainer_of(Model& model, const hm::train::Text& text, const hm::train::Options& options) {
  auto trainer = hm::train::Trainer<Model>::create(model, text, options);
  INFO((trainer ? std::string() : trainer.error().message()));
  REQUIRE(trainer);
  return trainer;
}

/// Parameters, first moments, second moments.
template <class Trainer>
auto state_of(const Trainer& trainer) {
  using Model = std::remove_cvref_t<decltype(trainer.model())>;
  const auto count = hm::to_size(Model::elements);
  std::vector<typename Model::Element> state(3 * count);
  trainer.model().download(state.data());
  trainer.first_moment().copy_out(state.data() + count, Model::bytes);
  trainer.second_moment().copy_out(state.data() + 2 * count, Model::bytes);
  return state;
}

}  // namespace test
