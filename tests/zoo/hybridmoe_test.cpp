// HybridMoE as a whole: its published sizes, and the laws of a small model with everything on (all four letters, all sources).

#include <algorithm>
#include <cmath>

#include <catch2/generators/catch_generators.hpp>
#include <hybridmoe/generate/session.hpp>
#include <hybridmoe/train/trainer.hpp>
#include <hybridmoe/zoo/hybridmoe.hpp>
#include <model/running.hpp>
#include <support/allocations.hpp>
#include <zoo/small.hpp>

namespace hm = hybridmoe;
using hm::Flat;
using hm::Index;
using hm::Packed;
using hm::to_size;

namespace {

// --- sizes
// -----------------------------------------------------------------------------------------------------------------------

constexpr bool near(double got, double wanted, double part) { return got >= wanted * (1 - part) && got <= wanted * (1 + part); }
template <class M>
constexpr double total = static_cast<double>(hm::Account<M>::parameters());
template <class M>
constexpr double active = static_cast<double>(hm::Account<M>::active_parameters().target);

// The proposal's sizes, to two digits; and the table of docs/hybridmoe.md, to its three.
static_assert(near(total<hm::zoo::HybridSmall>, 7e9, 0.02) && near(active<hm::zoo::HybridSmall>, 2e9, 0.02));
static_assert(near(total<hm::zoo::HybridMedium>, 70e9, 0.02) && near(active<hm::zoo::HybridMedium>, 15e9, 0.02));
static_assert(near(total<hm::zoo::HybridLarge>, 400e9, 0.02) && near(active<hm::zoo::HybridLarge>, 40e9, 0.02));
constexpr double digits = 0.005;
static_assert(near(total<hm::zoo::HybridPico>, 1.23e6, digits) && near(active<hm::zoo::HybridPico>, 0.565e6, digits));
static_assert(near(total<hm::zoo::HybridNano>, 8.96e6, digits) && near(active<hm::zoo::HybridNano>, 2.08e6, digits));
static_assert(near(total<hm::zoo::HybridSmall>, 6.99e9, digits) && near(active<hm::zoo::HybridSmall>, 1.99e9, digits));
static_assert(near(total<hm::zoo::HybridMedium>, 69.8e9, digits) && near(active<hm::zoo::HybridMedium>, 15.0e9, digits));
static_assert(near(total<hm::zoo::HybridLarge>, 400e9, digits) && near(active<hm::zoo::HybridLarge>, 39.8e9, digits));
static_assert(hm::Account<hm::zoo::HybridLarge>::layer_count == 72);
// A cap grows with the budget, and a part of the worst case is a budget.
static_assert(hm::Account<hm::zoo::HybridPico>::capped_flops(256, 0.5) < hm::Account<hm::zoo::HybridPico>::capped_flops(256, 1));
constexpr double half = hm::Account<hm::zoo::HybridPico>::budget_for(0.6, 256);
static_assert(hm::Account<hm::zoo::HybridPico>::capped_flops(256, half) <=
              0.6 * hm::Account<hm::zoo::HybridPico>::capped_flops(256, 1));
// Ids of a large vocabulary are not bytes.
template <hm::zoo::HybridSizes sizes>
using Estimator = typename hm::zoo::HybridTypes<sizes, hm::zoo::HybridParts{}>::Estimator;
static_assert(std::is_same_v<Estimator<hm::zoo::hybrid_nano>, hm::control::Complexity<hm::zoo::hybrid_nano.complexity>>);
static_assert(std::is_same_v<Estimator<hm::zoo::hybrid_small>,
                             hm::control::Complexity<hm::zoo::hybrid_small.complexity, hm::control::NoClasses>>);
// What sizes leave out, parts do not bring back.
constexpr hm::zoo::HybridSizes without_stand_in = [] {
  hm::zoo::HybridSizes s = hm::zoo::hybrid_pico;
  s.shared.stand_in = false;
  return s;
}();
static_assert(!hm::zoo::HybridTypes<without_stand_in, hm::zoo::HybridParts{}>::shared.stand_in);
// Every letter of the headline pattern, as a type.
struct Headline : hm::zoo::HybridModel<hm::zoo::hybrid_pico, hm::Pattern<"GLLLMLLLGMLLLG">> {};
static_assert(Headline::layer_count == 14);

// --- a small model with everything on
// --------------------------------------------------------------------------------------------

using Small = test::SmallHybrid;
static_assert(Small::rewind_limit() == 9);

using Inline = hm::exec::Inline;
template <class T, class Storage>
using ModelOf = hm::Model<Small, T, Inline, Storage>;

/// A model with the given parameters, in the given storage.
template <class T, class Storage>
ModelOf<T, Storage> model_of(const std::vector<T>& flat) {
  ModelOf<T, Flat> model{Inline{}};
  model.upload(flat.data());
  if constexpr (std::is_same_v<Storage, Flat>)
    return model;
  else
    return hm::pack(model);
}

/// The logits of every row of a sequence fed to a session in the given pieces, under a budget.
template <class Session>
std::vector<float> feed_in(Session& session, Index sequence, const std::vector<std::int32_t>& tokens, auto&& piece) {
  std::vector<float> rows;
  for (Index at = session.length(sequence); at < hm::to_index(tokens.size());) {
    const Index count = std::min(piece(), hm::to_index(tokens.size()) - at);
    const auto fed = session.feed(sequence, {tokens.data() + at, to_size(count)});
    REQUIRE(fed);
    at += count;
    const auto logits = session.logits(sequence);
    rows.insert(rows.end(), logits.begin(), logits.end());
  }
  return rows;
}

/// The derivative of value(parameters) along a direction of those from `first` on, by central differences.
double slope_along(const std::vector<double>& parameters, Index first, const std::vector<double>& along, double step,
                   const auto& value) {
  double at[2] = {};
  for (int side = 0; side < 2; ++side) {
    std::vector<double> moved = parameters;
    for (std::size_t i = 0; i < along.size(); ++i) moved[to_size(first) + i] += (side == 0 ? -step : step) * along[i];
    at[side] = value(moved);
  }
  return (at[1] - at[0]) / (2 * step);
}

}  // namespace

TEST_CASE("HybridMoE gives a row the same bits in training, in chunks and packed") {
  const std::vector<float> parameters = test::lively_hybrid<float>(3);
  test::TrainingRun<Small, float> whole({97, 1, 40}, 5);
  if (GENERATE(false, true)) whole.conditions = test::Conditions<float>::mixed(whole.rows(), 5);
  whole.run(parameters, {.auxiliary = 0, .gradient = false});
  test::Serving<Small, float, Flat> flat(parameters, 4);
  test::Serving<Small, float, Packed> packed(test::packed<Small>(parameters), 4);
  const std::vector<Index> begin{0, 97, 98}, sizes{1, 16, 5, 7, 3, 16, 11, 2, 16, 16, 16};
  std::vector<Index> position{0, 0, 0};
  for (std::size_t turn = 0;
       std::any_of(position.begin(), position.end(), [&](Index& p) { return p < whole.lengths[to_size(&p - position.data())]; });
       ++turn) {
    std::vector<test::Chunk<float>> chunks;
    std::vector<Index> row;
    for (std::size_t s = 0; s < 3; ++s) {
      const Index count = std::min(sizes[(turn + 3 * s) % sizes.size()], whole.lengths[s] - position[s]);
      if (count <= 0) continue;
      const auto from = whole.tokens.begin() + begin[s] + position[s];
      chunks.push_back(
          {static_cast<Index>(s), position[s], {from, from + count}, whole.conditions.part(begin[s] + position[s], count)});
      for (Index i = 0; i < count; ++i) row.push_back(begin[s] + position[s] + i);
      position[s] += count;
    }
    const std::vector<float> a = flat.feed(chunks), b = packed.feed(chunks);
    for (std::size_t i = 0; i < row.size(); ++i) {
      INFO("row " << row[i]);
      REQUIRE(test::same_bits(a.data() + i * to_size(Small::vocab), whole.logits.data() + row[i] * Small::vocab, Small::vocab));
      REQUIRE(test::same_bits(b.data() + i * to_size(Small::vocab), whole.logits.data() + row[i] * Small::vocab, Small::vocab));
    }
  }
}

TEST_CASE("recomputing HybridMoE's activations changes no bit of its gradient") {
  const std::vector<float> parameters = test::lively_hybrid<float>(3);
  test::TrainingRun<Small, float> kept({97, 1, 40}, 5);
  if (GENERATE(false, true)) kept.conditions = test::Conditions<float>::mixed(kept.rows(), 5);
  test::TrainingRun<Small, float> again = kept;
  kept.run(parameters, {.dropout = 0.1f});
  again.run(parameters, {.recompute = true, .dropout = 0.1f});
  CHECK(kept.loss == again.loss);
  CHECK(test::same_bits(kept.gradient.data(), again.gradient.data(), hm::to_index(kept.gradient.size())));
  CHECK(again.bytes_used < kept.bytes_used);
}

TEST_CASE("no output of HybridMoE depends on a later token") {
  const std::vector<float> parameters = test::lively_hybrid<float>(3);
  test::TrainingRun<Small, float> run({120}, 6);
  if (GENERATE(false, true)) run.conditions = test::Conditions<float>::mixed(120, 6);
  run.run(parameters, {.auxiliary = 0, .gradient = false});
  const std::vector<float> before = run.logits;
  for (const Index changed : {119, 118, 97, 60, 31, 16, 5, 1, 0}) {
    const std::int32_t token = run.tokens[to_size(changed)];
    run.tokens[to_size(changed)] = (token + 7) % 40;
    run.run(parameters, {.auxiliary = 0, .gradient = false});
    CHECK(test::same_bits(before.data(), run.logits.data(), changed * Small::vocab));
    CHECK_FALSE(
        test::same_bits(before.data() + changed * Small::vocab, run.logits.data() + changed * Small::vocab, Small::vocab));
    run.tokens[to_size(changed)] = token;
  }
}

TEST_CASE("the whole of HybridMoE's gradient is the derivative of its loss") {
  std::vector<double> parameters = test::lively_hybrid<double>(4);
  test::TrainingRun<Small, double> run({61, 1, 20}, 7);
  // At a full budget and target decisions may not save anything, and what decides has no gradient: so both are mixed.
  run.conditions = test::Conditions<double>::mixed(run.rows(), 7);
  run.run(parameters, {.auxiliary = 0});
  const std::vector<double> gradient = run.gradient;
  const auto [simplest, hardest] = std::minmax_element(run.complexity.begin(), run.complexity.end());
  CHECK(*simplest < 0.4);
  CHECK(*hardest > 0.6);
  const auto loss_at = [&](const std::vector<double>& at) {
    run.run(at, {.auxiliary = 0, .gradient = false});
    return run.loss;
  };
  Index looked_at = 0, skipped = 0;
  Small::visit<double, Flat>(
      [&](const hm::Name& name, const hm::Trait& trait, auto& tensor) {
        if (trait.update != hm::Update::gradient) return;
        const std::string text = name.text();
        if (text.find("predictor") != std::string::npos) return;  // own losses
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        const Index first = tensor.data - parameters.data();
        std::vector<double> along = test::numbers(Tensor::size, hm::random::hash(text), 1.0);
        double length = 0, analytic = 0, square = 0;
        for (const double a : along) length += a * a;
        for (Index i = 0; i < Tensor::size; ++i) {
          along[to_size(i)] /= std::sqrt(length);
          analytic += along[to_size(i)] * gradient[to_size(first + i)];
          square += gradient[to_size(first + i)] * gradient[to_size(first + i)];
        }
        const auto slope = [&](double step) { return slope_along(parameters, first, along, step, loss_at); };
        INFO(text);
        CHECK(square > 0);
        const double coarse = slope(2e-5), fine = slope(1e-5);
        const double allowed = 1e-5 * (std::abs(fine) + std::sqrt(square / static_cast<double>(Tensor::size))) + 1e-8;
        ++looked_at;
        if (std::abs(coarse - fine) > allowed) {  // a choice flips between the points
          ++skipped;
          return;
        }
        INFO(text << ": backward " << analytic << ", differences " << fine << " and " << coarse);
        CHECK(std::abs(analytic - fine) <= allowed);
      },
      hm::Name{}, parameters.data());
  INFO(looked_at << " tensors, " << skipped << " skipped");
  CHECK(looked_at > 150);
  CHECK(skipped < looked_at / 3);
}

TEST_CASE("twins that spend the same learn nothing from each other, and the head goes over every row once") {
  const std::vector<double> parameters = test::lively_hybrid<double>(4);
  // Two sequences, each twice, in pieces of the head that end within the twins, and one without a twin.
  test::TrainingRun<Small, double> run({150, 150, 7, 150, 150}, 7), batch({150, 150, 7}, 7);
  for (auto* const ids : {&run.tokens, &run.targets}) std::copy_n(ids->begin(), 300, ids->begin() + 307);
  run.run(parameters, {.auxiliary = 0});
  const std::vector<double> gradient = run.gradient;
  run.run(parameters, {.auxiliary = 0, .twins = {.span = {0, 307, 300}, .weight = 3}});
  // The loss is that of the batch, without twins.
  batch.tokens.assign(run.tokens.begin(), run.tokens.begin() + 307);
  batch.targets.assign(run.targets.begin(), run.targets.begin() + 307);
  batch.run(parameters, {.auxiliary = 0});
  CHECK(std::fabs(run.loss * static_cast<double>(run.counted()) - batch.loss * static_cast<double>(batch.counted())) < 1e-9);
  double off = 0, size = 0;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    off = std::fmax(off, std::fabs(run.gradient[i] - gradient[i]));
    size = std::fmax(size, std::fabs(gradient[i]));
  }
  CHECK(off <= 1e-12 * size);
}

TEST_CASE("a twin at a lower budget learns from the one at the full budget, which stays where it is") {
  const std::vector<double> parameters = test::lively_hybrid<double>(4);
  constexpr Index length = 70;
  constexpr double weight = 1.5;
  test::TrainingRun<Small, double> run({length, 9, length}, 7);
  for (auto* const ids : {&run.tokens, &run.targets}) std::copy_n(ids->begin(), length, ids->begin() + length + 9);
  run.conditions.budget.assign(to_size(run.rows()), 1.0);
  run.conditions.target.assign(to_size(run.rows()), 1.0);
  std::fill_n(run.conditions.budget.end() - length, length, 0.4);
  const hm::Twins twins{.span = {0, length + 9, length}, .weight = weight};
  run.run(parameters, {.auxiliary = 0, .twins = twins});
  const std::vector<double> gradient = run.gradient, fixed = run.logits;

  // The objective by naive loops: cross-entropy of all rows, and of the twin the divergence from what the other said before.
  const auto log_softmax = [](const double* z) {
    double sum = 0;
    for (Index v = 0; v < Small::vocab; ++v) sum += std::exp(z[v]);
    std::vector<double> result;
    for (Index v = 0; v < Small::vocab; ++v) result.push_back(z[v] - std::log(sum));
    return result;
  };
  double divergence = 0;
  const auto objective = [&](const std::vector<double>& at) {
    run.run(at, {.auxiliary = 0, .gradient = false, .twins = twins});
    double sum = 0;
    divergence = 0;
    for (Index row = 0; row < run.rows(); ++row) {
      const std::int32_t target = run.targets[to_size(row)];
      if (target < 0) continue;
      const std::vector<double> q = log_softmax(run.logits.data() + row * Small::vocab);
      sum -= q[to_size(target)];
      if (row < length + 9) continue;
      const std::vector<double> p = log_softmax(fixed.data() + (row - length - 9) * Small::vocab);
      for (std::size_t v = 0; v < p.size(); ++v) divergence += std::exp(p[v]) * (p[v] - q[v]);
    }
    return (sum + weight * divergence) / static_cast<double>(run.counted());
  };
  objective(parameters);
  CHECK(divergence > 1);

  Index agreed = 0, flipped = 0;
  for (std::uint64_t direction = 0; direction < 12; ++direction) {
    std::vector<double> along(parameters.size());
    double analytic = 0, length_of = 0;
    Small::visit<double, Flat>(
        [&](const hm::Name& name, const hm::Trait& trait, auto& tensor) {
          if (trait.update != hm::Update::gradient || name.text().find("predictor") != std::string::npos) return;
          const Index first = tensor.data - parameters.data();
          const std::vector<double> part =
              test::numbers(std::remove_reference_t<decltype(tensor)>::size, direction * 977 + hm::random::hash(name.text()));
          for (std::size_t i = 0; i < part.size(); ++i) along[to_size(first) + i] = part[i];
        },
        hm::Name{}, const_cast<double*>(parameters.data()));
    for (const double a : along) length_of += a * a;
    for (std::size_t i = 0; i < along.size(); ++i) analytic += gradient[i] * (along[i] /= std::sqrt(length_of));
    const auto slope = [&](double step) { return slope_along(parameters, 0, along, step, objective); };
    const double coarse = slope(2e-5), fine = slope(1e-5), allowed = 1e-6 * std::abs(fine) + 1e-8;
    if (std::abs(coarse - fine) > allowed) {  // a choice flips between the points
      ++flipped;
      continue;
    }
    INFO("backward " << analytic << ", differences " << fine << " and " << coarse);
    CHECK(std::abs(analytic - fine) <= allowed);
    ++agreed;
  }
  INFO(flipped << " flipped");
  CHECK(agreed >= 4);
}

TEST_CASE("what computing was worth teaches the complexity and nothing else") {
  const std::vector<double> parameters = test::lively_hybrid<double>(4);
  test::TrainingRun<Small, double> run({50, 50}, 7);
  for (auto* const ids : {&run.tokens, &run.targets}) std::copy_n(ids->begin(), 50, ids->begin() + 50);
  std::vector<Index> full(50), low(50);
  for (Index i = 0; i < 50; ++i) {
    full[to_size(i)] = i;
    low[to_size(i)] = 50 + i;
  }
  hm::Twins twins{.span = {0, 50, 50}, .weight = 0, .full = full.data(), .low = low.data(), .gains = 50, .gain_weight = 0};
  run.run(parameters, {.twins = twins});
  const std::vector<double> before = run.gradient;
  twins.gain_weight = 2;
  run.run(parameters, {.twins = twins});
  Index moved = 0;
  Small::visit<double, Flat>(
      [&](const hm::Name& name, const hm::Trait&, auto& tensor) {
        const std::string text = name.text();
        const auto first = to_size(tensor.data - parameters.data()),
                   size = to_size(std::remove_reference_t<decltype(tensor)>::size);
        const bool same = std::equal(before.begin() + static_cast<std::ptrdiff_t>(first),
                                     before.begin() + static_cast<std::ptrdiff_t>(first + size),
                                     run.gradient.begin() + static_cast<std::ptrdiff_t>(first));
        INFO(text);
        CHECK(same == (text != "complexity.weight" && text != "complexity.bias"));
        moved += same ? 0 : 1;
      },
      hm::Name{}, const_cast<double*>(parameters.data()));
  CHECK(moved == 2);
}

TEST_CASE("taken-back tokens leave no trace, and copies go on alike") {
  const auto model = model_of<float, Packed>(test::lively_hybrid<float>(8));
  auto session = hm::generate::Session<std::remove_const_t<decltype(model)>>::create(model, {.sequences = 3});
  REQUIRE(session);
  const hm::generate::Spending spending = GENERATE(hm::generate::Spending{}, hm::generate::Spending{0.55, 0.3});
  for (const Index s : {0, 1, 2}) REQUIRE(session->spend(s, spending));
  std::vector<std::int32_t> tokens = test::random_tokens(150, 40, 9), wrong = test::random_tokens(150, 40, 10);
  Index n = 0;
  const auto pieces = [&] { return 1 + (n++ * 5) % 16; };
  feed_in(*session, 0, tokens, [] { return Index{1}; });
  const std::vector<float> expected(session->logits(0).begin(), session->logits(0).end());
  Index taken = 0;
  for (Index at = 0; at < 150;) {  // feed wrong tokens after every few right ones, and take them back
    const Index right = std::min<Index>(pieces(), 150 - at);
    REQUIRE(session->feed(1, {tokens.data() + at, to_size(right)}));
    at += right;
    const Index count = std::min<Index>(1 + n % 9, 160 - at);
    if (at == 150) break;
    REQUIRE(session->feed(1, {wrong.data() + at % 100, to_size(count)}));
    REQUIRE(session->rewind(1, count));
    taken += count;
  }
  CHECK(taken > 60);
  CHECK(test::same_bits(session->logits(1).data(), expected.data(), Small::vocab));
  // Too much at once is an error that changes nothing.
  CHECK_FALSE(session->rewind(1, 10));
  CHECK_FALSE(session->rewind(1, 151));
  CHECK(session->length(1) == 150);
  // A copy, and a copy through a snapshot into another session.
  session->fork(1, 2);
  auto other = hm::generate::Session<std::remove_const_t<decltype(model)>>::create(model);
  REQUIRE(other);
  REQUIRE(other->restore(0, session->snapshot(1)));
  REQUIRE(other->spend(0, spending));
  for (Index i = 0; i < 5; ++i) {
    for (const Index s : {0, 1, 2}) REQUIRE(session->feed(s, {wrong.data() + i, 1}));
    REQUIRE(other->feed(0, {wrong.data() + i, 1}));
    for (const Index s : {1, 2}) CHECK(test::same_bits(session->logits(s).data(), session->logits(0).data(), Small::vocab));
    CHECK(test::same_bits(other->logits(0).data(), session->logits(0).data(), Small::vocab));
  }
}

TEST_CASE("no token of HybridMoE spends more than its budget, whatever its weights") {
  // Forward FLOPs counted from what was used: the worst case less what was not, an expert, a slice or a key at a time.
  using Account = hm::Account<Small>;
  constexpr double expert = 2.0 * 3 * 24 * 10, slice = 2.0 * (3 * 24 + 3) * 4, key = 4.0 * 2 * 8;  // a slice: 3 of modulation
  Index looked_at = 0, at_the_cap = 0;
  for (std::uint64_t seed = 11; seed < 27; ++seed) {
    std::vector<float> parameters = test::lively_hybrid<float>(seed);
    for (float& p : parameters) p *= std::exp2(static_cast<float>(seed % 4) * 2 - 2);  // ¼ … 16 of the usual spread
    const auto model = model_of<float, Packed>(parameters);
    auto session =
        hm::generate::Session<std::remove_const_t<decltype(model)>>::create(model, {.sequences = 1, .report_use = true});
    REQUIRE(session);
    const std::vector<std::int32_t> tokens = test::random_tokens(150, 40, seed);
    for (Index t = 0; t < 150; ++t) {
      const double beta = static_cast<double>(t * 37 % 65) / 64;
      REQUIRE(session->spend(0, {beta, seed % 3 == 0 ? 1.0 : 0.5}));
      REQUIRE(session->feed(0, {tokens.data() + t, 1}));
      const auto used = session->used(0);
      double flops = Account::capped_flops(Small::context, 1);
      for (Index l = 0; l < Small::layer_count; ++l) {
        const auto use = [&](Index field) { return static_cast<double>(used[to_size(l * hm::Used::fields + field)]); };
        REQUIRE(use(hm::Used::experts) <= static_cast<double>(hm::most_experts(3, beta)));
        REQUIRE(use(hm::Used::slices) <= static_cast<double>(hm::most_slices(4, beta)));
        if (l > 0) REQUIRE(use(hm::Used::window) <= hm::widest_window(10, 24, beta) + 1e-4);
        flops -= (3 - use(hm::Used::experts)) * expert + (4 - std::ceil(use(hm::Used::slices))) * slice;
        // The last layer, A, may look at everything at any budget.
        if (l == 1 || l == 2) flops -= (24 - std::ceil(use(hm::Used::window) - 1e-4)) * key;
        ++looked_at;
      }
      const double cap = Account::capped_flops(Small::context, beta);
      REQUIRE(flops <= cap * (1 + 1e-12));
      at_the_cap += beta < 1 && flops > cap * (1 - 1e-12) ? 1 : 0;
    }
  }
  CHECK(looked_at == 16 * 150 * Small::layer_count);
  INFO(at_the_cap << " tokens at their cap");
  CHECK(at_the_cap > 0);  // so that nothing that depends on the budget is left out of the count
}

TEST_CASE("HybridMoE prefills and decodes without allocating, whatever it may spend") {
  const auto model = model_of<float, Packed>(test::lively_hybrid<float>(17));
  auto session = hm::generate::Session<std::remove_const_t<decltype(model)>>::create(model, {.sequences = 2});
  REQUIRE(session);
  const std::vector<std::int32_t> tokens = test::random_tokens(150, 40, 17);
  const auto before = test::allocations();
  bool fed = true;
  for (std::size_t at = 0; at < 150; at += at < 96 ? 16 : 1) {
    const std::size_t count = std::min<std::size_t>(at < 96 ? 16 : 1, 150 - at);
    for (const Index s : {0, 1}) {
      fed = fed && session->spend(s, {static_cast<double>(at * 37 % 65) / 64, s == 0 ? 1.0 : 0.3});
      fed = fed && session->feed(s, {tokens.data() + at, count});
    }
  }
  const auto after = test::allocations();
  CHECK(fed);
  CHECK(after == before);
}

TEST_CASE("what a neighbour may spend changes no bit of a row") {
  // A budget that allows no expert: alone, experts are not even begun; beside a row that may have some, they are.
  const auto model = model_of<float, Packed>(test::lively_hybrid<float>(15));
  using Session = hm::generate::Session<std::remove_const_t<decltype(model)>>;
  auto alone = Session::create(model, {.sequences = 1, .report_use = true});
  auto beside = Session::create(model, {.sequences = 2, .report_use = true});
  REQUIRE(alone);
  REQUIRE(beside);
  constexpr double closed = 0.16;
  static_assert(hm::most_experts(3, closed) == 0 && hm::most_experts(3, 1.0) == 3);
  REQUIRE(alone->spend(0, {closed, 1}));
  REQUIRE(beside->spend(0, {closed, 1}));
  REQUIRE(beside->spend(1, {1, 1}));
  const std::vector<std::int32_t> tokens = test::random_tokens(90, 40, 15), others = test::random_tokens(90, 40, 16);
  double neighbour = 0;
  for (std::size_t at = 0; at < 90; at += 10) {
    for (std::size_t i = 0; i < 10; ++i) REQUIRE(alone->feed(0, {tokens.data() + at + i, 1}));
    const hm::generate::Piece pieces[] = {{0, {tokens.data() + at, 10}}, {1, {others.data() + at, 10}}};
    REQUIRE(beside->feed(pieces));
    REQUIRE(test::same_bits(alone->logits(0).data(), beside->logits(0).data(), Small::vocab));
    for (Index l = 0; l < Small::layer_count; ++l) {
      REQUIRE(alone->used(0)[to_size(l * hm::Used::fields + hm::Used::experts)] == 0);
      neighbour += static_cast<double>(beside->used(1)[to_size(l * hm::Used::fields + hm::Used::experts)]);
    }
  }
  CHECK(neighbour > 0);
}

TEST_CASE("HybridMoE learns under drawn budgets, and a step repeats to the bit") {
  std::string content;
  for (int i = 0; i < 3000; ++i) content += static_cast<char>("the cat sat on the mat. "[i % 24] % 40);
  const auto text = hm::train::Text::bytes(content);
  REQUIRE(text);
  std::vector<double> losses[2];
  for (auto& run : losses) {
    hm::Model<Small, float> model{hm::Seed{1}};
    hm::train::Options options{.batch = 8, .length = 64, .schedule = {.peak = 5e-3, .warmup = 5, .steps = 40}};
    options.budgets.sampled = true;
    auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, options);
    REQUIRE(trainer);
    for (Index step = 0; step < 40; ++step) {
      const auto report = trainer->step();
      REQUIRE(report);
      run.push_back(report->loss);
    }
    const auto full = trainer->measure(4, {1, 1}), none = trainer->measure(4, {0, 1});
    CHECK(full.loss < 2.5);
    for (Index l = 0; l < Small::layer_count; ++l) CHECK(none.used[to_size(l * hm::Used::fields + hm::Used::experts)] == 0);
  }
  CHECK(losses[0] == losses[1]);
  CHECK(losses[0].back() < losses[0].front() - 1);
}
