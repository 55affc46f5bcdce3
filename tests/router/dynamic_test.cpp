// The dynamic router against loops, its cap in many random draws, and the rules that change its controlled values.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/router/placebo.hpp>
#include <router/dynamic_reference.hpp>
#include <support/numbers.hpp>

namespace router = hybridmoe::router;
namespace stream = hybridmoe::stream;
using Catch::Matchers::WithinAbs;
using test::hm::Index;
using test::hm::to_size;
namespace hm = hybridmoe;

namespace {

/// A router with parameters, streams and memory that starts as NaN.
template <class Layer, class T>
struct Bench {
  typename Layer::template Parameters<T, hm::Flat> p{}, gradient{};
  hm::Call<hm::exec::Inline> call{};
  Index rows;
  std::vector<Index> position;
  std::vector<std::byte> memory;
  std::vector<T> used, stream_values[6];

  explicit Bench(Index rows_) : rows(rows_), position(to_size(rows_)) {
    std::iota(position.begin(), position.end(), Index{0});
    call.batch.rows = rows;
    call.batch.row_position = position.data();
    call.training = true;
    used.assign(to_size(rows * 2 * hm::Used::fields), T(-1));
    call.side.used = used.data();
    call.side.used_width = 2 * hm::Used::fields;
    memory.resize(to_size(hm::planned_bytes<typename Layer::template Tape<T>>(extent()) +
                          hm::planned_bytes<router::Choice<T, Layer::most>>(rows) +
                          Layer::template workspace_bytes<T, hm::Flat>(extent()) + rows * (Layer::most + 1) * 16 + 512));
  }
  hm::Extent extent() const { return {rows, 1, true}; }
  void take(const test::Tensors& tensors) {
    Layer::visit(
        [&](const hm::Name& name, hm::Trait, auto& tensor) {
          const auto& from = tensors.at(name.text());
          for (Index i = 0; i < tensor.size; ++i) tensor.data[i] = static_cast<T>(from[to_size(i)]);
        },
        hm::Name{}, p);
  }
  template <class Stream>
  void set(const std::vector<double>& values, Index width) {
    if (values.empty()) return;
    stream_values[Stream::number] = test::cast<T>(values);
    call.side.template set<Stream>(static_cast<const T*>(stream_values[Stream::number].data()), static_cast<T*>(nullptr), width);
  }
  void take(const test::Streams& s) {
    call.layer = s.layer;
    set<stream::Complexity>(s.complexity, 1);
    set<stream::Decisions>(s.decisions, s.decision_width);
    set<stream::Context>(s.context, s.context_width);
    set<stream::Budget>(s.budget, 1);
    set<stream::Target>(s.target, 1);
  }
  /// forward, then f(choice, unbounded, tape).
  void forward(const std::vector<double>& x, const auto& f) {
    std::fill(memory.begin(), memory.end(), std::byte{0xff});
    hm::Arena arena{memory.data(), memory.data() + memory.size()};
    const router::Choice<T, Layer::most> choice(arena, rows);
    const typename Layer::template Tape<T> tape(arena, extent());
    router::Unbounded<T, Layer::most> unbounded;
    unbounded.sum = arena.take<T>(rows);
    unbounded.expert = arena.take<Index>(rows * Layer::most);
    unbounded.weight = arena.take<T>(rows * Layer::most);
    call.arena = arena;
    const auto xt = test::cast<T>(x);
    Layer::forward(call, p, hm::Rows<const T, Layer::width>{xt.data()}, choice, tape, unbounded);
    f(choice, unbounded, tape);
  }
};

template <class Layer>
test::Tensors random_tensors(std::uint64_t seed, double spread) {
  test::Tensors result;
  typename Layer::template Parameters<double, hm::Flat> p{};
  Layer::visit([&](const hm::Name& name, hm::Trait,
                   auto& tensor) { result[name.text()] = test::numbers(tensor.size, ++seed * 31, spread); },
               hm::Name{}, p);
  return result;
}

std::vector<double> fractions(Index count, std::uint64_t seed) {
  auto result = test::numbers(count, seed, 0.4, 0.5);
  for (double& v : result) v = std::min(1.0, std::max(0.0, v));
  return result;
}

constexpr Index width = 6;
template <router::DynamicOptions options, Index count, Index most>
using Bound = typename router::Dynamic<options>::template Layer<hm::Environment<width, 64>, count, 0, most>;

template <class Layer, class T>
void compare(const test::RouterSettings& s, const test::Tensors& tensors, const test::Streams& streams,
             const std::vector<double>& x, double tolerance, std::vector<Index>* counts = nullptr) {
  const Index rows = hm::to_index(x.size()) / width;
  Bench<Layer, T> bench(rows);
  bench.take(tensors);
  bench.take(streams);
  bench.forward(x, [&](const auto& choice, const auto& unbounded, const auto& tape) {
    for (Index row = 0; row < rows; ++row) {
      INFO("row " << row);
      const test::Routed expected = test::route(s, tensors, "", streams, row, x.data() + row * width);
      const auto same = [&](const std::map<Index, double>& list, const Index* expert, const T* weight) {
        Index i = 0;
        for (const auto& [e, g] : list) {
          REQUIRE(expert[i] == e);
          REQUIRE_THAT(static_cast<double>(weight[i]), WithinAbs(g, tolerance));
          ++i;
        }
        for (; i < Layer::most; ++i) REQUIRE((expert[i] == -1 && weight[i] == T(0)));
      };
      same(expected.own, choice.expert + row * Layer::most, choice.weight + row * Layer::most);
      same(expected.unbounded, unbounded.expert + row * Layer::most, unbounded.weight + row * Layer::most);
      REQUIRE_THAT(static_cast<double>(unbounded.sum[row]), WithinAbs(test::Routed::sum(expected.unbounded), tolerance * 4));
      for (Index e = 0; e < s.count; ++e)
        REQUIRE_THAT(static_cast<double>(tape.probability[row * s.count + e]), WithinAbs(expected.rho[to_size(e)], tolerance));
      const T* const used = bench.used.data() + row * 2 * hm::Used::fields + streams.layer * hm::Used::fields;
      REQUIRE(used[hm::Used::experts] == static_cast<T>(expected.own.size()));
      REQUIRE_THAT(static_cast<double>(used[hm::Used::weight]), WithinAbs(test::Routed::sum(expected.own), tolerance * 4));
      if (counts != nullptr) counts->push_back(hm::to_index(expected.own.size()));
    }
  });
}

/// Routing against the loops of the reference, with streams and without. Experts are put in order in one way up to 16 of them and
/// in another beyond.
template <Index experts>
void check_routing(std::uint64_t seeds) {
  constexpr router::DynamicOptions options{.target = 2.5f, .semantic = 5, .context = 4, .offset = true};
  using Layer = Bound<options, experts, 4>;
  const test::RouterSettings s{.count = experts, .most = 4, .width = width, .rank = 5, .context = 4, .target = 2.5};
  constexpr Index rows = 90;
  std::vector<Index> counts;
  for (std::uint64_t seed = 1; seed < seeds; ++seed) {
    const auto tensors = random_tensors<Layer>(seed, 0.7);
    const auto x = test::numbers(rows * width, seed + 100);
    test::Streams streams{.layer = 1, .decision_width = 15, .context_width = 4};
    compare<Layer, double>(s, tensors, streams, x, 1e-12, &counts);
    streams.complexity = fractions(rows, seed);
    streams.decisions = fractions(rows * 15, seed + 1);
    streams.context = test::numbers(rows * 4, seed + 2);
    streams.budget = fractions(rows, seed + 3);
    compare<Layer, double>(s, tensors, streams, x, 1e-12, &counts);
    compare<Layer, float>(s, tensors, streams, x, 2e-5);
  }
  for (Index k = 0; k <= 4; ++k) CHECK(std::count(counts.begin(), counts.end(), k) > 0);
}

}  // namespace

TEST_CASE("Routing equals loops over tokens and experts, with streams and without") {
  check_routing<7>(8);
  check_routing<20>(4);
}

TEST_CASE("A fixed number of experts, whole and not whole") {
  const auto x = test::numbers(40 * width, 3);
  test::Streams streams;
  std::vector<Index> counts;
  {
    using Layer = Bound<router::DynamicOptions{.target = 2, .semantic = 0, .adaptive = false}, 6, 3>;
    const auto tensors = random_tensors<Layer>(5, 1);
    compare<Layer, double>({.count = 6, .most = 3, .width = width, .target = 2, .adaptive = false}, tensors, streams, x, 1e-12,
                           &counts);
    CHECK(std::count(counts.begin(), counts.end(), 2) == 40);
  }
  using Layer = Bound<router::DynamicOptions{.target = 1.5f, .semantic = 0, .adaptive = false}, 6, 3>;
  streams.budget = fractions(40, 9);
  compare<Layer, double>({.count = 6, .most = 3, .width = width, .target = 1.5, .adaptive = false}, random_tensors<Layer>(6, 1),
                         streams, x, 1e-12);
}

TEST_CASE("Equal scores: none of a tie at the threshold is chosen, and the cap holds") {
  using Layer = Bound<router::DynamicOptions{.semantic = 0}, 8, 4>;
  const test::RouterSettings s{.count = 8, .most = 4, .width = width};
  auto tensors = random_tensors<Layer>(4, 1);
  std::fill(tensors["bias"].begin(), tensors["bias"].end(), 0.0);
  std::fill(tensors["knots"].begin(), tensors["knots"].end(), -5.0);
  for (Index e = 1; e < 8; ++e)  // three kinds of rows: experts 0 3 6, 1 4 7 and 2 5
    for (Index c = 0; c < width; ++c) tensors["weight"][to_size(e * width + c)] = tensors["weight"][to_size(e % 3 * width + c)];
  test::Streams streams;
  std::vector<Index> counts;
  const auto x = test::numbers(200 * width, 5);
  compare<Layer, double>(s, tensors, streams, x, 1e-12, &counts);
  CHECK(*std::max_element(counts.begin(), counts.end()) <= 4);
  for (Index e = 0; e < 8; ++e)  // all equal: nothing is above the m+1-th highest
    for (Index c = 0; c < width; ++c) tensors["weight"][to_size(e * width + c)] = 0.5;
  counts.clear();
  compare<Layer, double>(s, tensors, streams, x, 1e-12, &counts);
  CHECK(*std::max_element(counts.begin(), counts.end()) == 0);
}

TEST_CASE("The cap holds, and a lower budget gives a subset, in 100,000 random draws") {
  using Layer = Bound<router::DynamicOptions{.semantic = 3}, 8, 5>;
  constexpr Index most = 5, budgets = 65;
  Bench<Layer, float> bench(budgets);
  test::Streams streams{.decision_width = 9};
  streams.budget.resize(budgets);
  for (Index i = 0; i < budgets; ++i) streams.budget[to_size(i)] = static_cast<double>(i) / 64;
  streams.decisions.assign(budgets * 9, 1.0);
  streams.target.assign(budgets, 1.0);
  bench.take(streams);
  std::uint64_t state = 1;
  const auto draw = [&] { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 33; };
  Index chosen = 0, broken = 0, lost = 0;
  for (int trial = 0; trial < 100'000; ++trial) {
    // Cheap numbers of many sizes; every fourth draw is rounded, so that scores tie.
    const float size = std::exp2(static_cast<float>(draw() % 12) - 6);
    const bool rounded = trial % 4 == 0, flat = trial % 2 == 0;
    const auto number = [&] {
      const float v = static_cast<float>(static_cast<std::int64_t>(draw() % 2001) - 1000) / 500;
      return rounded ? std::round(v) : v * size;
    };
    Layer::visit(
        [&](const hm::Name&, hm::Trait, auto& tensor) {
          for (Index i = 0; i < tensor.size; ++i) tensor.data[i] = number();
        },
        hm::Name{}, bench.p);
    bench.p.log_temperature[0] = std::min(bench.p.log_temperature[0], 3.0f);
    if (flat) std::fill(bench.p.knots.data, bench.p.knots.data + 6, number());
    const float fraction = trial % 5 == 0 ? 1.0f : static_cast<float>(draw() % 1001) / 1000;
    for (float& d : bench.stream_values[stream::Decisions::number]) d = fraction;
    const float target = trial % 3 < 2 ? static_cast<float>(trial % 3) : static_cast<float>(draw() % 1001) / 1000;
    for (float& q : bench.stream_values[stream::Target::number]) q = target;
    const float spent = fraction + target * (1 - fraction), rounding = 1e-5f;
    std::vector<double> x(budgets * width);
    for (Index c = 0; c < width; ++c) x[to_size(c)] = static_cast<double>(number());
    for (Index i = 1; i < budgets; ++i) std::copy(x.begin(), x.begin() + width, x.begin() + i * width);
    bench.forward(x, [&](const auto& choice, const auto&, const auto&) {
      for (Index i = 0; i < budgets; ++i) {
        const Index* const list = choice.expert + i * most;
        const Index count = std::count_if(list, list + most, [](Index e) { return e >= 0; });
        const auto allowed = static_cast<float>(test::budget_experts(static_cast<double>(i) / 64, most));
        chosen += count;
        broken += static_cast<float>(count) <= std::min(allowed, std::ceil(allowed * spent + rounding)) ? 0 : 1;
        if (i == 0 || !flat) continue;
        for (Index j = 0; j < most && list[j - most] >= 0; ++j)
          lost += std::find(list, list + count, list[j - most]) == list + count;
      }
    });
  }
  CHECK(broken == 0);
  CHECK(lost == 0);
  CHECK(chosen > 4'000'000);
}

TEST_CASE("Scores that are not numbers break no bound") {
  using Layer = Bound<router::DynamicOptions{.semantic = 0}, 6, 3>;
  Bench<Layer, float> bench(5);
  auto tensors = random_tensors<Layer>(3, 1);
  tensors["bias"][2] = std::nan("");
  tensors["bias"][4] = INFINITY;
  bench.take(tensors);
  bench.forward(test::numbers(5 * width, 2), [&](const auto& choice, const auto&, const auto&) {
    for (Index i = 0; i < 15; ++i) CHECK((-1 <= choice.expert[i] && choice.expert[i] < 6));
  });
  // Nor the cap, wherever the NaN stands among the scores.
  tensors = random_tensors<Layer>(3, 1);
  std::fill(tensors["knots"].begin(), tensors["knots"].end(), -100.0);
  test::Streams streams;
  streams.budget = {0, 0.25, 0.5, 0.75, 1};
  const auto x = test::numbers(5 * width, 2);
  for (std::size_t e = 0; e < 6; ++e) {
    auto wrong = tensors;
    wrong["bias"][e] = std::nan("");
    bench.take(wrong);
    bench.take(streams);
    bench.forward(x, [&](const auto& choice, const auto&, const auto&) {
      for (Index row = 0; row < 5; ++row) {
        const Index* const list = choice.expert + row * 3;
        const auto count = std::count_if(list, list + 3, [](Index chosen) { return chosen >= 0; });
        CHECK(static_cast<double>(count) <= test::budget_experts(streams.beta(row), 3));
      }
    });
  }
}

TEST_CASE("A decision that is not a number gives no experts, and its neighbours what they had") {
  using Layer = Bound<router::DynamicOptions{.semantic = 0}, 6, 3>;
  const auto tensors = random_tensors<Layer>(3, 1);
  const auto x = test::numbers(5 * width, 2);
  test::Streams streams{.decision_width = 9};
  streams.decisions.assign(5 * 9, 1.0);
  Bench<Layer, float> sound(5), bench(5);
  sound.take(tensors);
  bench.take(tensors);
  sound.take(streams);
  streams.decisions[2 * 9 + hm::Decision::experts] = std::nan("");
  streams.target.assign(5, 0.0);  // at a target of 1 decisions about experts play no part
  bench.take(streams);
  sound.forward(x, [&](const auto& expected, const auto&, const auto&) {
    bench.forward(x, [&](const auto& choice, const auto&, const auto&) {
      for (Index i = 0; i < 15; ++i) CHECK(choice.expert[i] == (i / 3 == 2 ? -1 : expected.expert[i]));
    });
  });
}

TEST_CASE("What the rules of the controlled values read: load and missing experts") {
  constexpr router::DynamicOptions options{.target = 2, .semantic = 0, .warm = 0.25f, .z = 0.25f, .expert_flops = 500};
  using Layer = Bound<options, 6, 4>;
  const test::RouterSettings s{.count = 6, .most = 4, .width = width};
  constexpr Index rows = 150;
  const auto tensors = random_tensors<Layer>(11, 0.8);
  const auto x = test::numbers(rows * width, 12);
  test::Streams streams;
  streams.budget = fractions(rows, 13);
  streams.target.resize(rows);
  for (Index row = 0; row < rows; ++row) streams.target[to_size(row)] = row % 3 == 0 ? 0.4 : 1.0;
  for (const double progress : {1.0, 0.0625}) {
    const double wanted = progress == 1.0 ? 2 : 2 + 2 * 0.75;
    std::vector<double> load(6, 0.0), near(6, 0.0), missing(6, 0.0);
    double square = 0, priced = 0;
    for (Index row = 0; row < rows; ++row) {
      const auto r = test::route(s, tensors, "", streams, row, x.data() + row * width);
      for (const auto& [e, g] : r.own) load[to_size(e)] += 1.0 / rows;
      double all = 0;
      for (const double z : r.z) all += std::exp(z);
      square += std::log(all) * std::log(all) / rows;
      priced += std::pow(1 - streams.goal(row), 2) * 1e-3 * 500 * test::Routed::sum(r.own) / rows;
      if (streams.goal(row) < 1) continue;
      for (int k = 0; k < 6; ++k) {
        const double hat = std::max(0.0, 1 - std::abs(5 * streams.beta(row) - k));
        near[to_size(k)] += hat;
        missing[to_size(k)] +=
            hat * (wanted * test::budget_experts(streams.beta(row), 4) / 4 - static_cast<double>(r.own.size()));
      }
    }
    Bench<Layer, double> bench(rows);
    bench.take(tensors);
    bench.take(streams);
    bench.call.progress = progress;
    bench.call.auxiliary = 0.5;
    bench.call.price = 1e-3;
    bench.forward(x, [&](const auto& choice, const auto&, const auto& tape) {
      const auto losses = Layer::losses(tape);
      CHECK_THAT(*losses.value, WithinAbs(0.25 * square + priced, 1e-12));
      const double mean = std::accumulate(load.begin(), load.end(), 0.0) / 6;
      std::vector<double> dweight(rows * 4, 0.0), dx(rows * width, 0.0);
      Layer::backward(bench.call, bench.p, hm::Rows<const double, width>{x.data()}, tape, choice, dweight.data(),
                      hm::Rows<double, width>{dx.data()}, bench.gradient);
      for (Index e = 0; e < 6; ++e) {
        CHECK_THAT(losses.load[e], WithinAbs(load[to_size(e)], 1e-12));
        CHECK_THAT(bench.gradient.bias[e], WithinAbs(0.5 * (load[to_size(e)] - mean), 1e-12));
        CHECK_THAT(bench.gradient.knots[e], WithinAbs(0.5 * missing[to_size(e)] / std::max(1.0, near[to_size(e)]), 1e-12));
      }
    });
  }
}

TEST_CASE("The controller holds the mean number of experts that is wanted, at every budget") {
  constexpr router::DynamicOptions options{.target = 1.5f, .semantic = 0, .balance = 0.01f, .control = 0.05f};
  using Layer = Bound<options, 8, 4>;
  constexpr Index rows = 64;
  Bench<Layer, float> bench(rows);
  auto tensors = random_tensors<Layer>(2, 0.7);
  for (double& v : tensors["knots"]) v = 0;
  for (Index c = 0; c < width; ++c) tensors["weight"][to_size(c)] *= 3;  // an expert that many rows like
  bench.take(tensors);
  bench.call.auxiliary = 1;
  test::Streams streams;
  streams.budget.resize(rows);
  for (Index row = 0; row < rows; ++row) streams.budget[to_size(row)] = static_cast<double>(row % 4 + 1) / 4;
  bench.take(streams);
  double mean[4] = {}, load[8] = {};
  for (int step = 0; step < 3000; ++step) {
    const auto x = test::numbers(rows * width, 1000 + static_cast<std::uint64_t>(step));
    bench.forward(x, [&](const auto& choice, const auto&, const auto& tape) {
      bench.gradient = {};
      std::vector<float> dweight(rows * 4, 0.0f), dx(rows * width, 0.0f);
      const auto xt = test::cast<float>(x);
      Layer::backward(bench.call, bench.p, hm::Rows<const float, width>{xt.data()}, tape, choice, dweight.data(),
                      hm::Rows<float, width>{dx.data()}, bench.gradient);
      float middle = 0;
      for (Index e = 0; e < 8; ++e) {
        const float g = bench.gradient.bias[e];
        bench.p.bias[e] -= options.balance * static_cast<float>((g > 0) - (g < 0));
        middle += bench.p.bias[e] / 8;
      }
      for (Index e = 0; e < 8; ++e) bench.p.bias[e] -= middle;
      for (Index k = 0; k < 6; ++k) bench.p.knots[k] -= options.control * bench.gradient.knots[k];
      if (step < 2000) return;
      for (Index i = 0; i < rows * 4; ++i) mean[i / 4 % 4] += choice.expert[i] >= 0 ? 1.0 / (1000 * rows / 4) : 0;
      for (Index e = 0; e < 8; ++e) load[e] += static_cast<double>(Layer::losses(tape).load[e]) / 1000;
    });
  }
  for (int b = 0; b < 4; ++b) {
    INFO("budget " << b + 1 << "/4: " << mean[b]);
    CHECK_THAT(mean[b], WithinAbs(1.5 * (b + 1) / 4, 0.08));
  }
  const double least = *std::min_element(load, load + 8), greatest = *std::max_element(load, load + 8);
  INFO("loads " << least << " to " << greatest);
  CHECK(greatest < 1.3 * least);
}

TEST_CASE("Placebos decide by position: the same mean number of experts, and experts at random") {
  constexpr router::DynamicOptions options{.target = 1.5f, .semantic = 0};
  constexpr Index rows = 4000;
  const auto x = test::numbers(rows * width, 3), other = test::numbers(rows * width, 4);
  {
    using Layer = typename router::RandomCount<options>::template Layer<hm::Environment<width, 64>, 6, 0, 4>;
    Bench<Layer, float> bench(rows);
    bench.take(random_tensors<Layer>(1, 1));
    std::vector<Index> counts[2];
    for (int i = 0; i < 2; ++i)
      bench.forward(i == 0 ? x : other, [&](const auto& choice, const auto&, const auto&) {
        for (Index row = 0; row < rows; ++row)
          counts[i].push_back(
              std::count_if(choice.expert + row * 4, choice.expert + row * 4 + 4, [](Index e) { return e >= 0; }));
      });
    CHECK(counts[0] == counts[1]);
    CHECK_THAT(std::accumulate(counts[0].begin(), counts[0].end(), 0.0) / rows, WithinAbs(1.5, 0.06));
    for (Index k = 0; k <= 4; ++k) CHECK(std::count(counts[0].begin(), counts[0].end(), k) > rows / 100);
  }
  using Plain = Bound<options, 6, 4>;
  using Layer = typename router::RandomExperts<options>::template Layer<hm::Environment<width, 64>, 6, 0, 4>;
  auto tensors = random_tensors<Layer>(1, 1);
  std::fill(tensors["bias"].begin(), tensors["bias"].end(), 0.0);
  std::vector<double> sums;
  Bench<Plain, double> plain(rows);
  plain.take(tensors);
  plain.forward(x, [&](const auto& choice, const auto&, const auto&) {
    for (Index row = 0; row < rows; ++row)
      sums.push_back(std::accumulate(choice.weight + row * 4, choice.weight + row * 4 + 4, 0.0));
  });
  Bench<Layer, double> bench(rows);
  bench.take(tensors);
  bench.forward(x, [&](const auto& choice, const auto&, const auto& tape) {
    for (Index row = 0; row < rows; ++row)
      REQUIRE_THAT(std::accumulate(choice.weight + row * 4, choice.weight + row * 4 + 4, 0.0),
                   WithinAbs(sums[to_size(row)], 1e-12));
    const auto load = Layer::losses(tape).load;
    for (Index e = 1; e < 6; ++e) CHECK_THAT(load[e], WithinAbs(load[0], 0.05));
  });
}
