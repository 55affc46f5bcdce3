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
      worst = std::fmax(worst, std::fabs(y[static_cast<std::size_t>(first * Env::width + i)] - value));
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
  for (std::size_t i = 0; i < y.size(); ++i) worst = std::fmax(worst, std::fabs(y[i] - expected[i]));
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
