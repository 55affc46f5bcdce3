// The float functions of math:: against the standard library's in double, their ends, NaN and infinity.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/core/scalar.hpp>

namespace math = hybridmoe::math;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity(), undefined = std::numeric_limits<float>::quiet_NaN();

/// |got − expected| in units of the last place of a float as large as `expected`.
double units(float got, double expected) {
  const float near = static_cast<float>(expected);
  return std::fabs(static_cast<double>(got) - expected) / static_cast<double>(std::nextafter(near, infinity) - near);
}

}  // namespace

TEST_CASE("exp in float is within two units in the last place, and right at its ends") {
  double worst = 0;
  for (int i = -872'999; i <= 887'000; ++i) {
    const float x = static_cast<float>(i) * 1e-4f;
    worst = std::fmax(worst, units(math::exp(x), std::exp(static_cast<double>(x))));
  }
  CHECK(worst < 2);
  CHECK(math::exp(0.0f) == 1);
  CHECK(math::exp(-0.0f) == 1);
  CHECK(math::exp(-87.31f) == 0);
  CHECK(math::exp(-1e30f) == 0);
  CHECK(math::exp(-infinity) == 0);
  CHECK(math::exp(88.9f) == infinity);
  CHECK(math::exp(1e30f) == infinity);
  CHECK(math::exp(infinity) == infinity);
  CHECK(std::isnan(math::exp(undefined)));
  CHECK(std::isnan(math::exp(-undefined)));
}

TEST_CASE("exp of what is not positive is exp, bit for bit") {
  const auto same = [](float x) {
    return std::bit_cast<std::uint32_t>(math::exp_nonpositive(x)) == std::bit_cast<std::uint32_t>(math::exp(x));
  };
  int differences = 0;
  for (int i = -1'000'000; i <= 0; ++i) differences += same(static_cast<float>(i) * 1e-4f) ? 0 : 1;
  for (float x = -1e-30f; x > -1e30f; x *= 1.01f) differences += same(x) ? 0 : 1;
  CHECK(differences == 0);
  CHECK(same(-0.0f));
  CHECK(same(-std::numeric_limits<float>::denorm_min()));
  CHECK(same(-87.3f));
  CHECK(same(std::numeric_limits<float>::lowest()));
  CHECK(math::exp_nonpositive(-infinity) == 0);
  CHECK(std::isnan(math::exp_nonpositive(undefined)));
  CHECK(std::isnan(math::exp_nonpositive(-undefined)));
}

TEST_CASE("sine and cosine in double, in all quarter turns") {
  double worst = 0;
  const auto look = [&](double x) {
    const math::SineCosine got = math::sine_cosine(x);
    for (const double off : {std::fabs(got.sine - std::sin(x)), std::fabs(got.cosine - std::cos(x))})
      worst = off <= worst ? worst : off;
  };
  for (int i = -200'000; i <= 200'000; ++i) look(static_cast<double>(i) * 1e-4);
  for (int i = 0; i < 200'000; ++i) look(static_cast<double>(i) * 7.9);
  for (int i = 1; i < 1000; ++i)
    for (const double near : {-1e-9, 0.0, 1e-9}) look(i * 0.78539816339744831 + near);  // where quarters change
  CHECK(worst < 2.5e-16);
  worst = 0;
  for (int i = 0; i < 1000; ++i) look(1e9 + i);
  CHECK(worst < 1.2e-7);
  CHECK(math::sine_cosine(0).sine == 0);
  CHECK(math::sine_cosine(0).cosine == 1);
}

TEST_CASE("tanh and sigmoid in float") {
  for (int i = -200'000; i <= 200'000; ++i) {
    const float x = static_cast<float>(i) * 1e-4f;
    const double exact = static_cast<double>(x);
    REQUIRE(std::fabs(static_cast<double>(math::tanh(x)) - std::tanh(exact)) < 1e-7);
    REQUIRE(std::fabs(static_cast<double>(math::sigmoid(x)) - 1 / (1 + std::exp(-exact))) < 1.5e-7);
  }
  CHECK(math::tanh(infinity) == 1);
  CHECK(math::tanh(-infinity) == -1);
  CHECK(math::sigmoid(infinity) == 1);
  CHECK(math::sigmoid(-infinity) == 0);
  CHECK(std::isnan(math::tanh(undefined)));
  CHECK(std::isnan(math::sigmoid(undefined)));
}

TEST_CASE("select takes one of two numbers and is_finite knows all kinds") {
  CHECK(math::select(true, 1.5f, undefined) == 1.5f);
  CHECK(std::isnan(math::select(false, 1.5f, undefined)));
  CHECK(math::select(true, -0.25, 3.0) == -0.25);
  CHECK(math::select(false, -0.25, 3.0) == 3.0);
  for (const double x : {0.0, -1.0, 1e-320, 1.7e308}) CHECK(math::is_finite(x));
  for (const float x : {0.0f, -1.0f, 1e-42f, 3.4e38f}) CHECK(math::is_finite(x));
  for (const float x : {infinity, -infinity, undefined}) {
    CHECK(!math::is_finite(x));
    CHECK(!math::is_finite(static_cast<double>(x)));
  }
}
