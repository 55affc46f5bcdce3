// The number of threads changes no bit of a training run.

#include <cstdio>

#include <unistd.h>

#include <hybridmoe/kokkos.hpp>
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
  std::printf("threads %d\n", Threads{}.concurrency());
  for (const double loss : losses<Threads>()) std::printf("loss %a\n", loss);
}

TEST_CASE("20 training steps give the same bits on 1, 2, 3 and 4 threads, and on none of Kokkos'") {
  const std::vector<double> expected = losses<hm::exec::Inline>();
  CHECK(expected[19] < expected[0]);
  char self[4096] = {};
  REQUIRE(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
  for (int threads = 1; threads <= 4; ++threads) {
    const std::string command = "OMP_NUM_THREADS=" + std::to_string(threads) + " OMP_PROC_BIND=false '" + self + "' '[.losses]'";
    FILE* const output = popen(command.c_str(), "r");
    REQUIRE(output != nullptr);
    std::vector<double> got;
    int started = 0;
    char line[256];
    while (std::fgets(line, sizeof line, output) != nullptr) {
      double loss = 0;
      if (std::sscanf(line, "loss %la", &loss) == 1) got.push_back(loss);
      std::sscanf(line, "threads %d", &started);
    }
    REQUIRE(pclose(output) == 0);
    CAPTURE(threads);
    CHECK(started == threads);
    CHECK(got == expected);
  }
}
