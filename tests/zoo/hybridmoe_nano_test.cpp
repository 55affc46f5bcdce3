// HybridNano, the published size for one machine, as it is: a step of training, and a token.

#include <cmath>
#include <numeric>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/generate/stepper.hpp>
#include <hybridmoe/model/pack.hpp>
#include <hybridmoe/train/trainer.hpp>
#include <hybridmoe/zoo/hybridmoe.hpp>

namespace hm = hybridmoe;
using Catch::Matchers::WithinAbs;
using hm::Index;
using Nano = hm::zoo::HybridNano;

namespace {

/// Bytes of which the training part holds one window alone: every step sees the same batch.
hm::train::Text one_window(Index length) {
  std::string content;
  std::uint64_t state = 1;
  for (Index i = 0; i < 2 * (length + 1); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    content += static_cast<char>(state >> 56);
  }
  return hm::train::Text::bytes(content, 0.5).value();
}

}  // namespace

TEST_CASE("HybridNano starts near no knowledge, learns a batch, and decodes") {
  constexpr Index length = 96;
  const hm::train::Text text = one_window(length);
  hm::Model<Nano, float> model{hm::Seed{3}};
  REQUIRE(model);
  hm::train::Options options{.batch = 1, .length = length, .schedule = {.peak = 2e-3, .warmup = 1, .steps = 100}};
  options.budgets.sampled = true;  // a twin beside it, at a lower budget
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, text, options);
  REQUIRE(trainer);
  constexpr Index steps = 5;
  double losses[steps];
  for (double& loss : losses) {
    const auto report = trainer->step();
    REQUIRE(report);
    loss = report->loss;
  }
  CHECK_THAT(losses[0], WithinAbs(std::log(256.0), 0.2));
  for (Index i = 1; i < steps; ++i) CHECK(losses[i] < losses[i - 1]);
  CHECK(losses[steps - 1] < losses[0] - 1);

  const auto seen = trainer->measure(1, {.budget = 0.6});
  REQUIRE(seen.loads.size() == hm::to_size(Nano::layer_count));
  for (Index l = 0; l < Nano::layer_count; ++l) {
    const auto& load = seen.loads[hm::to_size(l)];
    REQUIRE(load.size() == 16);
    const double used = seen.used[hm::to_size(l * hm::Used::fields + hm::Used::experts)];
    CHECK_THAT(std::accumulate(load.begin(), load.end(), 0.0), WithinAbs(used, 1e-9));
    CHECK(used > 0);
  }

  const auto packed = hm::pack(model);
  using Stepper = hm::generate::Stepper<Nano, float>;
  std::vector<std::byte> memory(hm::to_size(Stepper::required_bytes()));
  auto stepper = Stepper::create(packed.parameters(), memory.data(), Stepper::required_bytes());
  REQUIRE(stepper);
  const auto logits = stepper->step(text.tokens()[0]);
  REQUIRE(logits);
  // It predicts what it was taught better than it would knowing nothing.
  const float* const z = *logits;
  double sum = 0;
  for (Index v = 0; v < Nano::vocab; ++v) {
    REQUIRE(std::isfinite(z[v]));
    sum += std::exp(static_cast<double>(z[v]));
  }
  CHECK(std::log(sum) - static_cast<double>(z[text.tokens()[1]]) < std::log(256.0));
}
