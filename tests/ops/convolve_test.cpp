// The causal convolution and its gradients against the definition, with and without bias, SiLU and state.

#include <cstring>
#include <limits>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/ops/convolve.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
using hm::Index;
using Numbers = std::vector<double>;

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class T, int channels, int taps, bool silu>
struct Fixture {
  static constexpr Index stride = channels + 3;  // rows are part of a wider product
  std::vector<Index> lengths;
  Index rows = 0;
  std::vector<T> in, weight, bias, dy;

  explicit Fixture(std::vector<Index> n) : lengths(std::move(n)) {
    for (const Index length : lengths) rows += length;
    in = test::cast<T>(test::numbers(rows * stride, 1));
    weight = test::cast<T>(test::numbers(channels * taps, 2));
    bias = test::cast<T>(test::numbers(channels, 3));
    dy = test::cast<T>(test::numbers(rows * channels, 4));
  }

  Numbers expected(bool with_bias) const {
    Numbers y(at(rows * channels), 0.0);
    Index first = 0;
    for (const Index length : lengths) {
      for (Index t = 0; t < length; ++t) {
        for (Index c = 0; c < channels; ++c) {
          double u = with_bias ? static_cast<double>(bias[at(c)]) : 0.0;
          for (Index back = 0; back < taps && back <= t; ++back) {
            u += static_cast<double>(weight[at(c * taps + taps - 1 - back)]) *
                 static_cast<double>(in[at((first + t - back) * stride + c)]);
          }
          y[at((first + t) * channels + c)] = silu ? u / (1 + std::exp(-u)) : u;
        }
      }
      first += length;
    }
    return y;
  }
  hm::ops::ConvolveInput<T> input(bool with_bias) const {
    return {in.data(), stride, weight.data(), with_bias ? bias.data() : nullptr};
  }
};

template <class T>
double distance(const std::vector<T>& got, const Numbers& expected) {
  double most = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(d <= most)) most = d;
  }
  return most;
}

template <class T, int channels, int taps, bool silu, int history = taps - 1>
void forward(double tolerance) {
  using Op = hm::ops::Convolve<hm::exec::Inline, T, channels, taps, silu, history>;
  const Fixture<T, channels, taps, silu> f({5, 1, 12});
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (const bool with_bias : {true, false}) {
    const Numbers expected = f.expected(with_bias);
    hm::BatchPlan plan;
    for (const Index n : f.lengths) plan.add(0, 0, n);
    const Index* const base = plan.data();
    std::vector<T> whole(expected.size(), nan);
    Op::forward({}, plan.view(base), f.input(with_bias), nullptr, 0, whole.data());
    CHECK(distance(whole, expected) < tolerance);

    // The same sequences in pieces of three, two and one rows, side by side, over rings of NaN.
    std::vector<T> rings(at(3 * history * channels), nan);
    Index done[3] = {0, 0, 0};
    const Index first[3] = {0, 5, 6};
    for (Index round = 0; done[2] < 12; ++round) {
      plan.clear();
      std::vector<T> some;
      std::vector<Index> source;
      for (Index s = 0; s < 3; ++s) {
        const Index count = std::min(3 - (round + s) % 3, f.lengths[at(s)] - done[s]);
        if (count <= 0) continue;
        plan.add(2 - s, done[s], count);
        for (Index i = 0; i < count; ++i, ++done[s]) {
          source.push_back(first[s] + done[s]);
          some.insert(some.end(), f.in.begin() + source.back() * f.stride, f.in.begin() + (source.back() + 1) * f.stride);
        }
      }
      const Index* const arrays = plan.data();
      std::vector<T> out(source.size() * channels, nan);
      auto input = f.input(with_bias);
      input.in = some.data();
      Op::forward({}, plan.view(arrays), input, reinterpret_cast<std::byte*>(rings.data()), Index{history * channels * sizeof(T)},
                  out.data());
      for (std::size_t i = 0; i < source.size(); ++i) {
        REQUIRE(std::memcmp(out.data() + i * channels, whole.data() + at(source[i]) * channels, channels * sizeof(T)) == 0);
      }
    }
  }
}

template <int channels, int taps, bool silu>
void backward() {
  using Op = hm::ops::Convolve<hm::exec::Inline, double, channels, taps, silu>;
  Fixture<double, channels, taps, silu> f({5, 1, 12});
  hm::BatchPlan plan;
  for (const Index n : f.lengths) plan.add(0, 0, n);
  const Index* const base = plan.data();
  const hm::Batch batch = plan.view(base);
  std::vector<double> slope = f.dy, d_in(f.in.size(), -7.0), d_weight(f.weight.size(), 1.0), d_bias(f.bias.size(), 2.0);
  std::vector<double> memory(at(Op::workspace_bytes(batch.sequences) / 8 + 8), std::numeric_limits<double>::quiet_NaN());
  std::byte* const begin = reinterpret_cast<std::byte*>(memory.data());
  Op::backward({}, {begin, begin + memory.size() * 8}, batch, f.input(true), slope.data(), d_in.data(), f.stride, d_weight.data(),
               d_bias.data());
  const auto slope_of = [&](double& place) {
    const double kept = place, h = 1e-5;
    double sum = 0;
    for (const double side : {1.0, -1.0}) {
      place = kept + side * h;
      const Numbers y = f.expected(true);
      for (std::size_t i = 0; i < y.size(); ++i) sum += side * y[i] * f.dy[i] / (2 * h);
    }
    place = kept;
    return sum;
  };
  for (Index r = 0; r < f.rows; ++r) {
    for (Index c = 0; c < channels; c += channels > 20 ? 29 : 1)
      CHECK(std::abs(d_in[at(r * f.stride + c)] - slope_of(f.in[at(r * f.stride + c)])) < 1e-7);
    for (Index c = channels; c < f.stride; ++c) CHECK(d_in[at(r * f.stride + c)] == -7.0);
  }
  for (std::size_t i = 0; i < d_weight.size(); i += channels > 20 ? 11 : 1)
    CHECK(std::abs(d_weight[i] - 1 - slope_of(f.weight[i])) < 1e-7);
  for (std::size_t i = 0; i < d_bias.size(); i += channels > 20 ? 7 : 1)
    CHECK(std::abs(d_bias[i] - 2 - slope_of(f.bias[i])) < 1e-7);
}

}  // namespace

TEST_CASE("the causal convolution equals its definition, whole and in pieces") {
  forward<double, 5, 4, true>(1e-13);
  forward<double, 130, 3, false>(1e-13);
  forward<float, 256, 4, true>(5e-6);
  forward<float, 7, 2, true>(5e-6);
  forward<float, 7, 4, false, 6>(5e-6);  // a longer ring
}

TEST_CASE("the causal convolution's gradients equal differences of the definition") {
  backward<5, 4, true>();
  backward<5, 2, false>();
  backward<130, 3, true>();
}
