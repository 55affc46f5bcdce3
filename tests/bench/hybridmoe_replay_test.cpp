// Two published runs on the generated language (docs/results/hybridmoe-runs.jsonl), their first twenty losses. They were made
// with -O3; here other multiply-adds are fused, so they agree to 1e-3, not to the bit.
#include <cmath>
#include <fstream>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include "../../bench/hybridmoe/arms.hpp"
#include "../../bench/hybridmoe/corpus.hpp"

namespace hm = hybridmoe;

namespace {

template <class Chosen>
void replay(const char* arm) {
  std::ifstream runs(std::string(HYBRIDMOE_TEST_DATA) + "/../docs/results/hybridmoe-runs.jsonl");
  nlohmann::json run;
  for (std::string line; std::getline(runs, line) && run.is_null();) {
    const auto one = nlohmann::json::parse(line);
    if (one.contains("data") && one["arm"] == arm && one["data"] == "language" && one["seed"] == 101) run = one;
  }
  REQUIRE(!run.is_null());
  const auto corpus = corpus::of("language", "");
  REQUIRE(corpus);
  using Model = hm::Model<typename Chosen::Model, hm::f32>;
  Model model{hm::Seed{101}};
  auto trainer = hm::train::Trainer<Model>::create(
      model, corpus->text, arms::options<Chosen>(101, run["steps"].get<hm::Index>(), run["rate"].get<double>()));
  REQUIRE(trainer);
  double last = 0;
  for (std::size_t step = 0; step < 20; ++step) {
    const auto report = trainer->step();
    REQUIRE(report);
    INFO(arm << ", step " << step);
    CHECK(std::fabs(report->loss - run["losses"][step].get<double>()) < 1e-3);
    last = report->loss;
  }
  CHECK(last < run["losses"][0].get<double>() - 0.3);
}

}  // namespace

TEST_CASE("the published run of full is repeated") { replay<arms::full>("full"); }
TEST_CASE("the published run of fixed_k is repeated") { replay<arms::fixed_k>("fixed_k"); }
