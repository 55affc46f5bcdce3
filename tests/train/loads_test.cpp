// The load of every expert, in an evaluation, against a count by hand: routers that know where each token goes.

#include <train/support.hpp>

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;

namespace {

constexpr Index width = 8, batch = 4, length = 10;
constexpr hm::router::TopKOptions plain{.renormalise = false};
template <Index count, Index active>
constexpr hm::Experts experts{.count = count, .active = active, .hidden = 4};
template <char letter, class Channel>
using SlotOf = hm::Slot<letter, hm::Block<hm::attention::Full<hm::Heads{1, 1, 8}>, Channel>>;
struct Sorted : hm::LanguageModel<hm::LanguageSizes{.vocab = 256, .width = width, .context = 16}, hm::Pattern<"FDSF">,
                                  SlotOf<'F', hm::channel::Moe<experts<4, 1>, hm::router::TopK<plain>>>,
                                  SlotOf<'S', hm::channel::Moe<experts<6, 2>>>, SlotOf<'D', hm::channel::SwiGlu<8>>> {};

/// Token v is feature v mod 8, which nothing changes. It goes to expert v mod 4 of four, and of six to the feature's, counted
/// around, and the next.
struct Arrange {
  void operator()(const hm::Name& name, const hm::Trait&, auto& tensor) const {
    const std::string text = name.text();
    using Tensor = std::remove_cvref_t<decltype(tensor)>;
    const auto set = [&](auto value) {
      for (Index i = 0; i < Tensor::size; ++i) tensor.data[i] = static_cast<float>(value(i / width, i % width));
    };
    set([](Index, Index) { return 0; });
    if (text.ends_with("norm.weight")) set([](Index, Index) { return 1; });
    if (text == "embedding.weight") set([](Index token, Index feature) { return token % width == feature; });
    if (!text.ends_with("router.weight")) return;
    if (Tensor::size == 4 * width)
      set([](Index expert, Index feature) { return feature % 4 == expert; });
    else
      set([](Index expert, Index feature) { return 2 * (feature % 6 == expert) + ((feature + 1) % 6 == expert); });
  }
};

}  // namespace

TEST_CASE("an evaluation says which share of tokens went to each expert of each layer") {
  const hm::train::Text text = test::small_text();
  for (const bool recompute : {false, true}) {
    hm::Model<Sorted, float> model{hm::Seed{1}};
    std::vector<float> parameters(to_size(model.size()));
    Sorted::visit<float, hm::Flat>(Arrange{}, hm::Name{}, parameters.data());
    model.upload(parameters.data());
    auto trainer = test::trainer_of(model, text, {.batch = batch, .length = length, .recompute = recompute});
    for (const Index windows : {1, 5, 8}) {  // the last call of the first two holds rows that do not count
      std::vector<std::vector<double>> expected{std::vector<double>(4), {}, std::vector<double>(6), std::vector<double>(4)};
      for (Index w = 0; w < windows; ++w)
        for (Index i = 0; i < length; ++i) {
          const Index feature = text.tokens()[text.validation_window(w, length) + i] % width;
          for (const std::size_t l : {std::size_t{0}, std::size_t{3}}) expected[l][to_size(feature % 4)] += 1;
          for (const Index e : {feature % 6, (feature + 1) % 6}) expected[2][to_size(e)] += 1;
        }
      for (auto& layer : expected)
        for (double& share : layer) share /= static_cast<double>(windows * length);
      CHECK(trainer->measure(windows).loads == expected);
      CHECK(trainer->evaluate(windows) == trainer->measure(windows).loss);
    }
  }
}

TEST_CASE("layers without experts have no load") {
  hm::Model<test::Dense, double> model{hm::Seed{1}};
  const hm::train::Text text = test::dense_text();
  auto trainer = test::trainer_of(model, text, {.batch = 2, .length = 20});
  CHECK(trainer->measure(3).loads == std::vector<std::vector<double>>(2));
}
