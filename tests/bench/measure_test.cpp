// What the evidence's programs measure, on numbers whose answers are known.
#include <cmath>
#include <cstdio>

#include <catch2/catch_test_macros.hpp>

#include "../../bench/hybridmoe/corpus.hpp"
#include "../../bench/hybridmoe/measure.hpp"

TEST_CASE("ranks share ties, and Spearman's correlation is that of ranks") {
  CHECK(measure::ranks({3, 1, 2, 1}) == std::vector<double>{3, 0.5, 2, 0.5});
  CHECK(measure::spearman({1, 2, 3, 4}, {1, 4, 9, 16}) == 1);
  CHECK(measure::spearman({1, 2, 3, 4}, {4, 3, 2, 1}) == -1);
  CHECK(measure::spearman({1, 1, 1}, {1, 2, 3}) == 0);
  // 1 − 6·Σd²/(n(n² − 1)) without ties: d = 1, 1, 1, 1, 0.
  CHECK(std::fabs(measure::spearman({1, 2, 3, 4, 5}, {2, 1, 4, 3, 5}) - 0.8) < 1e-12);
}

TEST_CASE("tenths of the complexity are means over equal parts, lowest first") {
  std::vector<double> c, full, least;
  for (int i = 0; i < 20; ++i) {
    c.push_back(1 - 0.05 * i);
    full.push_back(i);
    least.push_back(2 * i);
  }
  const std::string text = measure::of_complexity(c, full, least);
  CHECK(text.starts_with("{\"with_loss\":-1.000000,\"with_gain\":-1.000000,\"tenths\":[[0.075000,18.500000,18.500000],"));
  CHECK(text.ends_with("[0.975000,0.500000,0.500000]]}"));
  CHECK(measure::of_complexity({}, {}, {}) == "null");
}

TEST_CASE("a mechanism is the widest that has a weight, and its numbers are means over tokens") {
  measure::Mechanism seen;
  CHECK(seen.json() == "null");
  seen.add(32, 0, 0);
  seen.add(64, 0.5, 0);
  seen.add(64, 0.5, 0.25);
  seen.add(32, 0, 0.75);
  CHECK(seen.json() == "[4.000000,48.000000,0.250000,0.250000,0.250000,0.250000,0.500000]");
}

TEST_CASE("the language is split between its two texts, and of its held-out letters all is known") {
  const auto data = corpus::of("language", "");
  REQUIRE(data);
  CHECK(data->text.split() == corpus::training_letters);
  CHECK(data->text.size() == corpus::training_letters + corpus::validation_letters);
  CHECK(data->text.tokens()[data->text.split()] == data->validation.token[0]);
  CHECK(!data->of(corpus::training_letters + 15).counts);
  CHECK(data->of(corpus::training_letters + 16).counts);
  CHECK(!corpus::of("speech", ""));
}

TEST_CASE("every tenth speech is held out, whole") {
  const std::string path = "hybridmoe_measure_test.txt";
  std::FILE* const file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  for (int i = 0; i < 21; ++i) std::fprintf(file, "@@ %d\nspeech %d @@ said\n", i, i);
  std::fclose(file);
  const auto data = corpus::of("long", path);
  std::remove(path.c_str());
  REQUIRE(data);
  const std::string text(data->text.tokens(), data->text.tokens() + data->text.size());
  CHECK(text.substr(static_cast<std::size_t>(data->text.split())) == "@@ 9\nspeech 9 @@ said\n@@ 19\nspeech 19 @@ said\n");
  CHECK(text.starts_with("@@ 0\nspeech 0 @@ said\n@@ 1\n"));
  CHECK(text.find("@@ 8\nspeech 8 @@ said\n@@ 10\n") != std::string::npos);
  CHECK(text.find("@@ 20\nspeech 20 @@ said\n@@ 9\n") != std::string::npos);
}
