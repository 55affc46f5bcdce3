// Adaptive attention against its definition, at its corners, after taking tokens back, and what it reports and promises.

#include <algorithm>

#include <attention/reference.hpp>
#include <attention/running.hpp>
#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/adaptive.hpp>
#include <support/numbers.hpp>

namespace attention = hybridmoe::attention;
namespace position = hybridmoe::position;
using attention::Store;
using attention::Window;
using hybridmoe::Decision;
using hybridmoe::Heads;
using hybridmoe::Index;
using hybridmoe::Used;

namespace {

constexpr Heads heads{4, 2, 6};
constexpr Window bounds{14, 30, 5};
constexpr Store store{7, 3, 8};
using Env = hybridmoe::Environment<12, 160, 21, 13>;

struct L : attention::AdaptiveLocal<heads, bounds> {};
struct M : attention::KeyTokens<heads, bounds, store> {};
struct A : attention::TriModal<heads, bounds, store> {};
struct Full : attention::Full<heads> {};

/// Key tokens by their definition: every block chooses from all candidates before it.
struct AllCandidates {
  struct Token {
    double r, theta;
    std::size_t at;
  };
  std::vector<double> r;
  std::size_t entries, candidates, grid;

  static bool better(const Token& a, const Token& b) { return a.r > b.r || (a.r == b.r && a.at < b.at); }

  /// a_{j,b}
  double weight(std::size_t j, std::size_t block) const {
    std::vector<Token> all;
    for (std::size_t c = 0; c < block; ++c) {
      std::vector<Token> tokens;
      for (std::size_t i = 0; i < grid; ++i) tokens.push_back({r[c * grid + i], 0, c * grid + i});
      std::sort(tokens.begin(), tokens.end(), better);
      for (std::size_t i = 0; i < candidates; ++i) all.push_back({tokens[i].r, tokens[candidates].r, tokens[i].at});
    }
    std::sort(all.begin(), all.end(), better);
    const double eta = all.size() > entries ? all[entries].r : -1e300;
    for (std::size_t i = 0; i < all.size() && i < entries; ++i)
      if (all[i].at == j) return 1 - std::exp(-(all[i].r - std::fmax(all[i].theta, eta)));
    return 0;
  }
};

/// What the rows of one call decided: window as a fraction, key tokens, all tokens, in [0, 1], ends included.
std::vector<double> some_decisions(Index rows, std::uint64_t seed, Index layers) {
  std::vector<double> d = test::numbers(rows * Decision::fields * layers, seed, 0.5, 0.5);
  for (double& v : d) v = std::fmin(1, std::fmax(0, v));
  return d;
}

template <class Mode, bool keyed, bool all>
void matches_its_definition() {
  constexpr Index layer = 2;
  const std::vector<Index> lengths{115, 1, 41, 8};
  test::Running<Mode, Env, double> run(11);
  const Index rows = 165;
  const std::vector<double> x = test::numbers(rows * Env::width, 3);
  run.streams.layer = layer;
  run.streams.decisions = some_decisions(rows, 4, layer + 1);
  run.streams.budget = test::numbers(rows, 5, 0.4, 0.6);
  for (double& b : run.streams.budget) b = std::fmin(1, std::fmax(0, b));
  const std::vector<double> y = run.train(lengths, x);

  double worst = 0, size = 0;
  bool numbers = true;
  Index first = 0, active = 0;
  for (const Index length : lengths) {
    const std::vector<double> part(x.begin() + first * Env::width, x.begin() + (first + length) * Env::width);
    AllCandidates tokens{{}, store.entries, store.candidates, store.block};
    if (keyed)
      for (Index t = 0; t < length; ++t) {
        double r = 0;
        for (Index i = 0; i < 32; ++i) {
          double h = 0;
          for (Index c = 0; c < Env::width; ++c)
            h += run.tensor("key_tokens.hidden.weight")[i * Env::width + c] * part[static_cast<std::size_t>(t * Env::width + c)];
          r += run.tensor("key_tokens.score.weight")[i] * h / (1 + std::exp(-h));
        }
        tokens.r.push_back(r);
      }
    test::AttentionReference reference{.width = 12, .heads = 4, .kv = 2, .size = 6, .base = 10000, .turned = 6};
    reference.reach = [&](std::size_t t, std::size_t j) {
      const std::size_t row = static_cast<std::size_t>(first) + t;
      const double* const d = run.streams.decisions.data() + row * Decision::fields * (layer + 1) + layer * Decision::fields;
      const double w = 14 + run.streams.budget[row] * (30 - 14) * d[Decision::window];
      double weight = std::fmin(1, std::fmax(0, (w - static_cast<double>(t - j)) / 5));
      const double key = !keyed ? 0 : tokens.weight(j, t / store.block) * (all ? d[Decision::key_tokens] : 1);
      if (key > weight) ++active;
      weight = std::fmax(weight, key);
      return all ? std::fmax(weight, d[Decision::global]) : weight;
    };
    const std::vector<double> expected = reference.forward(part, [&](const std::string& name) { return run.tensor(name); });
    for (Index i = 0; i < length * Env::width; ++i) {
      const double value = expected[static_cast<std::size_t>(i)];
      const double got = y[static_cast<std::size_t>(first * Env::width + i)];
      numbers = numbers && std::isfinite(got);  // fmax passes over a NaN
      worst = std::fmax(worst, std::fabs(got - value));
      size = std::fmax(size, std::fabs(value));
    }
    for (Index t = 0; t < length; ++t) {
      const std::size_t row = static_cast<std::size_t>(first + t);
      const double* const d = run.streams.decisions.data() + (row * 3 + 2) * Decision::fields;
      const double* const used = run.used.data() + (row * 3 + 2) * Used::fields;
      CHECK(std::fabs(used[Used::window] - (14 + run.streams.budget[row] * 16 * d[Decision::window])) < 1e-12);
      CHECK(used[Used::key_tokens] == (!keyed ? 0 : all ? d[Decision::key_tokens] : 1));
      CHECK(used[Used::global] == (all ? d[Decision::global] : 0));
    }
    first += length;
  }
  INFO("largest output " << size << ", largest difference " << worst);
  CHECK(numbers);
  CHECK(size > 0.1);
  CHECK(worst < 1e-12 * size);
  CHECK((active > 500) == keyed);
}

/// Rows from `from` to `to` in pieces of any size up to the longest chunk.
template <class Run>
std::vector<double> feed(Run& run, std::vector<std::byte>& states, const std::vector<double>& x,
                         const std::vector<double>& decisions, Index from, Index to, Index piece) {
  std::vector<double> y;
  while (from < to) {
    const Index count = std::min({piece, to - from, Env::chunk});
    hybridmoe::BatchPlan plan;
    plan.add(0, from, count);
    const auto cut = [&](const std::vector<double>& v, Index width) {
      return std::vector<double>(v.begin() + from * width, v.begin() + (from + count) * width);
    };
    run.streams.decisions = cut(decisions, Decision::fields);
    const std::vector<double> rows = run.step(states, plan, cut(x, Env::width));
    y.insert(y.end(), rows.begin(), rows.end());
    from += count;
  }
  return y;
}

template <class Mode>
void takes_back_exactly() {
  constexpr Index length = 150;
  test::Running<Mode, Env, double> run(21);
  const std::vector<double> seen = test::numbers(length * Env::width, 31), other = test::numbers(length * Env::width, 32);
  const std::vector<double> decisions = some_decisions(length, 33, 1), others = some_decisions(length, 34, 1);
  int differ = 0;
  for (Index back = 0; back <= Env::rewind; ++back)
    for (Index keep = 1; keep + back + 40 < length; keep += 1 + keep % 3) {
      auto never = run.fresh(1), took = run.fresh(1);
      feed(run, never, seen, decisions, 0, keep, 21);
      feed(run, took, seen, decisions, 0, keep + back, 1 + (keep * 7 + back) % 21);
      const Index piece = 1 + (keep + back * 5) % 21;
      if (feed(run, never, other, others, keep, keep + 40, 21) != feed(run, took, other, others, keep, keep + 40, piece))
        ++differ;
    }
  CHECK(differ == 0);
}

/// How far the outputs of two modes with the same tensors lie apart.
template <class Mode, class Other>
double difference(const test::Streams<double>& streams, Index length) {
  test::Running<Mode, Env, double> mode(41);
  test::Running<Other, Env, double> other(41);  // tensors of one name start alike
  const std::vector<double> x = test::numbers(length * Env::width, 42);
  mode.streams = other.streams = streams;
  const std::vector<double> y = mode.train({length}, x), expected = other.train({length}, x);
  double worst = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double d = std::fabs(y[i] - expected[i]);
    if (std::isnan(d)) return d;
    worst = std::fmax(worst, d);
  }
  return worst;
}

/// The same decisions for all rows.
test::Streams<double> decided(Index rows, double window, double key_tokens, double global) {
  test::Streams<double> streams;
  for (Index row = 0; row < rows; ++row)
    for (const double d : {window, 1.0, 1.0, key_tokens, global, 0.0}) streams.decisions.push_back(d);
  return streams;
}

}  // namespace

TEST_CASE("L, M and A compute their definition") {
  matches_its_definition<L, false, false>();
  matches_its_definition<M, true, false>();
  matches_its_definition<A, true, true>();
}

TEST_CASE("tokens that are taken back leave no trace") {
  takes_back_exactly<L>();
  takes_back_exactly<M>();
  takes_back_exactly<A>();
}

struct Sharp : attention::AdaptiveLocal<heads, Window{10, 20, 1}> {};
struct FixedWindow : attention::AdaptiveLocal<heads, Window{10, 40, 1}, attention::window::Fixed<20>> {};
struct Local : attention::Local<heads, 20> {};

TEST_CASE("the corners of the one weight are the modes that they generalise") {
  const test::Streams<double> neutral;
  CHECK(difference<A, Full>(decided(130, 0.3, 0.7, 1), 130) == 0);
  CHECK(difference<A, Full>(neutral, 130) == 0);
  CHECK(difference<A, L>(decided(130, 0.3, 0, 0), 130) == 0);
  CHECK(difference<A, M>(decided(130, 0.3, 1, 0), 130) == 0);
  CHECK(difference<A, M>(decided(130, 0.3, 1, 0.1), 130) > 1e-6);
  CHECK(difference<M, L>(decided(130, 0.3, 1, 0), 130) > 1e-6);
  CHECK(difference<Sharp, Local>(neutral, 130) == 0);
  CHECK(difference<FixedWindow, Local>(neutral, 130) == 0);
}

TEST_CASE("a weight's gradient goes to what it is the maximum of, at the ends of their ranges too") {
  namespace ops = hybridmoe::ops;
  using Shape = ops::ReachShape<4, true, 32, 32>;
  constexpr int base = 32, at = 60;
  std::int32_t position[32];
  double a[32];
  for (int j = 0; j < 32; ++j) {
    position[j] = base + j;
    a[j] = position[j] > at ? 0 : 0.45 * (j % 3);
  }
  for (const double key_tokens : {0.0, 0.5, 1.0})
    for (const double all : {0.0, 0.3, 1.0}) {
      const double reach[] = {10.5, key_tokens, all};
      const ops::RowReach<double, Shape> row(at, reach);
      ops::WeightSlopes<double, Shape> near, beyond;
      near.of_tile(row, base);
      beyond.of_key_tokens(row, position, a, key_tokens);
      for (int j = 0; j <= at - base; ++j) {
        const double m = std::fmin(1, std::fmax(0, (10.5 - (at - position[j])) / 4)), key = key_tokens * a[j];
        CHECK(std::fabs(near.weight[j] + beyond.weight[j] - std::max({m, key, all})) < 1e-15);
        CHECK(near.window[j] + beyond.window[j] == (m > std::fmax(key, all) && m < 1 ? 0.25 : 0));
        CHECK(near.all[j] + beyond.all[j] == (all > std::fmax(m, key) ? 1 : 0));
      }
    }
}

using Rule = attention::window::Proposal<>;

TEST_CASE("the proposal's rule gives its windows, at the row's own position") {
  const auto window = [](double c, Index position) {
    attention::WindowStreams<double> streams;
    streams.complexity = {&c, nullptr, 1};
    return Rule::size<512, 2048>(streams, 0, position);
  };
  for (const double c : {0.0, 0.1, 0.5, 0.777, 1.0})
    for (const int t : {0, 4095, 4096, 5119, 5120, 9000, 12288, 40000})
      CHECK(window(c, t) == std::clamp(512 + int(1.5 * c * 1024) - std::max(0, t - 4096) / 1024 * 128, 512, 2048));
  CHECK(window(std::nan(""), 40000) == 512);
  CHECK(window(std::nan(""), 0) == 512);
  using Unscaled = attention::window::Proposal<512, 1024, 4096, 1024, 128, 100>;
  CHECK(Unscaled::size<512, 2048>(attention::WindowStreams<double>{}, 0, 0) == 1024);
}

struct Ruled : attention::AdaptiveLocal<heads, bounds, attention::window::Proposal<16, 20, 40, 10, 2>> {};

TEST_CASE("a layer follows the rule as far as the budget allows") {
  test::Running<Ruled, Env, double> run(3);
  run.streams.complexity = test::numbers(150, 4, 0.2, 0.5);
  run.streams.budget.assign(150, 0.75);
  run.train({100, 50}, test::numbers(150 * Env::width, 5));
  for (int row = 0; row < 150; ++row) {
    const int t = row % 100, rule = 16 + int(1.5 * run.streams.complexity[static_cast<std::size_t>(row)] * 20);
    CHECK(run.used[static_cast<std::size_t>(row * Used::fields + Used::window)] ==
          std::clamp(rule - std::max(0, t - 40) / 10 * 2, 14, 26));
  }
}

TEST_CASE("no window exceeds what the budget allows, and none falls below the least") {
  test::Running<L, Env, float> run(3);
  const Index rows = 2000;
  std::vector<Index> lengths(20, 100);
  run.streams.decisions = test::cast<float>(test::numbers(rows * Decision::fields, 7, 2, 0.5));  // beyond [0, 1] too
  run.streams.budget = test::cast<float>(test::numbers(rows, 8, 0.3, 0.5));
  for (float& b : run.streams.budget) b = std::fmin(1.0f, std::fmax(0.0f, b));
  run.train(lengths, test::cast<float>(test::numbers(rows * Env::width, 9)));
  for (Index row = 0; row < rows; ++row) {
    const float w = run.used[static_cast<std::size_t>(row * Used::fields + Used::window)];
    const float cap = 14 + run.streams.budget[static_cast<std::size_t>(row)] * 16;
    CHECK((w >= 14 && w <= cap));
  }
}

TEST_CASE("the price is that of the keys that rows chose, as a mean") {
  test::Running<A, Env, double> run(5);
  const std::vector<Index> lengths{50, 3};
  run.streams = decided(53, 0.5, 0.25, 0.125);
  run.streams.target = test::numbers(53, 3, 0.2, 0.5);
  run.streams.price = 1e-3;
  run.train(lengths, test::numbers(53 * Env::width, 6));
  double sum = 0;
  for (std::size_t row = 0; row < 53; ++row) {
    const std::size_t t = row < 50 ? row : row - 50;
    const double tokens = static_cast<double>(std::min<std::size_t>(7, t / 8 * 3)), seen = static_cast<double>(t + 1);
    const double keys = std::fmin(22, seen) + 0.25 * tokens + 0.125 * seen, q = run.streams.target[row];
    sum += 1e-3 * (1 - q) * (1 - q) * 4 * 24 * keys;
  }
  CHECK(std::fabs(run.loss - sum / 53) < 1e-12 * sum);
}

struct Chance : attention::KeyTokens<heads, bounds, store, attention::scorer::Random<>> {};

TEST_CASE("key tokens by chance are an option without tensors") {
  CHECK(difference<Chance, L>(decided(130, 0, 1, 0), 130) > 1e-6);
  CHECK(difference<Chance, M>(decided(130, 0, 1, 0), 130) > 1e-6);
  takes_back_exactly<Chance>();
  CHECK(Chance::Layer<Env>::active_parameters() == L::Layer<Env>::active_parameters());
}

TEST_CASE("what a token may cost grows with the budget and ends at the nominal choice") {
  const auto products = [](const auto& layer) { return layer.flops_per_token(1).forward - 4.0 * 24; };
  const L::Layer<Env> l;
  const M::Layer<Env> m;
  const A::Layer<Env> a;
  CHECK(l.capped_flops(160, 0) == products(l) + 4.0 * 24 * 14);
  CHECK(l.capped_flops(160, 0.5) == products(l) + 4.0 * 24 * 22);
  CHECK(l.capped_flops(20, 1) == products(l) + 4.0 * 24 * 20);
  CHECK(m.capped_flops(160, 1) == products(m) + 4.0 * 24 * (30 + 7));
  CHECK(a.capped_flops(160, 0) == products(a) + 4.0 * 24 * (160 + 7));
  CHECK(l.flops_per_token(160).forward <= l.capped_flops(160, 1));
  CHECK(m.flops_per_token(160).forward <= m.capped_flops(160, 1));
  CHECK(a.flops_per_token(160).forward <= a.capped_flops(160, 1));
}

struct Warmed : attention::KeyTokens<heads, bounds, store, position::Nothing, attention::scorer::Warm<3, 500>> {};

namespace {

/// The loss that warms the scorer, from its definition: whole sequences one after another.
double warming(const std::vector<Index>& lengths, const std::vector<double>& x,
               const std::function<const double*(const std::string&)>& tensor) {
  const auto product = [&](const std::string& name, std::size_t row, std::size_t out) {
    double sum = 0;
    for (std::size_t c = 0; c < 12; ++c) sum += tensor(name)[out * 12 + c] * x[row * 12 + c];
    return sum;
  };
  double loss = 0;
  std::size_t begin = 0, rows = x.size() / 12;
  for (const Index l : lengths) {
    const std::size_t length = static_cast<std::size_t>(l);
    std::vector<double> mass(length), r(length);
    for (std::size_t t = 0; t < length; ++t)
      for (std::size_t i = 0; i < 32; ++i) {
        const double h = product("key_tokens.hidden.weight", begin + t, i);
        r[t] += tensor("key_tokens.score.weight")[i] * h / (1 + std::exp(-h));
      }
    for (std::size_t t = 2; t < length; t += 3)
      for (std::size_t h = 0; h < 4; ++h) {
        std::vector<double> power(t + 1);
        double all = 0;
        for (std::size_t j = 0; j <= t; ++j) {
          double s = 0;
          for (std::size_t i = 0; i < 6; ++i)
            s += product("query.weight", begin + t, h * 6 + i) * product("key.weight", begin + j, h / 2 * 6 + i);
          all += power[j] = std::exp(s / std::sqrt(6.0));
        }
        for (std::size_t j = 0; j <= t; ++j)
          mass[j] += power[j] / all * (1 - std::fmin(1, std::fmax(0, (30 - static_cast<double>(t - j)) / 5)));
      }
    for (std::size_t b = 0; b + 8 <= length; b += 8) {
      double all = 0, powers = 0;
      for (std::size_t j = b; j < b + 8; ++j) {
        all += mass[j];
        powers += std::exp(r[j]);
      }
      for (std::size_t j = b; j < b + 8 && all > 0; ++j)
        if (mass[j] > 0) loss += mass[j] / all * std::log(mass[j] / all / (std::exp(r[j]) / powers));
    }
    begin += length;
  }
  return 0.5 * 8 / static_cast<double>(rows) * loss;
}

}  // namespace

TEST_CASE("the loss that warms the scorer is its formula, and teaches the scorer alone") {
  namespace check = hybridmoe::check;
  check::SubjectOf<Warmed, Env, double, hybridmoe::Flat, hybridmoe::exec::Inline> subject(hybridmoe::exec::Inline{});
  std::vector<double> parameters = subject.random_parameters(3);
  const std::vector<Index> lengths{90, 5, 47};
  hybridmoe::BatchPlan plan = check::whole_sequences(lengths);
  check::Training<double> run;
  run.x = test::numbers(plan.rows() * Env::width, 4);
  run.dy.assign(run.x.size(), 0);
  run.dx.assign(run.x.size(), 0);
  run.gradient.assign(parameters.size(), 0);
  run.auxiliary = 2;
  const auto tensor = [&](const std::string& name) -> const double* {
    for (const check::TensorFacts& t : subject.facts.tensors)
      if (t.name == name) return parameters.data() + t.offset;
    FAIL("the layer has no tensor " << name);
    return nullptr;
  };
  subject.set_parameters(parameters);
  subject.train(plan, run);
  const double expected = warming(lengths, run.x, tensor);
  CHECK(expected > 0.1);
  CHECK(std::fabs(run.loss - expected) < 1e-12);
  const std::vector<double> gradient = run.gradient;
  run.dy.clear();
  for (const check::TensorFacts& t : subject.facts.tensors)
    for (Index i = t.offset; i < t.offset + t.size; i += 7) {
      double& p = parameters[static_cast<std::size_t>(i)];
      const double kept = p, got = gradient[static_cast<std::size_t>(i)];
      if (t.name.rfind("key_tokens", 0) != 0) {
        CHECK(got == 0);
        continue;
      }
      double by[2];
      for (const int side : {0, 1}) {
        p = kept + (side == 0 ? -1e-4 : 1e-4);
        subject.set_parameters(parameters);
        subject.train(plan, run);
        by[side] = 2 * run.loss;
      }
      p = kept;
      CHECK(std::fabs((by[1] - by[0]) / 2e-4 - got) < 1e-7);
    }
}

TEST_CASE("a sequence's store in a tape ends with its head's keys") {
  using Stores = hybridmoe::ops::KeyStores<float, 6, 2>;
  const std::vector<Index> begin{0, 70, 71, 150};
  constexpr Index rows = 200, sequences = 4, tiles = Stores::tape_tiles_for(rows, sequences);
  std::vector<float> keys(static_cast<std::size_t>(Stores::tape_elements(rows, sequences))), values = keys;
  const Stores stores{keys.data(), values.data(), tiles};
  for (Index s = 0; s < sequences; ++s) {
    const auto own = stores.of(s, begin[static_cast<std::size_t>(s)], 0);
    CHECK(own.key_at(1, own.tiles - 1) + 6 * hybridmoe::ops::key_tile == keys.data() + keys.size());
    // It holds the sequence.
    const Index end = s + 1 < sequences ? begin[static_cast<std::size_t>(s + 1)] : rows;
    CHECK(own.tiles >= hybridmoe::ops::tiles_for(end - begin[static_cast<std::size_t>(s)]));
  }
}
