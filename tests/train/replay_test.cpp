// The logged run of docs/results/replay.md, its first twenty steps: the same bits from the same compiler and instruction set,
// else within 1e-4.
#include <cmath>
#include <cstdio>
#include <cstring>

#include <catch2/catch_test_macros.hpp>

#include "../../bench/replay.hpp"

namespace hm = hybridmoe;

TEST_CASE("the logged run is repeated") {
  const std::string root = std::string(HYBRIDMOE_TEST_DATA) + "/..";
  std::FILE* const log = std::fopen((root + "/docs/results/replay.md").c_str(), "r");
  REQUIRE(log != nullptr);
  bool same_build = false;
  std::vector<double> logged;
  char line[200];
  while (std::fgets(line, sizeof line, log) != nullptr) {
    if (const char* const build = std::strstr(line, "build: "))
      same_build = std::strncmp(build + 7, replay::build(), std::strlen(replay::build())) == 0;
    long long step = 0;
    double loss = 0;
    if (std::sscanf(line, "%lld %lf", &step, &loss) == 2 && step == static_cast<long long>(logged.size())) logged.push_back(loss);
  }
  std::fclose(log);
  REQUIRE(logged.size() == 20);

  const auto text = hm::train::Text::read(root + "/LICENSE");
  REQUIRE(text);
  replay::Model model{hm::Seed{replay::seed}};
  auto trainer = hm::train::Trainer<replay::Model>::create(model, *text, replay::options);
  REQUIRE(trainer);
  for (std::size_t step = 0; step < logged.size(); ++step) {
    const auto report = trainer->step();
    REQUIRE(report);
    INFO("step " << step << ", build " << replay::build() << (same_build ? ", as logged" : ", other than logged"));
    if (same_build)
      CHECK(report->loss == logged[step]);
    else
      CHECK(std::fabs(report->loss - logged[step]) < 1e-4);
  }
  CHECK(logged.back() < logged.front() - 1);
}
