// Philox against the known answers of its authors, FNV-1a against its authors', and what numbers are made of them.

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/core/random.hpp>

namespace random_numbers = hybridmoe::random;
using random_numbers::Block;
using random_numbers::Key;

namespace {

constexpr std::array<std::uint32_t, 4> words(Block block) { return {block.word[0], block.word[1], block.word[2], block.word[3]}; }
using Words = std::array<std::uint32_t, 4>;

// philox4x32, 10 rounds, of kat_vectors in Random123.
static_assert(words(random_numbers::philox({0, 0}, {{0, 0, 0, 0}})) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(words(random_numbers::philox({0xffffffff, 0xffffffff}, {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}})) ==
              Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(words(random_numbers::philox({0xa4093822, 0x299f31d0}, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}})) ==
              Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

// draw: the element in the lower half of the counter, the stream in the upper.
static_assert(words(random_numbers::draw(random_numbers::key_of(0x299f31d0a4093822), 0x0370734413198a2e, 0x85a308d3243f6a88)) ==
              Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

static_assert(random_numbers::hash("") == 0xcbf29ce484222325);
static_assert(random_numbers::hash("a") == 0xaf63dc4c8601ec8c);
static_assert(random_numbers::hash("foobar") == 0x85944171f73967e8);

}  // namespace

TEST_CASE("uniform numbers lie between 0 and 1 and reach neither") {
  CHECK(random_numbers::uniform(0) > 0);
  CHECK(random_numbers::uniform(0) < 1e-7f);
  CHECK(random_numbers::uniform(0xffffffff) < 1);
  CHECK(random_numbers::uniform(0xffffffff) > 1 - 1e-7f);
  CHECK(random_numbers::uniform(0x80000000) == 0.5f + 0x1p-24f);
}

TEST_CASE("normal numbers have the moments of normal numbers") {
  const Key key = random_numbers::key_of(5);
  double sums[5] = {};
  const int count = 200'000;
  for (int i = 0; i < count / 2; ++i) {
    const Block block = random_numbers::draw(key, 3, static_cast<std::uint64_t>(i));
    for (int pair = 0; pair < 2; ++pair) {
      const double value = static_cast<double>(random_numbers::normal(block.word[2 * pair], block.word[2 * pair + 1]));
      for (int power = 1; power <= 4; ++power) sums[power] += std::pow(value, power) / count;
    }
  }
  // Four standard errors: 1, √2, √15 and √96, over √count.
  const double unit = 4 / std::sqrt(static_cast<double>(count));
  CHECK(std::fabs(sums[1]) < unit);
  CHECK(std::fabs(sums[2] - 1) < 1.5 * unit);
  CHECK(std::fabs(sums[3]) < 3.9 * unit);
  CHECK(std::fabs(sums[4] - 3) < 9.8 * unit);
  CHECK(std::isfinite(random_numbers::normal(0, 0)));
  CHECK(std::isfinite(random_numbers::normal(0xffffffff, 0xffffffff)));
}
