// Mixture of experts against loops over tokens and experts in double, gradients against differences of those loops.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/channel/gated.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <router/routers.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
namespace channel = hm::channel;
namespace router = hm::router;
using Catch::Matchers::WithinAbs;
using hm::Index;
using hm::to_size;

namespace {

constexpr Index width = 6;
using Env = hm::Environment<width, 64>;
using Tensors = std::map<std::string, std::vector<double>>;

enum class Rule { renormalised, probabilities, threshold };

struct Settings {
  Index count, most, hidden;
  Rule rule;
  Index shared = 0;  ///< hidden width of the shared expert
  bool gated = false;
  double balance = 0, z = 0;
};

struct Naive {
  std::vector<double> y;
  std::vector<std::vector<Index>> chosen;
  double auxiliary = 0;
};

double dot(const std::vector<double>& w, Index row, const double* x, Index size) {
  double sum = 0;
  for (Index c = 0; c < size; ++c) sum += w[to_size(row * size + c)] * x[c];
  return sum;
}

/// y += factor·down(silu(gate x)·(up x))
void add_swiglu(const Tensors& t, const std::string& at, Index hidden, const double* x, double factor, double* y) {
  std::vector<double> h(to_size(hidden));
  for (Index i = 0; i < hidden; ++i) {
    const double gate = dot(t.at(at + ".gate.weight"), i, x, width);
    h[to_size(i)] = gate / (1 + std::exp(-gate)) * dot(t.at(at + ".up.weight"), i, x, width);
  }
  for (Index c = 0; c < width; ++c) y[c] += factor * dot(t.at(at + ".down.weight"), c, h.data(), hidden);
}

Naive naive(const Settings& s, const Tensors& t, const std::vector<double>& x) {
  Naive r;
  const Index rows = hm::to_index(x.size()) / width;
  r.y.assign(x.size(), 0.0);
  std::vector<double> load(to_size(s.count), 0.0), mean(to_size(s.count), 0.0);
  double square = 0;
  for (Index row = 0; row < rows; ++row) {
    const double* in = x.data() + row * width;
    double* out = r.y.data() + row * width;
    std::vector<std::pair<double, Index>> order;  // by descending score, then by expert
    double all = 0;
    for (Index e = 0; e < s.count; ++e) {
      order.push_back({-dot(t.at("router.weight"), e, in, width), e});
      all += std::exp(-order.back().first);
    }
    for (const auto& [negative, e] : order) mean[to_size(e)] += std::exp(-negative) / all / static_cast<double>(rows);
    square += std::log(all) * std::log(all) / static_cast<double>(rows);
    std::sort(order.begin(), order.end());
    order.resize(to_size(s.most));
    if (s.rule == Rule::threshold) std::erase_if(order, [](const auto& entry) { return !(entry.first < 0); });
    double chosen = 0;
    for (const auto& [negative, e] : order) chosen += std::exp(-negative);
    r.chosen.emplace_back();
    for (const auto& [negative, e] : order) {
      const double weight = s.rule == Rule::threshold      ? 1 / (1 + std::exp(negative))
                            : s.rule == Rule::renormalised ? std::exp(-negative) / chosen
                                                           : std::exp(-negative) / all;
      add_swiglu(t, "experts." + std::to_string(e), s.hidden, in, weight, out);
      load[to_size(e)] += 1 / static_cast<double>(rows);
      r.chosen.back().push_back(e);
    }
    if (s.shared > 0) {
      const double factor = s.gated ? 1 / (1 + std::exp(-dot(t.at("shared.output_gate.weight"), 0, in, width))) : 1.0;
      add_swiglu(t, "shared", s.shared, in, factor, out);
    }
  }
  for (Index e = 0; e < s.count; ++e)
    r.auxiliary += s.balance * static_cast<double>(s.count) * load[to_size(e)] * mean[to_size(e)];
  r.auxiliary += s.z * square;
  return r;
}

/// A layer with its parameters and memory that starts as NaN.
template <class Layer, class T, class Space = hm::exec::Inline>
struct Bench {
  using Parameters = typename Layer::template Parameters<T, hm::Flat>;
  Parameters p{}, gradient{};
  std::vector<std::byte> memory;

  explicit Bench(const Tensors& tensors) {
    Layer::visit(
        [&](const hm::Name& name, hm::Trait, auto& tensor) {
          const auto& from = tensors.at(name.text());
          REQUIRE(from.size() == to_size(tensor.size));
          for (Index i = 0; i < tensor.size; ++i) tensor.data[i] = static_cast<T>(from[to_size(i)]);
        },
        hm::Name{}, p);
  }
  hm::Call<Space> call(Index rows, bool training) {
    const hm::Extent extent{rows, 1, training};
    memory.assign(to_size(hm::planned_bytes<typename Layer::template Tape<T>>(extent) +
                          Layer::template workspace_bytes<T, hm::Flat>(extent)),
                  std::byte{0xff});
    hm::Call<Space> result;
    result.batch.rows = rows;
    result.training = training;
    result.arena = {memory.data(), memory.data() + memory.size()};
    return result;
  }
  std::vector<T> forward(const std::vector<T>& x, bool training = false) {
    const Index rows = hm::to_index(x.size()) / width;
    auto c = call(rows, training);
    const typename Layer::template Tape<T> tape(c.arena, hm::Extent{rows, 1, training});
    std::vector<T> y(x.size(), std::numeric_limits<T>::quiet_NaN());
    Layer::forward(c, p, hm::Rows<const T, width>{x.data()}, hm::Rows<T, width>{y.data()}, {}, tape);
    return y;
  }
};

template <class Layer>
Tensors random_tensors(std::uint64_t seed) {
  Tensors result;
  typename Layer::template Parameters<double, hm::Flat> p{};
  Index elements = 0;
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& tensor) {
        REQUIRE_FALSE(result.contains(name.text()));
        result[name.text()] = test::numbers(tensor.size, ++seed * 31, 0.6);
        elements += tensor.size;
      },
      hm::Name{}, p);
  REQUIRE(elements == hm::element_count<decltype(p), double>);
  return result;
}

template <class Layer, class T>
void check_forward(const Settings& s, const Tensors& tensors, const std::vector<double>& x, double tolerance) {
  const Naive expected = naive(s, tensors, x);
  Bench<Layer, T> bench(tensors);
  const auto xt = test::cast<T>(x);
  const std::vector<T> y = bench.forward(xt), trained = bench.forward(xt, true);
  const std::vector<T> backwards = Bench<Layer, T, test::Backwards>(tensors).forward(xt);
  for (std::size_t i = 0; i < y.size(); ++i) {
    INFO("element " << i);
    REQUIRE_THAT(static_cast<double>(y[i]), WithinAbs(expected.y[i], tolerance));
  }
  REQUIRE(std::memcmp(y.data(), trained.data(), y.size() * sizeof(T)) == 0);
  REQUIRE(std::memcmp(y.data(), backwards.data(), y.size() * sizeof(T)) == 0);
  // The same rows in calls of 1, 2, 3, … rows: the same bits.
  const Index rows = hm::to_index(x.size()) / width;
  for (Index row = 0, take = 1; row < rows; row += take, ++take) {
    const Index end = std::min(rows, row + take);
    const auto piece = bench.forward({xt.begin() + row * width, xt.begin() + end * width});
    REQUIRE(std::memcmp(piece.data(), y.data() + row * width, piece.size() * sizeof(T)) == 0);
  }
}

template <class Layer>
void check_backward(const Settings& s, const Tensors& tensors, const std::vector<double>& x, std::uint64_t seed) {
  const Index rows = hm::to_index(x.size()) / width;
  const auto dy = test::numbers(rows * width, seed + 77);
  Bench<Layer, double> bench(tensors);
  auto call = bench.call(rows, true);
  call.auxiliary = 0.8;
  const typename Layer::template Tape<double> tape(call.arena, hm::Extent{rows, 1, true});
  std::vector<double> y(x.size()), dx(x.size(), 2.0);
  const hm::Rows<const double, width> in{x.data()};
  Layer::forward(call, bench.p, in, hm::Rows<double, width>{y.data()}, {}, tape);
  const Naive expected = naive(s, tensors, x);
  if (s.balance > 0) REQUIRE_THAT(*Layer::losses(tape).value, WithinAbs(expected.auxiliary, 1e-12));
  Layer::visit([](const hm::Name&, hm::Trait, auto& slope) { std::fill(slope.data, slope.data + slope.size, 4.0); }, hm::Name{},
               bench.gradient);
  for (int again = 0; again < 2; ++again)  // twice on one tape: gradients are added, and the tape is left as it was
    Layer::backward(call, bench.p, in, tape, hm::Rows<const double, width>{dy.data()}, hm::Rows<double, width>{dx.data()},
                    bench.gradient);

  Tensors moved = tensors;
  std::vector<double> moved_x = x;
  Index tested = 0, all = 0;
  const auto compare = [&](double& value, double got) {
    const double h = 1e-4, middle = value;
    const auto loss = [&](double at, bool& same) {
      value = at;
      const Naive r = naive(s, moved, moved_x);
      same = same && r.chosen == expected.chosen;
      double sum = call.auxiliary * r.auxiliary;
      for (std::size_t i = 0; i < dy.size(); ++i) sum += dy[i] * r.y[i];
      return sum;
    };
    bool same = true;
    const double near = loss(middle + h, same) - loss(middle - h, same),
                 far = loss(middle + 2 * h, same) - loss(middle - 2 * h, same);
    const double slope = (8 * near - far) / (12 * h);
    value = middle;
    ++all;
    if (!same) return;  // the choice flips in between: no derivative
    REQUIRE_THAT(got, WithinAbs(2 * slope, 1e-9));
    ++tested;
  };
  for (std::size_t i = 0; i < x.size(); ++i) compare(moved_x[i], dx[i] - 2.0);
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& slope) {
        INFO(name.text());
        for (Index i = 0; i < slope.size; ++i) compare(moved[name.text()][to_size(i)], slope.data[i] - 4.0);
      },
      hm::Name{}, bench.gradient);
  REQUIRE(tested > all * 9 / 10);
}

template <class Layer>
void check(const Settings& s, Index rows, std::uint64_t seed) {
  INFO("rows " << rows << " experts " << s.most << " of " << s.count << " seed " << seed);
  const Tensors tensors = random_tensors<Layer>(seed);
  const auto x = test::numbers(rows * width, seed + 5);
  check_forward<Layer, double>(s, tensors, x, 1e-12);
  check_forward<Layer, float>(s, tensors, x, 1e-5);
  if (rows < 20) check_backward<Layer>(s, tensors, x, seed);
}

template <class Description>
using Bound = typename Description::template Layer<Env>;
template <bool renormalise>
using Balanced = router::TopK<router::TopKOptions{.renormalise = renormalise, .balance = 0.1f, .z = 0.05f}>;
constexpr double balance = static_cast<double>(0.1f), z = static_cast<double>(0.05f);

}  // namespace

TEST_CASE("Two of five experts, renormalised (Mixtral)") {
  using Layer = Bound<channel::Moe<hm::Experts{.count = 5, .active = 2, .hidden = 7}, Balanced<true>>>;
  for (const Index rows : {1, 13, 300}) check<Layer>({5, 2, 7, Rule::renormalised, 0, false, balance, z}, rows, 1);
}

TEST_CASE("One of four and all of three experts, weighed by their probabilities (Switch, Qwen2-MoE)") {
  check<Bound<channel::Moe<hm::Experts{.count = 4, .active = 1, .hidden = 5}, Balanced<false>>>>(
      {4, 1, 5, Rule::probabilities, 0, false, balance, z}, 11, 2);
  check<Bound<channel::Moe<hm::Experts{.count = 3, .active = 3, .hidden = 5}, Balanced<false>>>>(
      {3, 3, 5, Rule::probabilities, 0, false, balance, z}, 11, 3);
}

TEST_CASE("A shared expert, plain (DeepSeek) and scaled by a gate (Qwen2-MoE)") {
  constexpr hm::Experts experts{.count = 4, .active = 2, .hidden = 5};
  check<Bound<channel::Moe<experts, Balanced<true>, channel::SwiGlu<9>>>>({4, 2, 5, Rule::renormalised, 9, false, balance, z}, 9,
                                                                          4);
  check<Bound<channel::Moe<experts, Balanced<false>, channel::Gated<channel::SwiGlu<3>>>>>(
      {4, 2, 5, Rule::probabilities, 3, true, balance, z}, 9, 5);
}

TEST_CASE("Lists of every length, none included") {
  using Layer = Bound<channel::Moe<hm::Experts{.count = 4, .active = {0, 3}, .hidden = 5}, test::Threshold>>;
  const Settings s{4, 3, 5, Rule::threshold};
  std::vector<bool> seen(4, false);
  const auto chosen = naive(s, random_tensors<Layer>(6), test::numbers(16 * width, 11)).chosen;
  for (const auto& list : chosen) seen[list.size()] = true;
  REQUIRE(seen == std::vector<bool>(4, true));
  for (const Index rows : {1, 16, 100}) check<Layer>(s, rows, 6);

  // Not one token has an expert: y is zero (and the shared expert alone where there is one).
  Tensors silent = random_tensors<Layer>(7);
  std::fill(silent["router.weight"].begin(), silent["router.weight"].end(), 0.0);
  const auto y = Bench<Layer, double>(silent).forward(test::numbers(20 * width, 8));
  REQUIRE(std::all_of(y.begin(), y.end(), [](double value) { return value == 0; }));
}

TEST_CASE("All tokens to one expert, the others without any") {
  using Layer = Bound<channel::Moe<hm::Experts{.count = 6, .active = 1, .hidden = 5}, Balanced<false>>>;
  const Settings s{6, 1, 5, Rule::probabilities, 0, false, balance, z};
  Tensors tensors = random_tensors<Layer>(9);
  auto x = test::numbers(14 * width, 10);
  for (Index row = 0; row < 14; ++row) x[to_size(row * width)] = 3;
  tensors["router.weight"][4 * width] = 9;
  for (const auto& list : naive(s, tensors, x).chosen) REQUIRE(list == std::vector<Index>{4});
  check_forward<Layer, double>(s, tensors, x, 1e-12);
  check_backward<Layer>(s, tensors, x, 9);
}

TEST_CASE("Equal scores: the lower expert is taken") {
  using Layer = Bound<channel::Moe<hm::Experts{.count = 5, .active = 2, .hidden = 5}, Balanced<true>>>;
  const Settings s{5, 2, 5, Rule::renormalised, 0, false, balance, z};
  Tensors tensors = random_tensors<Layer>(12);
  auto& w = tensors["router.weight"];
  for (Index c = 0; c < width; ++c) w[to_size(3 * width + c)] = w[to_size(1 * width + c)] = w[to_size(4 * width + c)];
  auto x = test::numbers(30 * width, 13);
  std::fill(x.begin(), x.begin() + width, 0.0);
  const auto chosen = naive(s, tensors, x).chosen;
  REQUIRE(chosen[0] == std::vector<Index>{0, 1});
  REQUIRE(std::any_of(chosen.begin(), chosen.end(), [](const auto& list) { return list.back() == 3; }));
  check_forward<Layer, double>(s, tensors, x, 1e-12);
}

TEST_CASE("A call without rows is allowed") {
  using Layer = Bound<channel::Moe<hm::Experts{.count = 5, .active = 2, .hidden = 5}>>;
  CHECK(Bench<Layer, double>(random_tensors<Layer>(1)).forward({}).empty());
  CHECK(Bench<Layer, double>(random_tensors<Layer>(1)).forward({}, true).empty());
}

TEST_CASE("Accounts and the causal flag are constants of the type") {
  using Plain = Bound<channel::Moe<hm::Experts{.count = 8, .active = 2, .hidden = 10}>>;
  STATIC_REQUIRE(Plain::causal);
  STATIC_REQUIRE(Plain::active_parameters() == hm::Spread::always(8 * width + 2 * 3 * width * 10));
  STATIC_REQUIRE(Plain::flops_per_token(64).forward == 2.0 * (8 * width + 2 * 3 * width * 10));
  STATIC_REQUIRE(Plain::flops_per_token(64).training == 6.0 * (8 * width + 2 * 3 * width * 10));
  STATIC_REQUIRE(hm::element_count<Plain::Parameters<float, hm::Flat>, float> == 8 * width + 8 * 3 * width * 10);
  using Loose = Bound<
      channel::Moe<hm::Experts{.count = 8, .active = {0, 4}, .hidden = 10}, test::Threshold, channel::Gated<channel::SwiGlu<3>>>>;
  constexpr Index shared = 3 * width * 3 + width;
  STATIC_REQUIRE(Loose::active_parameters() ==
                 hm::Spread{8 * width + shared, 8 * width + shared + 2 * 180, 8 * width + shared + 4 * 180});
  using Seeing = Bound<channel::Moe<hm::Experts{.count = 4, .active = {0, 4}, .hidden = 5}, test::ExpertChoice>>;
  STATIC_REQUIRE_FALSE(Seeing::causal);
}

TEST_CASE("A router that compares rows fits the same layer, and is told apart by `causal`") {
  using Layer = Bound<channel::Moe<hm::Experts{.count = 4, .active = {0, 4}, .hidden = 5}, test::ExpertChoice>>;
  const Tensors tensors = random_tensors<Layer>(20);
  const auto x = test::numbers(12 * width, 21);
  Bench<Layer, double> bench(tensors);
  const auto y = bench.forward(x), alone = bench.forward({x.begin(), x.begin() + width});
  std::vector<double> expected(x.size(), 0.0);
  for (Index e = 0; e < 4; ++e) {
    std::vector<std::pair<double, Index>> order;
    for (Index row = 0; row < 12; ++row)
      order.push_back({-dot(tensors.at("router.weight"), e, x.data() + row * width, width), row});
    std::sort(order.begin(), order.end());
    for (Index i = 0; i < 3; ++i) {
      const auto [negative, row] = order[to_size(i)];
      add_swiglu(tensors, "experts." + std::to_string(e), 5, x.data() + row * width, 1 / (1 + std::exp(negative)),
                 expected.data() + row * width);
    }
  }
  for (std::size_t i = 0; i < y.size(); ++i) REQUIRE_THAT(y[i], WithinAbs(expected[i], 1e-12));
  CHECK_FALSE(std::equal(alone.begin(), alone.end(), y.begin()));
}
