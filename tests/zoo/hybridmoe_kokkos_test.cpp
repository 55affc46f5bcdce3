// The number of threads changes no bit of HybridMoE: of training under drawn budgets, and of what a session makes of them.

#include <hybridmoe/generate/session.hpp>
#include <hybridmoe/kokkos.hpp>
#include <hybridmoe/train/trainer.hpp>
#include <support/with_threads.hpp>
#include <zoo/small.hpp>

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;
using Threads = hm::exec::On<Kokkos::DefaultHostExecutionSpace>;
using Small = test::SmallHybrid;

namespace {

/// Losses of eight steps with twins, the sum of the parameters then, the losses at three budgets, and the logits of two sequences
/// that may spend differently, a prompt and some tokens one by one.
template <class Space>
std::vector<double> numbers() {
  hm::Model<Small, float, Space> model{hm::Seed{7}};
  std::string content;
  for (const std::int32_t token : test::random_tokens(4000, 20, 3)) content += static_cast<char>(token % 7 + token / 3);
  const auto text = hm::train::Text::bytes(content);
  REQUIRE(text);
  hm::train::Options options{.batch = 6, .length = 96, .schedule = {.peak = 5e-3, .warmup = 2, .steps = 8}, .dropout = 0.1f};
  options.budgets.sampled = true;
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, options);
  REQUIRE(trainer);
  std::vector<double> result;
  for (int i = 0; i < 8; ++i) {
    const auto report = trainer->step();
    REQUIRE(report);
    result.push_back(report->loss);
  }
  for (const double budget : {0.0, 0.5, 1.0}) result.push_back(trainer->measure(3, {budget, 0.7}).loss);

  const auto packed = hm::pack(model);
  auto session = hm::generate::Session<std::remove_const_t<decltype(packed)>>::create(packed, {.sequences = 2});
  REQUIRE(session);
  REQUIRE(session->spend(0, {0.6, 0.4}));
  const std::vector<std::int32_t> tokens = test::random_tokens(60, 40, 9);
  for (std::size_t at = 0; at < 60; at += at < 48 ? 16 : 1) {
    const std::size_t count = at < 48 ? 16 : 1;
    const hm::generate::Piece pieces[] = {{0, {tokens.data() + at, count}}, {1, {tokens.data() + at, count}}};
    REQUIRE(session->feed(pieces));
    for (const Index s : {0, 1})
      for (const float logit : session->logits(s)) result.push_back(static_cast<double>(logit));
  }
  return result;
}

}  // namespace

// Not a test by itself: what the test below starts with other numbers of threads.
TEST_CASE("print what HybridMoE does on the threads that there are", "[.numbers]") {
  test::print_numbers(Threads{}.concurrency(), numbers<Threads>());
}

TEST_CASE("HybridMoE trains, prefills and decodes to the same bits on 1, 2 and 3 threads, and on none of Kokkos'") {
  const std::vector<double> expected = numbers<hm::exec::Inline>();
  CHECK(expected.size() == 8 + 3 + 15 * 2 * Small::vocab);
  CHECK(expected[7] < expected[0]);
  for (int threads = 1; threads <= 3; ++threads) {
    const test::Printed got = test::run_with_threads(threads, "[.numbers]");
    CAPTURE(threads);
    CHECK(got.threads == threads);
    CHECK(got.numbers == expected);
  }
}
