// What a scorer of key tokens learns: text of noise in which rarely a capital letter stands, and later questions ask for the last
// one. It lies far beyond the window, and the store holds few tokens, so that who chooses others knows nothing.

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/adaptive.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;
namespace attention = hybridmoe::attention;
using hm::Index;
using hm::to_size;

namespace {

constexpr hm::Heads heads{4, 2, 16};
using QueryKey = attention::NormedQueryKey<>;
template <class... Scorer>
struct KeyTokens : attention::KeyTokens<heads, attention::Window{24, 32, 8}, attention::Store{16, 4, 16}, QueryKey,
                                        attention::window::Fixed<24>, Scorer...> {};
template <class Mixer>
struct Model : hm::LanguageModel<hm::LanguageSizes{.vocab = 128, .width = 64, .context = 256}, hm::Pattern<"M">,
                                 hm::Slot<'M', hm::Block<Mixer, hm::channel::SwiGlu<128>>>> {};

constexpr Index capitals = 16, length = 256;

struct Questions {
  std::string text;
  std::vector<Index> distance;  ///< of an answer to the capital that it repeats; 0 elsewhere
};

/// Letters, a capital at least 300 tokens after the last, and from 40 tokens after it on now and then "?" and the capital.
Questions questions(std::size_t size) {
  Questions q;
  std::uint64_t drawn = 0;
  const auto below = [&](Index n) {
    return static_cast<Index>(hm::random::draw(hm::random::key_of(77), 5, drawn++).word[0] % static_cast<std::uint64_t>(n));
  };
  const auto put = [&](Index letter, Index distance) {
    q.text += static_cast<char>(letter);
    q.distance.push_back(distance);
  };
  for (Index last = -1, value = 0; q.text.size() < size;) {
    const Index at = hm::to_index(q.text.size()), gone = at + 1 - last, kind = below(1000);
    if (kind < 30 && (last < 0 || gone > 300)) {
      value = 'A' + below(capitals);
      last = at;
      put(value, 0);
    } else if (kind >= 30 && kind < 160 && last >= 0 && gone > 40) {
      put('?', 0);
      put(value, at + 1 - last);
    } else if (kind >= 160) {
      for (Index left = 1 + below(4); left > 0; --left) put('a' + below(26), 0);
    }
  }
  return q;
}

/// Mean loss of held-out answers whose capital is in the same window, after so many steps. Chance: ln 16 = 2.77.
template <class Mixer>
double answers_after(Index steps, std::uint64_t seed) {
  const Questions q = questions(1'200'000);
  const auto text = hm::train::Text::bytes(q.text, 0.1);
  REQUIRE(text);
  hm::Model<Model<Mixer>, float> model{hm::Seed{seed}};
  hm::train::Options options{.batch = 8, .length = length};
  options.schedule = {.peak = 6e-3, .warmup = 50, .steps = steps, .last = 0.1};
  options.seed = seed;
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, options);
  REQUIRE(trainer);
  while (trainer->steps_done() < steps) REQUIRE(trainer->step());
  double loss = 0;
  Index count = 0;
  trainer->observe(0, {}, [&](const hm::train::Observed<float>& seen) {
    const Index distance = q.distance[to_size(seen.token)], row = (seen.token - 1 - text->split()) % length;
    if (distance == 0 || distance > row + 1) return;
    loss += seen.loss;
    ++count;
  });
  REQUIRE(count > 200);
  return loss / static_cast<double>(count);
}

}  // namespace

TEST_CASE("scorers find the tokens that questions ask for, and chance does not") {
  const double learned = answers_after<KeyTokens<attention::scorer::Warm<>>>(500, 3),
               random = answers_after<KeyTokens<attention::scorer::Random<>>>(500, 3);
  CAPTURE(learned, random);
  CHECK(learned < 0.5);
  CHECK(random > 0.8);
}

// docs/parts/attention.md has what this prints.
TEST_CASE("print what scorers learn", "[.scorers]") {
  for (const std::uint64_t seed : {1u, 2u, 3u})
    std::printf("seed %d: warm %.2f, cold %.2f, random %.2f\n", static_cast<int>(seed),
                answers_after<KeyTokens<attention::scorer::Warm<>>>(700, seed), answers_after<KeyTokens<>>(700, seed),
                answers_after<KeyTokens<attention::scorer::Random<>>>(700, seed));
}
