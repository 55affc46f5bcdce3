// Twins: their losses and gradients against the definitions in double, the walk over their rows, quantiles of gains against
// counting, and the loss that a complexity learns from.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/ops/cross_entropy.hpp>
#include <hybridmoe/ops/gain.hpp>
#include <hybridmoe/ops/twin_cross_entropy.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
namespace ops = hm::ops;
using hm::Index;
using Numbers = std::vector<double>;

namespace {

/// Runs items last to first: what depends on their order shows.
struct Backwards {
  template <class Kernel>
  void each(Index count, const Kernel& kernel) const {
    for (Index i = count - 1; i >= 0; --i) kernel(i);
  }
  static constexpr int concurrency() { return 1; }
};

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

Numbers softmax(const double* z, Index count) {
  Numbers p(z, z + count);
  double sum = 0;
  for (double& v : p) sum += v = std::exp(v);
  for (double& v : p) v /= sum;
  return p;
}

template <class T, Index vocab>
void check_twins(double spread, double tolerance) {
  constexpr Index rows = 7;
  const double scale = 0.25, weight = 0.6;
  const Numbers full = test::numbers(rows * vocab, 1, spread, 2), low = test::numbers(rows * vocab, 2, spread, -1);
  std::vector<std::int32_t> target;
  for (Index r = 0; r < rows; ++r) target.push_back(r == 3 ? -1 : static_cast<std::int32_t>(r * 31 % vocab));
  for (const bool gradient : {false, true}) {
    std::vector<T> a = test::cast<T>(full), b = test::cast<T>(low);
    Numbers full_loss(rows, -1), low_loss(rows, -1), divergence(rows, -1);
    hm::exec::Inline{}.each(rows, ops::TwinCrossEntropy<T, vocab>{
                                      a.data(), b.data(), target.data(), full_loss.data(), low_loss.data(), divergence.data(),
                                      gradient ? static_cast<T>(scale) : T(0), static_cast<T>(weight)});
    if (!gradient) CHECK(a == test::cast<T>(full));
    if (!gradient) CHECK(b == test::cast<T>(low));
    for (Index r = 0; r < rows; ++r) {
      const Numbers p = softmax(full.data() + r * vocab, vocab), q = softmax(low.data() + r * vocab, vocab);
      const Index t = target[at(r)];
      const bool counts = t >= 0;
      double kl = 0;
      for (Index v = 0; v < vocab; ++v) kl += p[at(v)] * std::log(p[at(v)] / q[at(v)]);
      CHECK(std::fabs(full_loss[at(r)] - (counts ? -std::log(p[at(t)]) : 0)) < tolerance);
      CHECK(std::fabs(low_loss[at(r)] - (counts ? -std::log(q[at(t)]) : 0)) < tolerance);
      CHECK(std::fabs(divergence[at(r)] - (counts ? kl : 0)) < tolerance);
      if (!gradient) continue;
      for (Index v = 0; v < vocab; ++v) {
        const double hit = v == t ? 1 : 0;
        const double of_full = counts ? scale * (p[at(v)] - hit) : 0;
        const double of_low = counts ? scale * (q[at(v)] - hit + weight * (q[at(v)] - p[at(v)])) : 0;
        CHECK(std::fabs(static_cast<double>(a[at(r * vocab + v)]) - of_full) < tolerance);
        CHECK(std::fabs(static_cast<double>(b[at(r * vocab + v)]) - of_low) < tolerance);
      }
    }
    // A twin's own loss and, for the full one, its gradient are those of a row without a twin, to the bit.
    std::vector<T> alone = test::cast<T>(full);
    Numbers loss(rows, -1);
    hm::exec::Inline{}.each(
        rows, ops::CrossEntropy<T, vocab>{alone.data(), target.data(), loss.data(), gradient ? static_cast<T>(scale) : T(0)});
    CHECK(loss == full_loss);
    if (gradient) CHECK(alone == a);
  }
}

}  // namespace

TEST_CASE("twins' losses, divergence and gradients agree with their definitions") {
  check_twins<double, 256>(3, 1e-12);
  check_twins<double, 37>(1, 1e-12);
  check_twins<double, 5>(1, 1e-12);
  check_twins<float, 256>(3, 3e-5);
  check_twins<float, 37>(1, 3e-6);
}

TEST_CASE("equal twins do not pull, and logits far apart give a finite divergence") {
  std::vector<float> a = test::cast<float>(test::numbers(64, 5, 4)), b = a;
  const std::int32_t target = 9;
  double losses[3];
  hm::exec::Inline{}.each(1, ops::TwinCrossEntropy<float, 64>{a.data(), b.data(), &target, losses, losses + 1, losses + 2, 1, 8});
  CHECK(losses[0] == losses[1]);
  CHECK(std::fabs(losses[2]) < 1e-6);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::fabs(a[i] - b[i]) < 1e-5f);

  std::vector<float> left(32, 0.0f), right(32, 0.0f);
  left[1] = right[2] = 300;
  hm::exec::Inline{}.each(
      1, ops::TwinCrossEntropy<float, 32>{left.data(), right.data(), &target, losses, losses + 1, losses + 2, 1, 1});
  CHECK(std::fabs(losses[2] - 300) < 1e-3);
  CHECK(left[1] == 1);
  CHECK(right[1] == -1);  // weight·(q − p), with p = 1 and q = 0
  CHECK(right[2] == 2);
}

TEST_CASE("the walk over twins names every row once, and a row together with its twin") {
  struct Case {
    Index rows, most;
    std::vector<ops::TwinSpan> twins;
  };
  for (const Case& c : {Case{50, 16, {}}, Case{50, 16, {{10, 30, 20}}}, Case{50, 16, {{30, 10, 20}}}, Case{40, 2, {{0, 20, 20}}},
                        Case{100, 512, {{5, 60, 10}, {80, 15, 20}}}, Case{64, 7, {{0, 48, 16}, {32, 16, 16}}},
                        Case{2, 2, {{0, 1, 1}}}, Case{10, 4, {{3, 6, 3}}}}) {
    std::vector<int> seen(at(c.rows), 0);
    std::vector<Index> twin_of(at(c.rows), -1), got(at(c.rows), -1);
    for (const ops::TwinSpan& s : c.twins)
      for (Index i = 0; i < s.count; ++i) twin_of[at(s.full + i)] = s.low + i;
    Index last = -1;
    ops::head_pieces(
        c.rows, c.most, c.twins.data(), hm::to_index(c.twins.size()),
        [&](Index row, Index count) {
          CHECK(count > 0);
          CHECK(count <= c.most);
          CHECK(row > last);
          last = row;
          for (Index i = row; i < row + count; ++i) ++seen[at(i)];
        },
        [&](Index full, Index low, Index count) {
          CHECK(count > 0);
          CHECK(2 * count <= c.most);
          for (Index i = 0; i < count; ++i) {
            ++seen[at(full + i)];
            ++seen[at(low + i)];
            got[at(full + i)] = low + i;
          }
        });
    CHECK(seen == std::vector<int>(at(c.rows), 1));
    CHECK(got == twin_of);
  }
}

namespace {

Numbers counted(const Numbers& value) {
  Numbers result;
  for (const double v : value) {
    double sum = 0;
    for (const double w : value) sum += w < v ? 1 : w == v ? 0.5 : 0;
    result.push_back(sum / static_cast<double>(value.size()));
  }
  return result;
}

template <class Space>
Numbers quantiles(const Numbers& value) {
  Numbers result(value.size(), -1);
  const Index count = hm::to_index(value.size());
  std::vector<std::byte> memory(at(ops::Quantiles<Space>::workspace_bytes(count)) + 1, std::byte{0xff});
  ops::Quantiles<Space>::run(Space{}, {memory.data(), memory.data() + memory.size()}, count, value.data(), result.data());
  return result;
}

}  // namespace

TEST_CASE("quantiles are what counting gives, ties averaged, in any order of the items") {
  for (const Index count : {0, 1, 2, 3, 5, 63, 64, 65, 127, 200, 1000}) {
    for (const double step : {0.0, 0.5, 10.0}) {  // steps make ties; the last makes most values equal
      Numbers value = test::numbers(count, static_cast<std::uint64_t>(count) + 3);
      for (double& v : value) v = step > 0 ? std::round(v / step) * step : v;
      INFO(count << " values, steps of " << step);
      CHECK(quantiles<hm::exec::Inline>(value) == counted(value));
      CHECK(quantiles<Backwards>(value) == counted(value));
    }
  }
  CHECK(quantiles<hm::exec::Inline>({4, 4, 4}) == Numbers{0.5, 0.5, 0.5});
  CHECK(quantiles<hm::exec::Inline>({7, -1, 3, 3}) == Numbers{0.875, 0.125, 0.5, 0.5});
  Numbers broken = test::numbers(300, 1);
  broken[17] = broken[200] = std::numeric_limits<double>::quiet_NaN();
  CHECK(quantiles<hm::exec::Inline>(broken).size() == 300);  // whatever it holds, no memory was harmed
}

TEST_CASE("the loss of gains and its gradient") {
  using Gain = ops::GainLoss<Backwards, float>;
  constexpr Index count = 90, rows = 240;
  constexpr Index first_low = 115;  // a twin row that is not among the gains comes first
  const Numbers divergence = test::numbers(rows - first_low, 4);
  const std::vector<float> c = test::cast<float>(test::numbers(rows, 5, 0.2, 0.5));
  std::vector<Index> full, low;
  for (Index i = 0; i < count; ++i) {
    full.push_back(10 + i);
    low.push_back(120 + i);
  }
  Numbers gain, quantile(count, -1);
  for (Index i = 0; i < count; ++i) gain.push_back(divergence[at(120 - first_low + i)]);
  std::vector<std::byte> memory(at(Gain::workspace_bytes(count)));
  hm::Arena arena{memory.data(), memory.data() + memory.size()};
  double value = -1;
  Gain::forward({}, arena, count, full.data(), low.data(), first_low, divergence.data(), c.data(), quantile.data(), &value);
  CHECK(quantile == counted(gain));
  Numbers expected;
  for (const double q : counted(gain)) expected.push_back(q * q);
  double mean = 0;
  for (Index i = 0; i < count; ++i) mean += std::pow(static_cast<double>(c[at(10 + i)]) - expected[at(i)], 2) / count;
  CHECK(std::fabs(value - mean) < 1e-12);
  std::vector<float> d(rows, 1.0f);
  Gain::backward({}, count, full.data(), c.data(), quantile.data(), 0.01, d.data());
  for (Index r = 0; r < rows; ++r) {
    const bool own = r >= 10 && r < 10 + count;
    const double slope = own ? 0.01 * 2 / count * (static_cast<double>(c[at(r)]) - expected[at(r - 10)]) : 0;
    CHECK(std::fabs(static_cast<double>(d[at(r)]) - 1 - slope) < 2e-7);
  }
  Gain::forward({}, arena, 0, nullptr, nullptr, first_low, divergence.data(), c.data(), quantile.data(), &value);
  CHECK(value == 0);
}
