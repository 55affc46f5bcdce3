// Attention to closed segments against its definition (embedding/segments_reference.hpp), what a scale without emphasis costs
// and wants, and tokens taken back.

#include <embedding/segments_reference.hpp>
#include <embedding/support.hpp>
#include <hybridmoe/attention/cross_scale.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/attention/together.hpp>
#include <hybridmoe/check/with_sources.hpp>
#include <hybridmoe/embedding/segments.hpp>

namespace attention = hybridmoe::attention;
namespace check = hybridmoe::check;
namespace embedding = hybridmoe::embedding;
namespace hm = hybridmoe;
namespace stream = hybridmoe::stream;
using hm::Heads;
using hm::Index;
using hm::SegmentLimits;

namespace {

constexpr SegmentLimits small{.phrase = {2, 4}, .sentence = {5, 10}, .paragraph = {11, 24}};
constexpr attention::CrossScaleOptions few{.keys = {7, 3, 2}, .limits = small, .segment = 6};
constexpr attention::CrossScaleOptions many{.keys = {40, 3, 2}, .limits = small, .segment = 6};
struct Grouped : attention::CrossScale<Heads{4, 2, 5}, few> {};
struct Shared : attention::CrossScale<Heads{10, 1, 3}, many> {};
struct Usual : attention::CrossScale<Heads{2, 2, 4}> {};
struct Source : embedding::Segments<embedding::SegmentOptions{.limits = small, .width = 6, .boundary = 5}> {};
struct UsualSource : embedding::Segments<> {};

template <class Mixer, class From>
using Driven = check::Driven<check::WithSources<Mixer, 1, From>, check::Drive<stream::Decisions, 9>>;

template <class Description, class Env>
void matches(test::SegmentReference source, test::CrossScaleReference reference, Index length, std::uint64_t seed) {
  check::SubjectOf<Description, Env, double, hm::Flat, hm::exec::Inline> subject(hm::exec::Inline{});
  std::vector<double> parameters = subject.random_parameters(seed);
  subject.set_parameters(parameters);
  hm::BatchPlan plan = check::whole_sequences({3, length});
  check::Training<double> run;
  run.x = test::numbers(plan.rows() * Env::width, seed + 1);
  subject.train(plan, run);
  source.width = reference.width = hm::to_size(Env::width);
  source.tensor = reference.tensor = test::finder(subject, parameters);
  const std::vector<double> e(run.x.begin() + 3 * Env::width, run.x.end());
  const std::vector<double> emphasis = test::driven_emphasis(e, source.width, reference.tensor("drive"));
  CHECK(std::count(emphasis.begin(), emphasis.end(), 0.0) > 0);
  const auto segments = source.run(e, emphasis);
  CHECK(test::distance(run.y.data() + 3 * Env::width, reference.run(segments.x, segments.closed, emphasis)) < 1e-12);
  for (Index i = 0; i < 2 * Env::width; ++i) CHECK(run.y[hm::to_size(i)] == 0.0);  // nothing has closed yet
}

/// The mixer and its source under an emphasis that the test sets.
struct Controlled {
  using Env = hm::Environment<10, 80, 9>;
  using Layer = typename check::WithSources<Grouped, 1, Source>::template Layer<Env>;
  using Parameters = typename Layer::template Parameters<double, hm::Flat>;
  using Tape = typename Layer::template Tape<double>;
  static constexpr Index length = 50;
  std::unique_ptr<Parameters> p = std::make_unique<Parameters>(), gradient = std::make_unique<Parameters>();
  std::vector<double> decisions = std::vector<double>(length * 9, 0.7), d_decisions = decisions;
  std::vector<double> x = test::numbers(length * 10, 3), y = x, dy = test::numbers(length * 10, 4), dx = x;

  explicit Controlled(std::uint64_t seed) { check::spread_start<Layer, double>(seed, *p); }
  void emphasise(Index scale, double value) {
    for (Index row = 0; row < length; ++row) decisions[hm::to_size(row * 9 + 6 + scale)] = value;
  }
  /// Σ y·dy; d_decisions, if wanted.
  double run(bool backward) {
    hm::BatchPlan plan = check::whole_sequences({length});
    const Index* const arrays = plan.data();
    const hm::Extent extent{length, 1, true};
    std::vector<std::byte> memory(hm::to_size(hm::planned_bytes<Tape>(extent) + 64), std::byte{0xff});
    std::vector<std::byte> scratch(hm::to_size(Layer::template workspace_bytes<double, hm::Flat>(extent) + 64), std::byte{0xff});
    const auto arena_of = [](std::vector<std::byte>& bytes) {
      std::byte* const at = bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64;
      return hm::Arena{at, bytes.data() + bytes.size()};
    };
    hm::Arena arena = arena_of(memory);
    const Tape tape(arena, extent);
    hm::Call<hm::exec::Inline> call;
    call.batch = plan.view(arrays);
    call.training = true;
    call.arena = arena_of(scratch);
    d_decisions.assign(d_decisions.size(), 0.0);
    call.side.set<stream::Decisions>(static_cast<const double*>(decisions.data()), d_decisions.data(), 9);
    Layer::forward(call, *p, hm::Rows<const double, 10>{x.data()}, hm::Rows<double, 10>{y.data()}, {}, tape);
    if (backward)
      Layer::backward(call, *p, hm::Rows<const double, 10>{x.data()}, tape, hm::Rows<const double, 10>{dy.data()},
                      hm::Rows<double, 10>{dx.data()}, *gradient);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  }
};

}  // namespace

TEST_CASE("attention to segments computes its formula") {
  const test::SegmentReference source{.size = 6, .pair = 5, .least = {2, 5, 11}, .most = {4, 10, 24}};
  using Env = hm::Environment<10, 160, 9>;
  matches<Driven<Grouped, Source>, Env>(source, {.heads = 4, .kv = 2, .size = 5, .keys = {7, 3, 2}}, 75, 2);
  matches<Driven<Shared, Source>, Env>(source, {.heads = 10, .kv = 1, .size = 3, .keys = {40, 3, 2}}, 150, 3);
  const test::SegmentReference usual{.size = 3, .pair = 32};
  matches<Driven<Usual, UsualSource>, hm::Environment<12, 700, 64>>(usual, {.heads = 2, .kv = 2, .size = 4}, 640, 8);
}

TEST_CASE("where nobody makes segments, attention to them is zero and learns nothing") {
  using Env = hm::Environment<10, 80, 9>;
  check::SubjectOf<Grouped, Env, double, hm::Flat, hm::exec::Inline> subject(hm::exec::Inline{});
  subject.set_parameters(subject.random_parameters(1));
  hm::BatchPlan plan = check::whole_sequences({20});
  check::Training<double> run;
  run.x = run.dy = run.dx = test::numbers(200, 2);
  run.gradient.assign(hm::to_size(subject.facts.elements), 0.0);
  const std::vector<double> before = run.dx;
  subject.train(plan, run);
  CHECK(run.y == std::vector<double>(200, 0.0));
  CHECK(run.dx == before);
  CHECK(run.gradient == std::vector<double>(run.gradient.size(), 0.0));
}

TEST_CASE("a scale without emphasis weighs nothing, and what it would add is its gradient") {
  for (Index scale = 0; scale < 3; ++scale) {
    Controlled run(5);
    run.emphasise(scale, 0);
    const double at_zero = run.run(true);
    double analytic = 0;
    for (Index row = 0; row < Controlled::length; ++row) analytic += run.d_decisions[hm::to_size(row * 9 + 6 + scale)];
    // One-sided differences, extrapolated from three steps.
    const double h = 1e-4;
    double slope[3];
    for (int i = 0; i < 3; ++i) {
      const double step = h / (1 << i);
      run.emphasise(scale, step);
      slope[i] = (run.run(false) - at_zero) / step;
    }
    const double twice = 2 * slope[1] - slope[0], better = 2 * slope[2] - slope[1], fine = (4 * better - twice) / 3;
    CHECK(std::fabs(analytic) > 0.01);
    CHECK(std::fabs(analytic - fine) < 1e-6 * std::fabs(analytic));
    // Its keys do not matter, not even if they are no numbers.
    run.emphasise(scale, 0);
    for (double& value : run.p->inner.key[scale].data) value = std::numeric_limits<double>::quiet_NaN();
    CHECK(run.run(false) == at_zero);
  }
}

TEST_CASE("a scale without emphasis leaves all gradients finite, however much its keys would weigh") {
  for (Index scale = 0; scale < 3; ++scale) {
    Controlled run(5);
    run.emphasise(scale, 0);
    for (Index i = scale; i < run.p->inner.bias.size; i += 3) run.p->inner.bias.data[i] = 1000;
    run.run(true);
    Index wrong = 0;
    const auto look = [&wrong](const auto& values, Index count) {
      for (Index i = 0; i < count; ++i) wrong += std::isfinite(values[i]) ? 0 : 1;
    };
    Controlled::Layer::visit([&](const hm::Name&, hm::Trait, const auto& tensor) { look(tensor.data, tensor.size); }, hm::Name{},
                             *run.gradient);
    look(run.dx.data(), hm::to_index(run.dx.size()));
    look(run.d_decisions.data(), hm::to_index(run.d_decisions.size()));
    CHECK(wrong == 0);
  }
}

TEST_CASE("the logarithm of distances is that of the library") {
  float worst = 0;
  for (std::int32_t i = 1; i < (1 << 20); i += i < 5000 ? 1 : 97) {
    const auto exact = static_cast<float>(std::log(static_cast<double>(i)));
    const float got = hm::ops::log_lag(static_cast<float>(i));
    worst = std::fmax(worst, std::fabs(got - exact) / std::fmax(exact, 1.0f));
  }
  CHECK(worst < 2e-7f);
  CHECK(hm::ops::log_lag(1.0f) == 0.0f);
}

TEST_CASE("tokens taken back leave no trace in attention to segments") {
  using Both = attention::Together<Shared, attention::Local<Heads{1, 1, 4}, 5>>;
  test::rewinds_to_the_bit<Driven<Both, Source>, hm::Environment<10, 400, 7, 5>>(400, 1);
  test::rewinds_to_the_bit<Driven<Usual, UsualSource>, hm::Environment<12, 500, 40, 9>>(500, 2);
}
