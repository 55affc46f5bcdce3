// Activation functions in float and double against their definitions on a grid, their slopes against differences, and NaN.

#include <cmath>
#include <limits>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/ops/activation.hpp>

namespace hm = hybridmoe;
namespace activation = hm::ops::activation;

namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x))); }
double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double squared_relu(double x) { return x > 0 ? x * x : 0; }

template <class F, class T>
void check(double (*f)(double), double tolerance) {
  for (int i = -4000; i <= 4000; ++i) {
    const T x = static_cast<T>(i) / T(400);
    const double at = static_cast<double>(x), step = 1e-5;
    const double slope = (f(at + step) - f(at - step)) / (2 * step);
    const hm::ops::ValueAndSlope<T> both = F::both(x);
    INFO("x = " << at);
    REQUIRE(std::fabs(static_cast<double>(F::value(x)) - f(at)) <= tolerance * (1 + std::fabs(f(at))));
    REQUIRE(std::fabs(static_cast<double>(both.value) - f(at)) <= tolerance * (1 + std::fabs(f(at))));
    if (i == 0) continue;  // relu(x)² has no second derivative there, so that a difference is off by half a step
    REQUIRE(std::fabs(static_cast<double>(both.slope) - slope) <= (tolerance + 1e-9) * (1 + std::fabs(slope)) + 1e-8);
  }
  const T nan = std::numeric_limits<T>::quiet_NaN();
  CHECK(std::isnan(F::value(nan)));
  CHECK(std::isnan(F::both(nan).value));
  CHECK(std::isnan(F::both(nan).slope));
  for (const T far : {T(-1e4), T(1e4)}) {
    CHECK(std::fabs(static_cast<double>(F::value(far)) - f(static_cast<double>(far))) <= tolerance * 1e8);
    CHECK(hm::math::is_finite(F::both(far).slope));
  }
}

template <class T>
void check_all(double tolerance) {
  check<activation::Silu, T>(silu, tolerance);
  check<activation::GeluTanh, T>(gelu_tanh, tolerance);
  check<activation::GeluErf, T>(gelu_erf, tolerance);
  check<activation::SquaredRelu, T>(squared_relu, tolerance);
}

}  // namespace

TEST_CASE("activations agree with their definitions, and NaN stays NaN") {
  check_all<double>(1e-14);
  check_all<float>(1e-6);
}
