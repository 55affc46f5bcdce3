// The adaptive norm against its definition in double, with powers and derivatives formed another way; its corners; its start.

#include <cmath>
#include <cstring>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/model/start.hpp>
#include <hybridmoe/norm/adaptive.hpp>
#include <hybridmoe/norm/rms_norm.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
namespace norm = hm::norm;
using hm::Index;
using Numbers = std::vector<double>;
using Six = norm::Epsilon<1, 1'000'000>;

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// One call's inputs and outputs. Two layers have decisions, and the norm is the second's.
template <class T, Index width, class Description = norm::Adaptive<>>
struct Run {
  using Layer = typename Description::template Layer<hm::Environment<width, 64>>;
  using Parameters = typename Layer::template Parameters<T, hm::Flat>;
  static constexpr Index layer = 1, columns = 2 * hm::Decision::fields + hm::Decision::scales;
  Index rows;
  bool streams = true;
  Numbers x, dy, c, decisions, weight, by_budget, budget;
  double strength = 4, by_complexity = 0;
  std::vector<T> y, dx, dc, d_decisions;
  Parameters p{}, gradient{};

  explicit Run(Index n, std::uint64_t seed = 1)
      : rows(n),
        x(test::numbers(n * width, seed, 1.5, 0.3)),
        dy(test::numbers(n * width, seed + 1)),
        c(test::numbers(n, seed + 2, 0.2, 0.5)),
        decisions(test::numbers(n * columns, seed + 3)),
        weight(test::numbers(width, seed + 4, 0.3, 1)),
        by_budget(test::numbers(width, seed + 5, 0.4)),
        budget(test::numbers(n, seed + 6, 0.25, 0.5)) {
    budget[0] = 1;
  }

  /// Everything is added to 1 where the definition adds.
  void run() {
    for (Index i = 0; i < width; ++i) p.weight[i] = static_cast<T>(weight[at(i)]);
    if constexpr (requires { p.strength; }) {
      for (Index i = 0; i < width; ++i) p.by_budget[i] = static_cast<T>(by_budget[at(i)]);
      p.strength[0] = static_cast<T>(strength);
      p.by_complexity[0] = static_cast<T>(by_complexity);
    }
    for (std::size_t i = 0; i < sizeof(Parameters) / sizeof(T); ++i) reinterpret_cast<T*>(&gradient)[i] = T(1);
    const std::vector<T> xt = test::cast<T>(x), dyt = test::cast<T>(dy), ct = test::cast<T>(c), dt = test::cast<T>(decisions),
                         bt = test::cast<T>(budget);
    y.assign(x.size(), std::numeric_limits<T>::quiet_NaN());
    dx.assign(x.size(), T(1));
    dc.assign(c.size(), T(1));
    d_decisions.assign(decisions.size(), T(1));
    const hm::Extent extent{rows, 1, true};
    std::vector<std::byte> memory(
        at(hm::planned_bytes<typename Layer::template Tape<T>>(extent) + Layer::template workspace_bytes<T, hm::Flat>(extent)) +
        64);
    hm::Arena arena{memory.data(), memory.data() + memory.size()};
    const typename Layer::template Tape<T> tape(arena, extent);
    hm::Call<hm::exec::Inline> call;
    call.batch.rows = rows;
    call.training = true;
    call.arena = arena;
    call.layer = layer;
    if (streams) {
      call.side.set<hm::stream::Complexity>(ct.data(), dc.data(), 1);
      call.side.set<hm::stream::Budget>(bt.data(), static_cast<T*>(nullptr), 1);
      call.side.set<hm::stream::Decisions>(dt.data(), d_decisions.data(), columns);
    }
    Layer::forward(call, p, hm::Rows<const T, width>{xt.data()}, hm::Rows<T, width>{y.data()}, {}, tape);
    Layer::backward(call, p, hm::Rows<const T, width>{xt.data()}, tape, hm::Rows<const T, width>{dyt.data()},
                    hm::Rows<T, width>{dx.data()}, gradient);
  }

  double alpha(Index row) const {
    const double shift = streams ? decisions[at(row * columns + layer * hm::Decision::fields + hm::Decision::norm)] : 0;
    const double u = strength + by_complexity * (2 * (streams ? c[at(row)] : 0.5) - 1) + shift;
    return 0.5 + 0.5 / (1 + std::exp(-u));
  }

  double gain(Index row, Index i) const { return weight[at(i)] + (streams ? 1 - budget[at(row)] : 0) * by_budget[at(i)]; }

  /// Holds what run() left against y_i = γ_i x_i r^{−α} and its derivatives, each written out: ∂r/∂x_j = x_j/(D r).
  void check(double tolerance) const {
    Numbers expected_weight(at(width), 1), expected_by_budget(at(width), 1);
    double expected_strength = 1, expected_slope = 1;
    for (Index row = 0; row < rows; ++row) {
      const double* const in = x.data() + row * width;
      const double* const given = dy.data() + row * width;
      double mean = 0;
      for (Index i = 0; i < width; ++i) mean += in[i] * in[i] / static_cast<double>(width);
      const double r = std::sqrt(mean + 1e-6), a = alpha(row), power = std::pow(r, -a);
      double by_alpha = 0;
      for (Index i = 0; i < width; ++i) {
        CHECK(std::fabs(static_cast<double>(y[at(row * width + i)]) - gain(row, i) * in[i] * power) < tolerance);
        expected_weight[at(i)] += given[i] * in[i] * power;
        expected_by_budget[at(i)] += (streams ? 1 - budget[at(row)] : 0) * given[i] * in[i] * power;
        by_alpha += given[i] * gain(row, i) * in[i] * -std::log(r) * power;
        double by_x = 1 + given[i] * gain(row, i) * power;
        for (Index j = 0; j < width; ++j)
          by_x += given[j] * gain(row, j) * in[j] * -a * std::pow(r, -a - 1) * in[i] / (static_cast<double>(width) * r);
        CHECK(std::fabs(static_cast<double>(dx[at(row * width + i)]) - by_x) < tolerance);
      }
      const double s = 2 * a - 1, by_u = by_alpha * 0.5 * s * (1 - s);
      expected_strength += by_u;
      expected_slope += by_u * (2 * (streams ? c[at(row)] : 0.5) - 1);
      CHECK(std::fabs(static_cast<double>(dc[at(row)]) - 1 - (streams ? by_u * 2 * by_complexity : 0)) < tolerance);
      for (Index j = 0; j < columns; ++j) {
        const bool own = streams && j == layer * hm::Decision::fields + hm::Decision::norm;
        CHECK(std::fabs(static_cast<double>(d_decisions[at(row * columns + j)]) - 1 - (own ? by_u : 0)) < tolerance);
      }
    }
    const double summed = tolerance * static_cast<double>(rows);
    for (Index i = 0; i < width; ++i) CHECK(std::fabs(static_cast<double>(gradient.weight[i]) - expected_weight[at(i)]) < summed);
    for (Index i = 0; i < width; ++i)
      CHECK(std::fabs(static_cast<double>(gradient.by_budget[i]) - expected_by_budget[at(i)]) < summed);
    CHECK(std::fabs(static_cast<double>(gradient.strength[0]) - expected_strength) < summed);
    CHECK(std::fabs(static_cast<double>(gradient.by_complexity[0]) - expected_slope) < summed);
  }
};

template <class T>
void check_definition(double tolerance) {
  for (const double strength : {4.0, 0.0, -3.0, 12.0}) {
    Run<T, 40> run(3);
    run.strength = strength;
    run.by_complexity = 0.8;
    run.run();
    run.check(tolerance);
  }
  Run<T, 33> many(700, 7);  // several blocks of rows
  many.strength = 0.5;
  many.by_complexity = -1.5;
  many.run();
  many.check(tolerance);
  Run<T, 300> wide(2, 9);  // several ranges of columns
  wide.strength = -0.5;
  wide.by_complexity = 2;
  wide.streams = false;
  wide.run();
  wide.check(tolerance);
}

}  // namespace

TEST_CASE("the adaptive norm agrees with its definition") {
  check_definition<double>(1e-12);
  check_definition<float>(1e-4);
}

TEST_CASE("an adaptive norm of strength 1 is RMSNorm, to the bit, at full budget") {
  const auto compare = [](auto zero) {
    using T = decltype(zero);
    Run<T, 40> adaptive(300);
    Run<T, 40, norm::Rms<Six>> rms(300);
    adaptive.strength = 60;  // σ is 1
    adaptive.budget.assign(adaptive.budget.size(), 1);
    adaptive.by_budget.assign(adaptive.by_budget.size(), std::numeric_limits<double>::quiet_NaN());
    adaptive.decisions.assign(adaptive.decisions.size(), 0.25);
    adaptive.run();
    rms.run();
    CHECK(adaptive.y == rms.y);
    for (std::size_t i = 0; i < rms.dx.size(); ++i)
      CHECK(std::fabs(adaptive.dx[i] - rms.dx[i]) < 8 * std::numeric_limits<T>::epsilon() * (1 + std::fabs(rms.dx[i])));
    for (Index i = 0; i < 40; ++i)
      CHECK(std::fabs(adaptive.gradient.weight[i] - rms.gradient.weight[i]) < 1e3 * std::numeric_limits<T>::epsilon());
  };
  compare(0.0);
  compare(0.0f);
}

TEST_CASE("the adaptive norm of zeros, of large and of small rows is finite") {
  Run<float, 40> run(4);
  for (Index i = 0; i < 40; ++i) {
    run.x[at(i)] = 0;
    run.x[at(40 + i)] *= 1e15;
    run.x[at(80 + i)] *= 1e-15;
  }
  run.strength = 0;
  run.run();
  for (const float v : run.y) CHECK(hm::math::is_finite(v));
  for (const float v : run.dx) CHECK(hm::math::is_finite(v));
  for (const float v : run.d_decisions) CHECK(hm::math::is_finite(v));
}

TEST_CASE("gains of adaptive norms start at 1; or by depth within the layers of a model, and at 1 elsewhere") {
  const auto started = [](auto description, const hm::Name& name) {
    using Layer = typename decltype(description)::template Layer<hm::Environment<8, 16>>;
    typename Layer::template Parameters<double, hm::Flat> p{};
    Layer::visit(hm::StartTensors{hm::random::key_of(1), 6}, name, p);
    CHECK(p.strength[0] == 4);
    CHECK(p.by_complexity[0] == 0);
    for (Index i = 0; i < 8; ++i) CHECK(p.by_budget[i] == 0);
    for (Index i = 1; i < 8; ++i) CHECK(p.weight[i] == p.weight[0]);
    return p.weight[0];
  };
  const hm::Name root{};
  const hm::Name layers = root / "layers", third = layers / 3, first = layers / 0, experts = third / "experts";
  using ByDepth = norm::Adaptive<norm::GainStart::by_depth>;
  CHECK(started(ByDepth{}, third / "mixer_norm") == 0.5);
  CHECK(started(ByDepth{}, first / "mixer_norm") == 1);
  CHECK(started(ByDepth{}, experts / 8) == 0.5);
  CHECK(started(ByDepth{}, root / "final_norm") == 1);
  CHECK(started(ByDepth{}, root / 8) == 1);
  CHECK(started(norm::Adaptive<>{}, third / "mixer_norm") == 1);
}
