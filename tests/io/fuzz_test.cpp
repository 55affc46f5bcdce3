// The safetensors reader on inputs that are nearly right: it accepts exactly what a second implementation of the rules accepts,
// and survives everything.
#include <catch2/catch_test_macros.hpp>

#include <hybridmoe/io/safetensors.hpp>

#include "fuzz.hpp"

using namespace hybridmoe;
using support::Random;

// The second reader is slow under a sanitizer, and its memory is not what is being watched.
#if defined(__SANITIZE_ADDRESS__)
constexpr int opinion_every = 10;
#else
constexpr int opinion_every = 1;
#endif

TEST_CASE("every cut and every flipped bit of a 4 KiB file") {
  support::Directory directory;
  std::vector<float> values(600, 0.25f);
  io::SafetensorsWriter writer;
  for (Index i = 0; i < 12; ++i)
    writer.add("layers." + std::to_string(i) + ".mixer.query.weight", io::Shape::of<5, 10>(), values.data() + i);
  writer.add("names \"quoted\" \xC3\xA9", io::Shape::of<64>(), values.data());
  writer.metadata("format", "pt");
  REQUIRE(writer.write(directory / "file"));
  const std::string sound = support::slurp(directory / "file");
  REQUIRE(sound.size() > 3800);
  REQUIRE(support::open_and_use(sound));
  Index accepted = 0, differences = 0;
  for (std::size_t at = 0; at < sound.size(); ++at) {
    CHECK(!support::open_and_use(sound.substr(0, at)));
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = sound;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      const bool ours = support::open_and_use(damaged);
      accepted += ours;
      if (at < 1400 && bit % opinion_every == 0)
        differences += ours != support::second_opinion(damaged);  // beyond lies data alone
    }
  }
  CHECK(accepted > 2400 * 8);  // all flips in the data, and some in names
  CHECK(differences == 0);
}

TEST_CASE("a hundred thousand inputs that are nearly right") {
  Random random(20240607);
  Index accepted = 0;
  for (int i = 0; i < 100'000; ++i) {
    const std::string input = support::fuzz_input(random);
    const bool ours = support::open_and_use(input);
    accepted += ours;
    if (i % opinion_every == 0 && ours != support::second_opinion(input)) {
      CAPTURE(i, ours, input);
      FAIL("the two readers disagree");
    }
  }
  CHECK(accepted > 30'000);
  CHECK(accepted < 70'000);
}
