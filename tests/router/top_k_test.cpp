// The choice of experts, its auxiliary losses and their gradients, against sorting and differences of plain double loops.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/router/top_k.hpp>
#include <router/routers.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
using Catch::Matchers::WithinAbs;
using hm::Index;
using hm::to_size;

namespace {

std::vector<Index> best(const std::vector<double>& score, Index k) {
  std::vector<Index> order(score.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return score[to_size(a)] > score[to_size(b)]; });
  order.resize(to_size(k));
  std::sort(order.begin(), order.end());
  return order;
}

template <hm::router::TopKOptions options, Index count, Index k, Index width>
struct Case {
  using Env = hm::Environment<width, 64>;
  using Layer = typename hm::router::TopK<options>::template Layer<Env, count, k, k>;
  static_assert(hm::router::Router<Layer> && Layer::causal);
  static_assert(Layer::active_parameters() == hm::Spread::always(count * width));

  struct Naive {
    std::vector<Index> expert;
    std::vector<double> weight, load = std::vector<double>(to_size(count), 0.0);
    double value = 0;
  };
  /// Softmax over all; weights of the k best divided by their sum, or not; the two losses from their definitions.
  static Naive naive(Index rows, const std::vector<double>& x, const std::vector<double>& w) {
    Naive r;
    std::vector<double> mean(to_size(count), 0.0);
    double square = 0;
    for (Index row = 0; row < rows; ++row) {
      std::vector<double> score(to_size(count), 0.0), p(to_size(count));
      for (Index e = 0; e < count; ++e)
        for (Index c = 0; c < width; ++c) score[to_size(e)] += x[to_size(row * width + c)] * w[to_size(e * width + c)];
      double all = 0, chosen = 0;
      for (Index e = 0; e < count; ++e) all += std::exp(score[to_size(e)]);
      for (Index e = 0; e < count; ++e) p[to_size(e)] = std::exp(score[to_size(e)]) / all;
      const auto list = best(score, k);
      for (const Index e : list) chosen += p[to_size(e)];
      for (const Index e : list) {
        r.expert.push_back(e);
        r.weight.push_back(options.renormalise ? p[to_size(e)] / chosen : p[to_size(e)]);
        r.load[to_size(e)] += 1.0 / static_cast<double>(rows);
      }
      for (Index e = 0; e < count; ++e) mean[to_size(e)] += p[to_size(e)] / static_cast<double>(rows);
      square += std::log(all) * std::log(all) / static_cast<double>(rows);
    }
    double product = 0;
    for (Index e = 0; e < count; ++e) product += r.load[to_size(e)] * mean[to_size(e)];
    r.value =
        static_cast<double>(options.balance) * static_cast<double>(count) * product + static_cast<double>(options.z) * square;
    return r;
  }

  template <class T, class Space>
  static void check(Index rows, std::uint64_t seed, double tolerance) {
    INFO("rows " << rows << " of " << count << " take " << k);
    const auto x = test::numbers(rows * width, seed), w = test::numbers(count * width, seed + 1, 0.7);
    const auto dweight = test::numbers(rows * k, seed + 2);
    const double auxiliary = 0.6;
    const Naive expected = naive(rows, x, w);

    const hm::Extent extent{rows, 1, true};
    using Tape = typename Layer::template Tape<T>;
    const Index bytes = hm::planned_bytes<hm::router::Choice<T, k>>(rows) + hm::planned_bytes<Tape>(extent) +
                        Layer::template workspace_bytes<T, hm::Flat>(extent);
    std::vector<std::byte> memory(to_size(bytes), std::byte{0xff});  // NaN, and experts that do not exist
    hm::Call<Space> call;
    call.batch.rows = rows;
    call.training = true;
    call.auxiliary = auxiliary;
    call.arena = {memory.data(), memory.data() + memory.size()};
    const hm::router::Choice<T, k> choice(call.arena, rows);
    const Tape tape(call.arena, extent);
    const auto xt = test::cast<T>(x), wt = test::cast<T>(w), dweight_t = test::cast<T>(dweight);
    typename Layer::template Parameters<T, hm::Flat> p{}, gradient{};
    std::copy(wt.begin(), wt.end(), p.weight.data);
    Layer::forward(call, p, hm::Rows<const T, width>{xt.data()}, choice, tape);
    for (Index i = 0; i < rows * k; ++i) {
      REQUIRE(choice.expert[i] == expected.expert[to_size(i)]);
      REQUIRE_THAT(static_cast<double>(choice.weight[i]), WithinAbs(expected.weight[to_size(i)], tolerance));
    }
    const hm::router::Losses<T> losses = Layer::losses(tape);
    REQUIRE_THAT(static_cast<double>(*losses.value), WithinAbs(expected.value, 10 * tolerance));
    for (Index e = 0; e < count; ++e)
      REQUIRE_THAT(static_cast<double>(losses.load[e]), WithinAbs(expected.load[to_size(e)], tolerance));

    // A call that keeps no tape gives the same bits, also row by row.
    std::vector<std::byte> small(to_size(hm::planned_bytes<hm::router::Choice<T, k>>(1) +
                                         Layer::template workspace_bytes<T, hm::Flat>(hm::Extent{1, 1, false})));
    for (Index row = 0; row < rows; ++row) {
      hm::Call<Space> one;
      one.batch.rows = 1;
      one.arena = {small.data(), small.data() + small.size()};
      const hm::router::Choice<T, k> alone(one.arena, 1);
      const Tape none(one.arena, hm::Extent{1, 1, false});
      Layer::forward(one, p, hm::Rows<const T, width>{xt.data() + row * width}, alone, none);
      for (Index i = 0; i < k; ++i) {
        REQUIRE(alone.expert[i] == choice.expert[row * k + i]);
        REQUIRE(alone.weight[i] == choice.weight[row * k + i]);
      }
    }

    if constexpr (std::is_same_v<T, double>) {
      std::vector<T> dx(xt.size(), 3.0);
      for (Index i = 0; i < count * width; ++i) gradient.weight[i] = 5.0;
      Layer::backward(call, p, hm::Rows<const T, width>{xt.data()}, tape, choice, dweight_t.data(), hm::Rows<T, width>{dx.data()},
                      gradient);
      const auto loss = [&](const Naive& r) {
        return std::inner_product(dweight.begin(), dweight.end(), r.weight.begin(), auxiliary * r.value);
      };
      int tested = 0;
      const auto compare = [&](std::vector<double> moved, std::size_t at, bool is_x, double got) {
        const double h = 1e-6, middle = moved[at];
        moved[at] = middle + h;
        const Naive up = is_x ? naive(rows, moved, w) : naive(rows, x, moved);
        moved[at] = middle - h;
        const Naive down = is_x ? naive(rows, moved, w) : naive(rows, x, moved);
        if (up.expert != expected.expert || down.expert != expected.expert) return;  // the choice flips: no derivative
        REQUIRE_THAT(got, WithinAbs((loss(up) - loss(down)) / (2 * h), 1e-8));
        ++tested;
      };
      for (std::size_t i = 0; i < x.size(); ++i) compare(x, i, true, dx[i] - 3.0);
      for (std::size_t i = 0; i < w.size(); ++i) compare(w, i, false, gradient.weight[hm::to_index(i)] - 5.0);
      REQUIRE(tested > hm::to_index(x.size() + w.size()) * 9 / 10);
    }
  }
  static void check_all(std::uint64_t seed) {
    check<double, hm::exec::Inline>(17, seed, 1e-12);
    check<double, test::Backwards>(70, seed + 10, 1e-12);
    check<double, hm::exec::Inline>(1, seed + 20, 1e-12);
    check<float, hm::exec::Inline>(70, seed + 30, 1e-6);
  }
};

}  // namespace

TEST_CASE("The k highest, equal scores to the lower number, against sorting") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    auto score = test::numbers(12, seed, 2);
    for (double& value : score) value = std::round(value);  // many ties
    for (Index k = 0; k <= 12; ++k) {
      std::vector<Index> chosen(to_size(k) + 1, -5);
      hm::ops::top_k<12>(score.data(), 12, k, chosen.data());
      const auto expected = best(score, k);
      REQUIRE(std::equal(expected.begin(), expected.end(), chosen.begin()));
      REQUIRE(chosen.back() == -5);
    }
  }
}

TEST_CASE("Scores that are not numbers still choose k different experts") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int mask = 0; mask < 64; ++mask) {
    double score[6];
    for (int e = 0; e < 6; ++e) score[e] = (mask >> e & 1) != 0 ? nan : 0.1 * e;
    Index chosen[3];
    hm::ops::top_k<3>(score, 6, 3, chosen);
    REQUIRE((0 <= chosen[0] && chosen[0] < chosen[1] && chosen[1] < chosen[2] && chosen[2] < 6));
  }
}

TEST_CASE("Top-k routing, losses and gradients equal plain loops and their differences") {
  using hm::router::TopKOptions;
  Case<TopKOptions{.renormalise = true, .balance = 0.3f, .z = 0.2f}, 5, 2, 7>::check_all(1);
  Case<TopKOptions{.renormalise = false, .balance = 0.3f, .z = 0.2f}, 5, 3, 7>::check_all(2);
  Case<TopKOptions{.renormalise = false, .balance = 0.1f, .z = 0.0f}, 4, 1, 6>::check_all(3);
  Case<TopKOptions{.renormalise = true, .balance = 0.0f, .z = 0.5f}, 3, 3, 5>::check_all(4);
  Case<TopKOptions{.renormalise = false, .balance = 0.2f, .z = 0.1f}, 40, 8, 9>::check_all(5);
}

TEST_CASE("Equal scores go to the lower experts, and perfect balance gives the coefficient times k") {
  using Layer = hm::router::TopK<hm::router::TopKOptions{.balance = 0.25f}>::Layer<hm::Environment<4, 64>, 6, 3, 3>;
  constexpr Index rows = 5;
  const hm::Extent extent{rows, 1, true};
  std::vector<std::byte> memory(1 << 16, std::byte{0xff});
  hm::Call<hm::exec::Inline> call;
  call.batch.rows = rows;
  call.training = true;
  call.arena = {memory.data(), memory.data() + memory.size()};
  const hm::router::Choice<double, 3> choice(call.arena, rows);
  const Layer::Tape<double> tape(call.arena, extent);
  const Layer::Parameters<double, hm::Flat> p{};  // all scores zero
  const auto x = test::numbers(rows * 4, 1);
  Layer::forward(call, p, hm::Rows<const double, 4>{x.data()}, choice, tape);
  for (Index i = 0; i < rows * 3; ++i) {
    CHECK(choice.expert[i] == i % 3);
    CHECK_THAT(choice.weight[i], WithinAbs(1.0 / 3, 1e-15));
  }
  CHECK_THAT(*Layer::losses(tape).value, WithinAbs(0.25 * 3, 1e-12));
}

TEST_CASE("Great scores neither overflow nor lose their order") {
  using Layer = hm::router::TopK<>::Layer<hm::Environment<1, 64>, 4, 2, 2>;
  Layer::Parameters<float, hm::Flat> p{};
  const float weight[4] = {1e4f, -1e4f, 1e4f, 9.999e3f};
  std::copy(weight, weight + 4, p.weight.data);
  std::vector<std::byte> memory(1 << 12);
  hm::Call<hm::exec::Inline> call;
  call.batch.rows = 1;
  call.arena = {memory.data(), memory.data() + memory.size()};
  const hm::router::Choice<float, 2> choice(call.arena, 1);
  const Layer::Tape<float> tape(call.arena, hm::Extent{1, 1, false});
  const float x = 1;
  Layer::forward(call, p, hm::Rows<const float, 1>{&x}, choice, tape);
  CHECK((choice.expert[0] == 0 && choice.expert[1] == 2));
  CHECK((choice.weight[0] == 0.5f && choice.weight[1] == 0.5f));
}
