// Softmax attention: its formula, and its laws on every space.

#include <attention/reference.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/check/subject_of.hpp>
#include <support/laws.hpp>
#include <support/numbers.hpp>

namespace attention = hybridmoe::attention;
namespace check = hybridmoe::check;
namespace position = hybridmoe::position;
using hybridmoe::Heads;
using hybridmoe::Index;
using position::Pairs;

using Env = hybridmoe::Environment<24, 100, 16>;
using Odd = hybridmoe::Environment<13, 120, 7>;

// Every option appears in some mode, and full and window attention with each kind of heads.
struct MultiHead : attention::Full<Heads{3, 3, 8}> {};
struct Grouped
    : attention::Full<Heads{4, 2, 10}, position::Rotary<500, 6>, attention::NormedQueryKey<>, attention::Bias<true, true>> {};
struct MultiQuery
    : attention::Full<Heads{33, 1, 4}, position::Rotary<10000, 0, Pairs::adjacent>, attention::NormedQueryKey<false>> {};
struct WindowMultiHead : attention::Local<Heads{2, 2, 10}, 40, position::Nothing, attention::NormedQueryKey<true, 1000>> {};
struct WindowGrouped
    : attention::Local<Heads{4, 2, 10}, 9, position::Rotary<10000, 4, Pairs::adjacent>, attention::Bias<true, false>> {};
struct WindowMultiQuery : attention::Local<Heads{2, 1, 6}, 2, attention::NormedQueryKey<false>, attention::Bias<false, true>> {};

namespace {

/// Gradients over more than one tile of keys.
check::Options sequences_of(Index longest) {
  check::Options options;
  options.length = longest;
  options.gradient_length = 37;
  return options;
}

template <class Mode, class E>
void matches_its_formula(test::AttentionReference reference) {
  check::SubjectOf<Mode, E, double, hybridmoe::Flat, hybridmoe::exec::Inline> subject(hybridmoe::exec::Inline{});
  const std::vector<double> parameters = subject.random_parameters(5);
  subject.set_parameters(parameters);
  const std::vector<Index> lengths{83, 1, 33};
  hybridmoe::BatchPlan plan = check::whole_sequences(lengths);
  check::Training<double> run;
  run.x = test::numbers(plan.rows() * E::width, 9);
  subject.train(plan, run);
  reference.width = static_cast<std::size_t>(E::width);
  const auto tensor = [&](const std::string& name) -> const double* {
    for (const check::TensorFacts& t : subject.facts.tensors)
      if (t.name == name) return parameters.data() + t.offset;
    FAIL("the layer has no tensor " << name);
    return nullptr;
  };
  double worst = 0, size = 0;
  bool numbers = true;
  std::ptrdiff_t at = 0;
  for (const Index length : lengths) {
    const std::vector<double> x(run.x.begin() + at, run.x.begin() + at + length * E::width);
    const std::vector<double> expected = reference.forward(x, tensor);
    for (const double value : expected) {
      const double y = run.y[static_cast<std::size_t>(at++)];
      numbers = numbers && std::isfinite(y);  // fmax passes over a NaN
      worst = std::fmax(worst, std::fabs(y - value));
      size = std::fmax(size, std::fabs(value));
    }
  }
  INFO("largest output " << size << ", largest difference " << worst);
  CHECK(numbers);
  CHECK(size > 0.1);
  CHECK(worst < 1e-12 * size);
}

}  // namespace

TEST_CASE("multi-head attention keeps the laws") { test::laws_everywhere<MultiHead, Env>(sequences_of(45)); }
TEST_CASE("grouped-query attention of heads of 10 with partial rotation, weighted QK-norm and biases keeps the laws") {
  test::laws_everywhere<Grouped, Odd>(sequences_of(70));
}
TEST_CASE("multi-query attention with adjacent pairs and QK-norm without weight keeps the laws") {
  test::laws_everywhere<MultiQuery, Env>(sequences_of(40));
}
// The rings of these two hold 96 and 64 positions: they wrap around.
TEST_CASE("window attention wider than a key tile keeps the laws") {
  test::laws_everywhere<WindowMultiHead, Odd>(sequences_of(104));
}
TEST_CASE("window attention with grouped queries keeps the laws") { test::laws_everywhere<WindowGrouped, Env>(sequences_of(75)); }
TEST_CASE("a window of two tokens keeps the laws") { test::laws_everywhere<WindowMultiQuery, Odd>(sequences_of(40)); }

TEST_CASE("the cost of a token is at most that of the last, and the mean over positions is the declared one") {
  const auto mean = [](const auto& layer, Index context) {
    double sum = 0;
    for (Index length = 1; length <= context; ++length) sum += layer.capped_flops(length, 0.5);
    return sum / static_cast<double>(context);
  };
  const MultiHead::Layer<Env> full;
  const WindowMultiHead::Layer<Odd> window;
  CHECK(full.capped_flops(100, 0) == full.flops_per_token(1).forward + 4.0 * 99 * 24);
  CHECK(window.capped_flops(30, 1) == window.flops_per_token(1).forward + 4.0 * 29 * 20);
  CHECK(window.capped_flops(120, 1) == window.flops_per_token(1).forward + 4.0 * 39 * 20);
  CHECK(std::fabs(mean(full, 100) - full.flops_per_token(100).forward) < 1e-6);
  CHECK(std::fabs(mean(window, 120) - window.flops_per_token(120).forward) < 1e-6);
}

TEST_CASE("attention computes its formula") {
  matches_its_formula<MultiHead, Env>({.heads = 3, .kv = 3, .size = 8, .base = 10000, .turned = 8});
  matches_its_formula<Grouped, Odd>({.heads = 4,
                                     .kv = 2,
                                     .size = 10,
                                     .base = 500,
                                     .turned = 6,
                                     .normed = true,
                                     .gain = true,
                                     .input_bias = true,
                                     .output_bias = true});
  matches_its_formula<MultiQuery, Env>(
      {.heads = 33, .kv = 1, .size = 4, .base = 10000, .turned = 4, .adjacent = true, .normed = true});
  matches_its_formula<WindowMultiHead, Odd>(
      {.heads = 2, .kv = 2, .size = 10, .window = 40, .normed = true, .gain = true, .epsilon = 1e-3});
  matches_its_formula<WindowGrouped, Env>(
      {.heads = 4, .kv = 2, .size = 10, .window = 9, .base = 10000, .turned = 4, .adjacent = true, .input_bias = true});
  matches_its_formula<WindowMultiQuery, Odd>(
      {.heads = 2, .kv = 1, .size = 6, .window = 2, .base = 10000, .turned = 6, .normed = true, .output_bias = true});
}
