// The controller against its formula, the ranges of its decisions, and what it does without the streams that it reads.

#include <algorithm>
#include <cmath>
#include <memory>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/control/controller.hpp>
#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/model/start.hpp>
#include <support/numbers.hpp>

namespace control = hybridmoe::control;
namespace stream = hybridmoe::stream;
using hybridmoe::Index;
using Env = hybridmoe::SourceEnvironment<hybridmoe::Environment<8, 100, 32>, 2, 40>;
constexpr control::ControllerOptions small{.hidden = 9, .block = 5};
constexpr Index columns = 15;

namespace {

/// A training call of a controller.
template <control::ControllerOptions options>
struct Run {
  using Layer = typename control::Controller<options>::template Layer<Env>;
  using Parameters = typename Layer::template Parameters<double, hybridmoe::Flat>;
  using Tape = typename Layer::template Tape<double>;

  std::unique_ptr<Parameters> p = std::make_unique<Parameters>(), gradient = std::make_unique<Parameters>();
  hybridmoe::BatchPlan plan;
  std::vector<double> complexity, d_complexity, budget, target;  // empty: absent
  std::vector<double> decisions, d_decisions;

  Run() { Layer::visit(hybridmoe::StartTensors{hybridmoe::random::key_of(3), 2}, hybridmoe::Name{}, *p); }
  /// All tensors random.
  void spread(double size) {
    std::uint64_t seed = 20;
    Layer::visit(
        [&](const auto&, const auto&, auto& tensor) {
          const std::vector<double> values = test::numbers(tensor.size, ++seed, size);
          std::copy(values.begin(), values.end(), tensor.data);
        },
        hybridmoe::Name{}, *p);
  }
  void go() {
    const hybridmoe::Extent extent{plan.rows(), plan.sequences(), true};
    const Index tape_bytes = hybridmoe::planned_bytes<Tape>(extent);
    const Index scratch_bytes = Layer::template workspace_bytes<double, hybridmoe::Flat>(extent);
    std::vector<std::byte> memory(hybridmoe::to_size(tape_bytes + scratch_bytes + 64));
    std::byte* const base = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
    hybridmoe::Arena tape_arena{base, base + tape_bytes};
    const Tape tape(tape_arena, extent);
    hybridmoe::Call<hybridmoe::exec::Inline> call;
    call.batch = plan.view(plan.data());
    call.arena = {base + tape_bytes, base + tape_bytes + scratch_bytes};
    call.training = true;
    const auto set = [&]<class Stream>(std::vector<double>& values, double* d) {
      if (!values.empty()) call.side.template set<Stream>(static_cast<const double*>(values.data()), d, 1);
    };
    d_complexity.assign(complexity.size(), 0.0);
    set.template operator()<stream::Complexity>(complexity, d_complexity.data());
    set.template operator()<stream::Budget>(budget, nullptr);
    set.template operator()<stream::Target>(target, nullptr);
    Layer::forward(call, *p, {}, {}, {}, tape);
    Layer::template streams<double>(tape, plan.rows(), call.side);
    const auto out = call.side.template rows<stream::Decisions, double>();
    REQUIRE(out.width == columns);
    decisions.assign(out.value, out.value + plan.rows() * columns);
    *gradient = {};
    if (d_decisions.empty()) return;
    for (Index i = 0; i < plan.rows() * columns; ++i) out.gradient[i] += d_decisions[hybridmoe::to_size(i)];
    Layer::backward(call, *p, {}, tape, {}, {}, *gradient);
  }
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// Decisions of one row by the formula; c: the complexities of its sequence.
template <class Parameters>
std::vector<double> by_formula(const Parameters& p, const std::vector<double>& c, Index t, double beta, double q) {
  const Index block = t / 5;
  double mean = block == 0 ? 0.5 : 0.0;
  for (Index i = 0; i < 5 && block > 0; ++i) mean += c[static_cast<std::size_t>(5 * (block - 1) + i)] / 5;
  const double in[4] = {std::log(1 + 5.0 * static_cast<double>(block)) / std::log(101.0), mean, beta, q};
  std::vector<double> result;
  for (Index j = 0; j < columns; ++j) {
    double o = p.output_bias[j];
    for (Index h = 0; h < 9; ++h) {
      double a = p.input_bias[h];
      for (Index i = 0; i < 4; ++i) a += p.input[h * 4 + i] * in[i];
      o += p.output[j * 9 + h] * a * sigmoid(a);
    }
    const Index field = j < 12 ? j % 6 : 4;
    if (field < 3)
      result.push_back(sigmoid(o + 3));
    else if (field < 5)
      result.push_back(std::clamp(1.2 * sigmoid(o + 2) - 0.1, 0.0, 1.0));
    else
      result.push_back(o);
  }
  return result;
}

}  // namespace

TEST_CASE("decisions are what the formula says, row by row, over several blocks and sequences") {
  Run<small> run;
  run.spread(0.7);
  const std::vector<Index> lengths{33, 1, 12};
  for (Index s = 0; s < 3; ++s) run.plan.add(s, 0, lengths[hybridmoe::to_size(s)]);
  for (const double v : test::numbers(46, 4)) run.complexity.push_back(sigmoid(v));
  for (const double v : test::numbers(46, 5)) run.budget.push_back(std::round(4 * sigmoid(v)) / 4);
  for (const double v : test::numbers(46, 6)) run.target.push_back(std::round(4 * sigmoid(v)) / 4);
  run.go();
  std::size_t row = 0;
  double worst = 0;
  for (const Index length : lengths) {
    const std::vector<double> c(run.complexity.begin() + static_cast<std::ptrdiff_t>(row), run.complexity.end());
    for (Index t = 0; t < length; ++t, ++row) {
      const std::vector<double> expected = by_formula(*run.p, c, t, run.budget[row], run.target[row]);
      for (std::size_t j = 0; j < expected.size(); ++j)
        const double off = std::fabs(expected[j] - run.decisions[row * expected.size() + j]);
      worst = off <= worst ? worst : off;  // fmax would pass over a NaN
    }
  }
  CHECK(worst < 1e-12);
}

TEST_CASE("decisions start near everything, unsaturated, and change with the block and not within it") {
  Run<small> run;
  run.plan.add(0, 0, 20);
  run.go();
  const double hard = 1.2 * sigmoid(2) - 0.1;
  for (Index i = 0; i < 20 * columns; ++i) {
    const Index column = i % columns, field = column < 12 ? column % 6 : 4;
    const double expected = field < 3 ? sigmoid(3) : field < 5 ? hard : 0.0;
    CHECK(std::fabs(run.decisions[hybridmoe::to_size(i)] - expected) < 1e-15);
  }
  run.spread(0.7);
  for (const double v : test::numbers(20, 4)) run.complexity.push_back(sigmoid(v));
  run.budget.assign(20, 0.5);
  run.target.assign(20, 0.25);
  run.budget[12] = 0.75;
  run.go();
  const auto same = [&](Index a, Index b) {
    return std::equal(run.decisions.begin() + a * columns, run.decisions.begin() + (a + 1) * columns,
                      run.decisions.begin() + b * columns);
  };
  CHECK((same(5, 6) && same(5, 9) && same(10, 14) && !same(4, 5) && !same(9, 10)));
  CHECK(!same(12, 11));
}

TEST_CASE("the hard fractions reach 0 and 1 exactly, with no gradient there; the others stay inside") {
  Run<small> run;
  run.plan.add(0, 0, 7);
  run.d_decisions.assign(7 * columns, 1.0);
  for (const double bias : {-20.0, 20.0}) {
    for (Index j = 0; j < columns; ++j) run.p->output_bias[j] = bias;
    run.go();
    for (Index i = 0; i < 7 * columns; ++i) {
      const Index column = i % columns, field = column < 12 ? column % 6 : 4;
      const double v = run.decisions[hybridmoe::to_size(i)];
      if (field == 3 || field == 4) {
        CHECK(v == (bias < 0 ? 0.0 : 1.0));
        CHECK(run.gradient->output_bias[column] == 0);
      }
      if (field < 3) CHECK((0 < v && v < 1));
      if (field == 5) CHECK(v == bias);
    }
  }
}

TEST_CASE("without streams, and with budgets that are none, inputs take neutral values") {
  Run<small> absent, neutral, wrong, clean;
  for (Run<small>* const run : {&absent, &neutral, &wrong, &clean}) {
    run->spread(0.7);
    run->plan.add(0, 0, 20);
  }
  neutral.complexity.assign(20, 0.5);
  neutral.budget.assign(20, 1.0);
  neutral.target.assign(20, 1.0);
  absent.go();
  neutral.go();
  CHECK(absent.decisions == neutral.decisions);
  wrong.budget.assign(20, std::nan(""));
  wrong.target.assign(20, 7.0);
  clean.budget.assign(20, 0.0);
  wrong.go();
  clean.go();
  CHECK(wrong.decisions == clean.decisions);
}

TEST_CASE("a blind controller decides one thing for all rows, and learns it; an unlearned one stays as it is") {
  constexpr control::ControllerOptions blind{
      .hidden = 9, .block = 5, .context = false, .complexity = false, .budget = false, .target = false};
  constexpr control::ControllerOptions fixed{.hidden = 9, .block = 5, .learned = false};
  const auto try_it = [](auto& run, bool learns) {
    run.plan.add(0, 0, 20);
    for (const double v : test::numbers(20, 4)) run.complexity.push_back(sigmoid(v));
    run.budget.assign(20, 0.5);
    run.budget[3] = 0.25;
    run.d_decisions = test::numbers(20 * columns, 8);
    run.go();
    for (Index t = 1; t < 20; ++t)
      CHECK(std::equal(run.decisions.begin(), run.decisions.begin() + columns, run.decisions.begin() + t * columns));
    CHECK(std::all_of(run.d_complexity.begin(), run.d_complexity.end(), [](double v) { return v == 0; }));
    CHECK((run.gradient->output_bias[0] != 0) == learns);
    CHECK((run.gradient->input[0] != 0) == learns);
  };
  Run<blind> learns;
  learns.spread(0.7);
  try_it(learns, true);
  Run<fixed> stays;
  try_it(stays, false);
}
