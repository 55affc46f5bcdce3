// The channel mixer of HybridMoE against loops over tokens, experts and slices in double; its caps, what it skips, what V learns.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/channel/hybrid_moe.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <router/dynamic_reference.hpp>
#include <router/routers.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
namespace channel = hm::channel;
namespace router = hm::router;
namespace stream = hm::stream;
using Catch::Matchers::WithinAbs;
using channel::SharedPlus;
using hm::Index;
using hm::to_size;
using test::Streams;
using test::Tensors;

namespace {

constexpr Index width = 6;
using Env = hm::Environment<width, 64>;

struct Settings {
  test::RouterSettings router;
  Index hidden, shared, slices = 1, modulation = 0;
  bool stand_in = false;
};

struct Naive {
  std::vector<double> y;
  std::vector<Index> experts, slices;                  ///< how many each row went through
  std::vector<double> rest;                            ///< 1 − G
  double distillation = 0, weight = 0, slice_sum = 0;  ///< the last two: prices, (1 − q)² times what was used, mean over rows
};

double silu(double v) { return v / (1 + std::exp(-v)); }

std::vector<double> hidden_of(const Tensors& t, const std::string& at, Index hidden, const double* x,
                              const std::vector<double>& q) {
  std::vector<double> h(to_size(hidden));
  for (Index i = 0; i < hidden; ++i) {
    h[to_size(i)] = silu(test::inner(t.at(at + ".gate.weight"), i, x, width)) * test::inner(t.at(at + ".up.weight"), i, x, width);
    if (!q.empty()) h[to_size(i)] *= 1 + test::inner(t.at(at + ".modulate.weight"), i, q.data(), hm::to_index(q.size()));
  }
  return h;
}
void add(const std::vector<double>& matrix, const std::vector<double>& h, double factor, double* y) {
  for (Index c = 0; c < width; ++c) y[c] += factor * test::inner(matrix, c, h.data(), hm::to_index(h.size()));
}

Naive naive(const Settings& s, const Tensors& t, const Streams& streams, const std::vector<double>& x) {
  Naive r;
  const Index rows = hm::to_index(x.size()) / width, slice = s.shared / s.slices;
  r.y.assign(x.size(), 0.0);
  double missed = 0, whole = 0, distilled = 0;
  for (Index row = 0; row < rows; ++row) {
    const double* in = x.data() + row * width;
    double* out = r.y.data() + row * width;
    const test::Routed routed = test::route(s.router, t, "router.", streams, row, in);
    const auto output = [&](Index e) {
      std::vector<double> y(to_size(width), 0.0);
      const std::string at = "experts." + std::to_string(e);
      add(t.at(at + ".down.weight"), hidden_of(t, at, s.hidden, in, {}), 1, y.data());
      return y;
    };
    std::vector<double> lost(to_size(width), 0.0);  // R° − R
    double full_square = 0;
    {
      std::vector<double> own(to_size(width), 0.0), full(to_size(width), 0.0);
      for (const auto& [e, g] : routed.own)
        for (Index c = 0; c < width; ++c) own[to_size(c)] += g * output(e)[to_size(c)];
      for (const auto& [e, g] : routed.unbounded)
        for (Index c = 0; c < width; ++c) full[to_size(c)] += g * output(e)[to_size(c)];
      for (Index c = 0; c < width; ++c) {
        out[c] += own[to_size(c)];
        lost[to_size(c)] = full[to_size(c)] - own[to_size(c)];
        full_square += full[to_size(c)] * full[to_size(c)];
      }
    }
    std::vector<double> q(to_size(s.modulation));
    for (Index i = 0; i < s.modulation; ++i)
      q[to_size(i)] = test::inner(t.at("mix.weight"), i, routed.rho.data(), s.router.count);
    double n = 1;
    if (s.slices > 1) {
      const double u = test::inner(t.at("slice_gate.weight"), 0, in, width);
      const double open = std::min(1.0, std::max(0.0, 1.2 / (1 + std::exp(-u - 2)) - 0.1));
      const double allowed = std::max(1.0, std::ceil(streams.beta(row) * static_cast<double>(s.slices)));
      n = 1 + (allowed - 1) * streams.spent(row, streams.decision(row, hm::Decision::slices) * open);
    }
    Index used = 0;
    for (Index k = 0; k < s.slices && n > static_cast<double>(k); ++k, ++used) {
      const std::string at = "shared." + std::to_string(k);
      add(t.at(at + ".down.weight"), hidden_of(t, at, slice, in, q), std::min(1.0, n - static_cast<double>(k)), out);
    }
    r.experts.push_back(hm::to_index(routed.own.size()));
    r.slices.push_back(used);
    const double free = 1 - streams.goal(row);
    r.weight += free * free * test::Routed::sum(routed.own) / static_cast<double>(rows);
    r.slice_sum += free * free * n / static_cast<double>(rows);
    if (!s.stand_in) continue;
    const double rest = std::max(0.0, 1 - (test::Routed::sum(routed.own) + 0.01) / (test::Routed::sum(routed.unbounded) + 0.01));
    std::vector<double> stand(to_size(width), 0.0);
    add(t.at("stand_in.weight"), hidden_of(t, "shared.0", slice, in, q), rest, stand.data());
    for (Index c = 0; c < width; ++c) out[c] += stand[to_size(c)];
    r.rest.push_back(rest);
    if ((row + 3 * streams.layer) % 8 != 0) continue;
    ++distilled;
    whole += full_square;
    for (Index c = 0; c < width; ++c) missed += std::pow(stand[to_size(c)] - lost[to_size(c)], 2);
  }
  if (distilled > 0) r.distillation = missed / distilled / (whole / distilled + 1e-6);
  return r;
}

/// A layer with parameters, streams and memory that starts as NaN.
template <class Layer, class T, class Space = hm::exec::Inline>
struct Bench {
  using Tape = typename Layer::template Tape<T>;
  typename Layer::template Parameters<T, hm::Flat> p{}, gradient{};
  hm::Call<Space> call{};
  std::vector<Index> position;
  std::vector<std::byte> memory;
  std::vector<T> streams[6], used;

  explicit Bench(const Tensors& tensors) { take(tensors); }
  void take(const Tensors& tensors) {
    Layer::visit(
        [&](const hm::Name& name, hm::Trait, auto& tensor) {
          const auto& from = tensors.at(name.text());
          REQUIRE(from.size() == to_size(tensor.size));
          for (Index i = 0; i < tensor.size; ++i) tensor.data[i] = static_cast<T>(from[to_size(i)]);
        },
        hm::Name{}, p);
  }
  template <class Stream>
  void set(const std::vector<double>& values, Index columns) {
    streams[Stream::number] = test::cast<T>(values);
    if (!values.empty())
      call.side.template set<Stream>(static_cast<const T*>(streams[Stream::number].data()), static_cast<T*>(nullptr), columns);
  }
  /// A forward; then f(tape) while its memory is there.
  std::vector<T> forward(const Streams& s, const std::vector<double>& x, bool training, const auto& f) {
    const Index rows = hm::to_index(x.size()) / width;
    const hm::Extent extent{rows, 1, training};
    position.resize(to_size(rows));
    std::iota(position.begin(), position.end(), Index{0});
    used.assign(to_size(rows * 2 * hm::Used::fields), T(-1));
    memory.assign(to_size(hm::planned_bytes<Tape>(extent) + Layer::template workspace_bytes<T, hm::Flat>(extent)),
                  std::byte{0xff});
    call.batch.rows = rows;
    call.batch.sequences = 1;
    call.batch.row_position = position.data();
    call.training = training;
    call.layer = s.layer;
    call.side.used = used.data();
    call.side.used_width = 2 * hm::Used::fields;
    set<stream::Complexity>(s.complexity, 1);
    set<stream::Decisions>(s.decisions, s.decision_width);
    set<stream::Context>(s.context, s.context_width);
    set<stream::Budget>(s.budget, 1);
    set<stream::Target>(s.target, 1);
    call.arena = {memory.data(), memory.data() + memory.size()};
    const Tape tape(call.arena, extent);
    const auto xt = test::cast<T>(x);
    std::vector<T> y(x.size(), std::numeric_limits<T>::quiet_NaN());
    Layer::forward(call, p, hm::Rows<const T, width>{xt.data()}, hm::Rows<T, width>{y.data()}, {}, tape);
    f(tape);
    return y;
  }
  std::vector<T> forward(const Streams& s, const std::vector<double>& x, bool training = false) {
    return forward(s, x, training, [](const Tape&) {});
  }
};

template <class Layer>
Tensors random_tensors(std::uint64_t seed, double spread = 0.6) {
  Tensors result;
  typename Layer::template Parameters<double, hm::Flat> p{};
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& tensor) {
        REQUIRE_FALSE(result.contains(name.text()));
        result[name.text()] = test::numbers(tensor.size, ++seed * 31, spread);
      },
      hm::Name{}, p);
  return result;
}

std::vector<double> fractions(Index count, std::uint64_t seed) {
  auto result = test::numbers(count, seed, 0.4, 0.5);
  for (double& v : result) v = std::min(1.0, std::max(0.0, v));
  return result;
}
Streams random_streams(Index rows, std::uint64_t seed) {
  return {.layer = 1,
          .decision_width = 15,
          .context_width = 4,
          .complexity = fractions(rows, seed),
          .decisions = fractions(rows * 15, seed + 1),
          .context = test::numbers(rows * 4, seed + 2),
          .budget = fractions(rows, seed + 3),
          .target = fractions(rows, seed + 4)};
}

template <class Layer, class T>
Naive check(const Settings& s, const Tensors& tensors, const Streams& streams, const std::vector<double>& x, double tolerance) {
  const Naive expected = naive(s, tensors, streams, x);
  Bench<Layer, T> bench(tensors);
  bench.call.price = 1e-4;
  const Index rows = hm::to_index(x.size()) / width;
  const std::vector<T> y = bench.forward(streams, x, false, [&](const auto& tape) {
    // What is computed is what was chosen.
    REQUIRE(tape.routed.offset[Layer::count] == std::accumulate(expected.experts.begin(), expected.experts.end(), Index{0}));
    REQUIRE(tape.shared.offset[Layer::slices] == std::accumulate(expected.slices.begin(), expected.slices.end(), Index{0}));
    if (s.stand_in)
      REQUIRE(tape.stand_in_offset[1] <=
              std::count_if(expected.rest.begin(), expected.rest.end(), [](double v) { return v != 0; }));
  });
  for (std::size_t i = 0; i < y.size(); ++i) {
    INFO("element " << i);
    REQUIRE_THAT(static_cast<double>(y[i]), WithinAbs(expected.y[i], tolerance));
  }
  for (Index row = 0; row < rows; ++row) {
    const T* const used = bench.used.data() + (row * 2 + streams.layer) * hm::Used::fields;
    REQUIRE(used[hm::Used::experts] == static_cast<T>(expected.experts[to_size(row)]));
    REQUIRE(std::ceil(used[hm::Used::slices]) == static_cast<T>(expected.slices[to_size(row)]));
    REQUIRE(used[hm::Used::window] == T(-1));
  }
  const std::vector<T> trained = bench.forward(streams, x, true, [&](const auto& tape) {
    double others = static_cast<double>(*tape.router.value);
    others += 1e-4 * (expected.weight * 6.0 * width * static_cast<double>(s.hidden) +
                      expected.slice_sum * 2.0 * static_cast<double>(Layer::slice_parameters));
    if (Layer::distils) {
      REQUIRE_THAT(static_cast<double>(*Layer::distillation(tape)), WithinAbs(expected.distillation, 10 * tolerance));
      others += static_cast<double>(0.1f) * expected.distillation;
    }
    REQUIRE_THAT(static_cast<double>(*Layer::losses(tape).value), WithinAbs(others, 10 * tolerance));
  });
  REQUIRE(std::memcmp(y.data(), trained.data(), y.size() * sizeof(T)) == 0);
  const std::vector<T> backwards = Bench<Layer, T, test::Backwards>(tensors).forward(streams, x);
  REQUIRE(std::memcmp(y.data(), backwards.data(), y.size() * sizeof(T)) == 0);
  return expected;
}

template <class Description>
using Bound = typename Description::template Layer<Env>;

constexpr router::DynamicOptions full_router{.target = 2.5f, .semantic = 5, .context = 4};
using Everything =
    Bound<channel::HybridMoe<hm::Experts{.count = 7, .active = {0, 4}, .hidden = 5},
                             SharedPlus{.hidden = 12, .slices = 4, .modulation = 2}, router::Dynamic<full_router>>>;
const Settings everything{{.count = 7, .most = 4, .width = width, .rank = 5, .context = 4, .target = 2.5}, 5, 12, 4, 2, true};

using Simple = Bound<channel::HybridMoe<hm::Experts{.count = 5, .active = {0, 3}, .hidden = 5},
                                        SharedPlus{.hidden = 4, .slices = 1, .modulation = 0, .stand_in = false},
                                        router::Dynamic<router::DynamicOptions{.target = 1, .semantic = 0}>>>;
const Settings simple{{.count = 5, .most = 3, .width = width, .target = 1}, 5, 4};

}  // namespace

TEST_CASE("Everything on equals loops over tokens, experts and slices") {
  std::vector<Index> experts, slices;
  for (std::uint64_t seed = 1; seed < 5; ++seed) {
    const Tensors tensors = random_tensors<Everything>(seed);
    for (const Index rows : {1, 9, 70}) {
      const auto x = test::numbers(rows * width, seed + 40);
      for (const Streams& streams : {random_streams(rows, seed), Streams{}}) {
        const Naive r = check<Everything, double>(everything, tensors, streams, x, 1e-12);
        check<Everything, float>(everything, tensors, streams, x, 5e-5);
        experts.insert(experts.end(), r.experts.begin(), r.experts.end());
        slices.insert(slices.end(), r.slices.begin(), r.slices.end());
      }
    }
  }
  for (Index k = 0; k <= 4; ++k) CHECK(std::count(experts.begin(), experts.end(), k) > 0);
  for (Index n = 1; n <= 4; ++n) CHECK(std::count(slices.begin(), slices.end(), n) > 0);
}

TEST_CASE("Everything off equals loops too") {
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    const Tensors tensors = random_tensors<Simple>(seed);
    check<Simple, double>(simple, tensors, Streams{}, test::numbers(33 * width, seed), 1e-12);
    check<Simple, double>(simple, tensors, random_streams(33, seed), test::numbers(33 * width, seed), 1e-12);
  }
}

TEST_CASE("No expert for any token, K for every token, all to one expert, ties") {
  constexpr Index rows = 40;
  auto x = test::numbers(rows * width, 3);
  Tensors tensors = random_tensors<Everything>(3);
  const Streams streams = random_streams(rows, 3);
  auto& knots = tensors["router.knots"];
  std::fill(knots.begin(), knots.end(), 100.0);
  for (const Index k : check<Everything, double>(everything, tensors, streams, x, 1e-12).experts) REQUIRE(k == 0);
  std::fill(knots.begin(), knots.end(), -100.0);
  for (const Index k : check<Everything, double>(everything, tensors, Streams{}, x, 1e-12).experts) REQUIRE(k == 4);

  // Expert 4 alone lies above τ, in every row.
  Tensors one = tensors;
  std::fill(one["router.knots"].begin(), one["router.knots"].end(), 50.0);
  one["router.bias"][4] = 60;
  for (const Index k : check<Everything, double>(everything, one, Streams{}, x, 1e-12).experts) REQUIRE(k == 1);

  // Equal rows of W (no semantic score): the tied experts are chosen together or not at all.
  Tensors tied = random_tensors<Simple>(5);
  std::fill(tied["router.bias"].begin(), tied["router.bias"].end(), 0.0);
  std::fill(tied["router.knots"].begin(), tied["router.knots"].end(), -100.0);
  for (Index c = 0; c < width; ++c) tied["router.weight"][to_size(3 * width + c)] = tied["router.weight"][to_size(width + c)];
  const auto counts = check<Simple, double>(simple, tied, Streams{}, x, 1e-12).experts;
  CHECK(std::count(counts.begin(), counts.end(), 2) > 0);
  CHECK(std::count(counts.begin(), counts.end(), 3) > 0);
  for (double& v : tied["router.weight"]) v = 0;
  for (const Index k : check<Simple, double>(simple, tied, Streams{}, x, 1e-12).experts) REQUIRE(k == 0);
  CHECK(Bench<Everything, double>(tensors).forward(Streams{}, {}).empty());
  CHECK(Bench<Everything, double>(tensors).forward(Streams{}, {}, true).empty());
}

TEST_CASE("At full budget the stand-in is gone, and not computed") {
  const Tensors tensors = random_tensors<Everything>(8);
  Bench<Everything, float> bench(tensors);
  Streams streams;
  bench.forward(streams, test::numbers(50 * width, 1), true, [](const auto& tape) { CHECK(tape.stand_in_offset[1] == 0); });
  streams.budget.assign(50, 0.25);
  bench.forward(streams, test::numbers(50 * width, 1), true, [](const auto& tape) {
    CHECK(tape.stand_in_offset[1] > 25);
    CHECK(tape.distilled_offset[1] == 7);  // positions 0, 8, …, 48
  });
}

TEST_CASE("A row that got more than it would have got without budget needs no stand-in") {
  // As in training at β = 1/4 alone, where T(1) stays behind: unbounded weights are 0, and 1 − G would be −100.
  Tensors tensors = random_tensors<Everything>(8);
  tensors["router.knots"] = {-5, -5, -5, 5, 5, 50};
  Streams streams;
  streams.budget.assign(50, 0.25);
  const auto x = test::numbers(50 * width, 1);
  const Naive expected = naive(everything, tensors, streams, x);
  for (const Index k : expected.experts) CHECK(k == 1);
  const auto y =
      Bench<Everything, double>(tensors).forward(streams, x, true, [](const auto& tape) { CHECK(tape.stand_in_offset[1] == 0); });
  for (std::size_t i = 0; i < y.size(); ++i) CHECK_THAT(y[i], WithinAbs(expected.y[i], 1e-12));
}

TEST_CASE("A row that is not a number leaves the others alone") {
  // The stand-in finds h of row r at place r, which holds while every row goes through the first slice.
  constexpr Index rows = 12;
  auto x = test::numbers(rows * width, 17);
  Streams streams = random_streams(rows, 18);
  Bench<Everything, float> bench(random_tensors<Everything>(19));
  const auto before = bench.forward(streams, x);
  x[3 * width + 1] = std::numeric_limits<double>::quiet_NaN();
  streams.decisions[5 * 15 + hm::Decision::fields + hm::Decision::slices] = std::numeric_limits<double>::quiet_NaN();
  const auto after = bench.forward(streams, x);
  for (Index i = 0; i < rows * width; ++i) {
    INFO("row " << i / width);
    if (i / width == 3) CHECK(std::isnan(after[to_size(i)]));
    if (i / width != 3 && i / width != 5) CHECK(after[to_size(i)] == before[to_size(i)]);
  }
}

TEST_CASE("No learned value exceeds the cap of a budget, in experts, slices and FLOPs") {
  constexpr Index rows = 65;
  Streams streams;
  for (Index i = 0; i < rows; ++i) streams.budget.push_back(static_cast<double>(i) / 64);
  Index broken = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    Bench<Everything, float> bench(random_tensors<Everything>(seed, std::exp2(static_cast<double>(seed % 8) - 4)));
    bench.p.router.log_temperature[0] = -1;
    bench.forward(streams, test::numbers(rows * width, seed));
    for (Index i = 0; i < rows; ++i) {
      const double beta = static_cast<double>(i) / 64;
      const float* const used = bench.used.data() + i * 2 * hm::Used::fields;
      const double k = static_cast<double>(used[hm::Used::experts]), n = std::ceil(static_cast<double>(used[hm::Used::slices]));
      broken += k <= test::budget_experts(beta, 4) && n <= std::max(1.0, std::ceil(4 * beta)) ? 0 : 1;
      const double flops = Everything::RouterLayer::flops_per_token().forward + Everything::expert_flops * k +
                           Everything::slice_flops * n +
                           2.0 * (Everything::mixing_parameters + Everything::gate_parameters + Everything::stand_in_parameters);
      broken += flops <= Everything::capped_flops(64, beta) ? 0 : 1;
    }
  }
  CHECK(broken == 0);
  CHECK(Everything::capped_flops(64, 0) < Everything::capped_flops(64, 0.5));
}

TEST_CASE("The cap of plain experts follows what their router obeys") {
  using Asked = hm::channel::Moe<hm::Experts{.count = 6, .active = {0, 3}, .hidden = 10}, hm::router::Dynamic<>>::Layer<Env>;
  using Always = hm::channel::Moe<hm::Experts{.count = 6, .active = 3, .hidden = 10}, hm::router::TopK<>>::Layer<Env>;
  const double one = 2.0 * 3 * width * 10;
  CHECK(Asked::capped_flops(64, 0) == Asked::RouterLayer::flops_per_token().forward);
  CHECK(Asked::capped_flops(64, 0.5) == Asked::capped_flops(64, 0) + 2 * one);
  CHECK(Asked::capped_flops(64, 1) == Asked::capped_flops(64, 0) + 3 * one);
  CHECK(Always::capped_flops(64, 0) == Always::flops_per_token(64).forward);
}

TEST_CASE("The distillation's gradient goes to V, and nowhere else") {
  constexpr Index rows = 30;
  using Without = Bound<
      channel::HybridMoe<hm::Experts{.count = 7, .active = {0, 4}, .hidden = 5},
                         SharedPlus{.hidden = 12, .slices = 4, .modulation = 2, .distil = 0}, router::Dynamic<full_router>>>;
  Tensors tensors = random_tensors<Everything>(21);
  const auto x = test::numbers(rows * width, 22), dy = test::numbers(rows * width, 23);
  const Streams streams = random_streams(rows, 24);
  const auto backward = [&]<class Layer>(Bench<Layer, double>& bench, std::vector<double>& dx) {
    bench.call.auxiliary = 0.7;
    bench.forward(streams, x, true, [&](const auto& tape) {
      std::vector<double> d_layer(x.size(), 0.0);
      Layer::backward(bench.call, bench.p, hm::Rows<const double, width>{x.data()}, tape,
                      hm::Rows<const double, width>{dy.data()}, hm::Rows<double, width>{d_layer.data()}, bench.gradient);
      dx = d_layer;
    });
  };
  Bench<Everything, double> with(tensors);
  Bench<Without, double> without(tensors);
  std::vector<double> dx, dx_without;
  backward(with, dx);
  backward(without, dx_without);
  CHECK(dx == dx_without);
  decltype(with.gradient) other;  // two types, one layout
  static_assert(sizeof other == sizeof without.gradient);
  std::memcpy(&other, &without.gradient, sizeof other);
  double along = 0;
  std::vector<double> extra;
  for (Index i = 0; i < with.gradient.stand_in[0].size; ++i) {
    extra.push_back(with.gradient.stand_in[0][i] - other.stand_in[0][i]);
    other.stand_in[0][i] = with.gradient.stand_in[0][i];
  }
  CHECK(std::memcmp(&with.gradient, &other, sizeof other) == 0);

  for (std::size_t i = 0; i < extra.size(); ++i) {
    double& v = tensors["stand_in.weight"][i];
    const double middle = v, h = 1e-4;
    v = middle + h;
    const double up = naive(everything, tensors, streams, x).distillation;
    v = middle - h;
    const double down = naive(everything, tensors, streams, x).distillation;
    v = middle;
    const double expected = 0.7 * static_cast<double>(0.1f) * (up - down) / (2 * h);
    REQUIRE_THAT(extra[i], WithinAbs(expected, 1e-9));
    along += std::abs(expected);
  }
  CHECK(along > 1e-3);
}

TEST_CASE("V learns what a budget takes away") {
  // Gradient descent on the distillation alone, experts fixed: most of what can be told from x linearly through h is recovered.
  constexpr Index rows = 64;
  Tensors tensors = random_tensors<Everything>(31);
  std::fill(tensors["stand_in.weight"].begin(), tensors["stand_in.weight"].end(), 0.0);
  Streams streams;
  streams.budget.assign(rows, 0.0);
  Bench<Everything, double> bench(tensors);
  bench.call.auxiliary = 1;
  const auto x = test::numbers(rows * width, 32);
  const std::vector<double> dy(x.size(), 0.0);
  double first = 0, last = 0;
  for (int step = 0; step < 400; ++step) {
    bench.gradient = {};
    bench.forward(streams, x, true, [&](const auto& tape) {
      std::vector<double> dx(x.size(), 0.0);
      Everything::backward(bench.call, bench.p, hm::Rows<const double, width>{x.data()}, tape,
                           hm::Rows<const double, width>{dy.data()}, hm::Rows<double, width>{dx.data()}, bench.gradient);
      last = *Everything::distillation(tape);
      if (step == 0) first = last;
    });
    for (Index i = 0; i < bench.p.stand_in[0].size; ++i) bench.p.stand_in[0][i] -= 2.0 * bench.gradient.stand_in[0][i];
  }
  INFO("from " << first << " to " << last);
  CHECK_THAT(first, WithinAbs(1.0, 1e-3));
  CHECK(last < 0.8);
}

TEST_CASE("Accounts are constants of the type") {
  constexpr Index expert = 3 * width * 5, slice = 3 * width * 3 + 3 * 2;
  constexpr hm::Spread routing = Everything::RouterLayer::active_parameters();
  constexpr Index mixing = 2 * 7;
  STATIC_REQUIRE(Everything::RouterLayer::target == 3);
  STATIC_REQUIRE(Everything::RouterLayer::least == 0);
  STATIC_REQUIRE(Everything::RouterLayer::most == 4);
  STATIC_REQUIRE(Everything::active_parameters() ==
                 hm::Spread{routing.least + slice + mixing,
                            routing.target + expert * 5 / 2 + 4 * slice + mixing + width + width * 3,
                            routing.most + expert * 4 + 4 * slice + mixing + width + width * 3});
  STATIC_REQUIRE(hm::element_count<Everything::Parameters<float, hm::Flat>, float> ==
                 routing.most + 7 * expert + 4 * slice + mixing + width + width * 3);
  STATIC_REQUIRE(Everything::causal);
}
