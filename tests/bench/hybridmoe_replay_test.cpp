// Two published runs on the generated language (docs/results/hybridmoe-runs.jsonl), their first twenty losses: all digits that
// were written, from the same compiler and instruction set. Other builds round differently, and where a score then falls on the
// other side of a threshold, more than rounding differs: within 0.02.
#include <fstream>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include "../../bench/build_tag.hpp"
#include "../../bench/hybridmoe/arms.hpp"
#include "../../bench/hybridmoe/corpus.hpp"

namespace hm = hybridmoe;

namespace {

template <class Chosen>
void repeat(const char* arm) {
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
  const bool same_build = run["build"] == replay::build();
  double last = 0;
  for (std::size_t step = 0; step < 20; ++step) {
    const auto report = trainer->step();
    REQUIRE(report);
    INFO(arm << ", step " << step << ", build " << replay::build() << ", the run's " << run["build"]);
    CHECK(std::fabs(report->loss - run["losses"][step].get<double>()) < (same_build ? 6e-7 : 0.02));
    last = report->loss;
  }
  CHECK(last < run["losses"][0].get<double>() - 0.3);
}

}  // namespace

TEST_CASE("the published run of full is repeated") { repeat<arms::full>("full"); }
TEST_CASE("the published run of fixed_k is repeated") { repeat<arms::fixed_k>("fixed_k"); }
