#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/layer/budget.hpp>

namespace hm = hybridmoe;
using hm::Index;

namespace {

constexpr double affine(double beta) { return 100.0 + 300.0 * beta; }
constexpr double stepped(double beta) {
  return static_cast<double>(2 + 3 * hm::most_experts(4, beta) + hm::most_slices(4, beta));
}

// Constant expressions: a model's asserts use them.
static_assert(hm::beta_for(1.0, affine) == 1.0);
static_assert(hm::beta_for(0.5, affine) == 21.0 / 64.0);  // 100 + 300·β ≤ 200: β ≤ 1/3
static_assert(hm::beta_for(0.25, affine) == 0.0 && hm::least_budget(affine) == 0.25);
static_assert(hm::beta_for(0.1, affine) == 0.0);
static_assert(hm::beta_for(2.0, affine) == 1.0);
static_assert(hm::beta_for(0.5, hm::cost_table(affine)) == 21.0 / 64.0);
static_assert(hm::beta_for(0.5, stepped) == 23.0 / 64.0);  // one expert (β < 3/8), two slices (β ≤ 1/2): 7 of 18; two: 10

}  // namespace

TEST_CASE("caps are what the formulas say, in float and double, for every β of the grid") {
  for (Index i = 0; i <= hm::budget_steps; ++i) {
    const double beta = static_cast<double>(i) / 64.0;
    for (Index n = 1; n <= 12; ++n) {
      CHECK(hm::most_experts(n, beta) == static_cast<Index>(std::floor(beta * static_cast<double>(n) + 0.5)));
      CHECK(hm::most_slices(n, beta) == std::max(Index{1}, static_cast<Index>(std::ceil(beta * static_cast<double>(n)))));
      CHECK(hm::most_experts(n, static_cast<float>(beta)) == hm::most_experts(n, beta));
      CHECK(hm::most_slices(n, static_cast<float>(beta)) == hm::most_slices(n, beta));
    }
    CHECK(hm::widest_window(512, 2048, beta) == 512.0 + 1536.0 * beta);
    CHECK(hm::widest_window(512, 2048, static_cast<float>(beta)) == static_cast<float>(512.0 + 1536.0 * beta));
  }
}

TEST_CASE("a β that is no budget counts as the nearer end, NaN as nothing") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(hm::most_experts(4, -3.0) == 0);
  CHECK(hm::most_experts(4, 7.0) == 4);
  CHECK(hm::most_experts(4, nan) == 0);
  CHECK(hm::most_slices(4, nan) == 1);
  CHECK(hm::most_slices(4, 1.5f) == 4);
  CHECK(hm::widest_window(32, 128, 2.0) == 128.0);
  CHECK(hm::widest_window(32, 128, nan) == 32.0);
}

TEST_CASE("the β for a budget never costs more than the budget, and the next one would") {
  for (int percent = 0; percent <= 100; ++percent) {
    const double budget = percent / 100.0;
    const double beta = hm::beta_for(budget, stepped);
    if (budget >= hm::least_budget(stepped)) CHECK(stepped(beta) <= budget * stepped(1.0));
    if (beta < 1.0) CHECK(stepped(beta + 1.0 / 64.0) > budget * stepped(1.0));
  }
}
