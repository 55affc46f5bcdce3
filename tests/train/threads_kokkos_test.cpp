// The number of threads changes no bit of a training run.

#include <hybridmoe/kokkos.hpp>
#include <support/with_threads.hpp>
#include <train/support.hpp>

namespace hm = hybridmoe;
using Threads = hm::exec::On<Kokkos::DefaultHostExecutionSpace>;

namespace {

/// Losses of 20 steps of a model of all kinds of layer, and its last parameters summed up.
template <class Space>
std::vector<double> losses() {
  hm::Model<test::Small, float, Space> model{hm::Seed{7}};
  const hm::train::Text text = test::small_text();
  auto trainer = test::trainer_of(
      model, text, {.batch = 5, .length = 90, .schedule = {.peak = 5e-3, .warmup = 5, .steps = 20}, .dropout = 0.1f});
  std::vector<double> result;
  for (int i = 0; i < 20; ++i) {
    const auto report = trainer->step();
    REQUIRE(report);
    result.push_back(report->loss);
  }
  double sum = 0;
  for (const float value : test::state_of(*trainer)) sum += static_cast<double>(value);
  result.push_back(sum);
  result.push_back(trainer->evaluate(7));
  return result;
}

}  // namespace

// Not a test by itself: what the test below starts with other numbers of threads.
TEST_CASE("print the losses of a run on the threads that there are", "[.losses]") {
  test::print_numbers(Threads{}.concurrency(), losses<Threads>());
}

TEST_CASE("20 training steps give the same bits on 1, 2, 3 and 4 threads, and on none of Kokkos'") {
  const std::vector<double> expected = losses<hm::exec::Inline>();
  CHECK(expected[19] < expected[0]);
  for (int threads = 1; threads <= 4; ++threads) {
    const test::Printed got = test::run_with_threads(threads, "[.losses]");
    CAPTURE(threads);
    CHECK(got.threads == threads);
    CHECK(got.numbers == expected);
  }
}
