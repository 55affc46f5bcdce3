#pragma once
/// @file scalar.hpp
/// Number types and the few transcendental functions that kernels use. exp, sigmoid and tanh of float are branch-free
/// polynomials, so that loops over them vectorise; the other functions, and all of double, are the standard library's.

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

using f32 = float;
using f64 = double;

template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double>;

namespace math {

/// condition ? a : b by bit masks. g++ turns a conditional expression between floats into a branch, and then vectorises no loop
/// that contains it; this it vectorises.
HYBRIDMOE_FUNCTION inline float select(bool condition, float a, float b) {
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return std::bit_cast<float>((std::bit_cast<std::int32_t>(a) & mask) | (std::bit_cast<std::int32_t>(b) & ~mask));
}
HYBRIDMOE_FUNCTION inline double select(bool condition, double a, double b) {
  const std::int64_t mask = -static_cast<std::int64_t>(condition);
  return std::bit_cast<double>((std::bit_cast<std::int64_t>(a) & mask) | (std::bit_cast<std::int64_t>(b) & ~mask));
}

/// The nearest in [0, 1], and 0 for NaN: counts are made from it, and an index made from NaN points anywhere.
template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE constexpr T within_unit(T v) {
  return !(v > T(0)) ? T(0) : v > T(1) ? T(1) : v;
}

/// e^x = part·2^n for −87.3 ≤ x ≤ 89, |log part| ≤ ln2/2 (the range reduction of Cephes); `whole` is n as a pattern of bits.
struct PowerOfE {
  float part;
  std::uint32_t whole;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE explicit PowerOfE(float x) {
    const float magic = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer
    const float shifted = x * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    part = p * (r * r) + r + 1.0f;
    whole = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(magic);
  }
};

/// e^x. Float: error under 2 units in the last place; 0 below −87.3.
HYBRIDMOE_FUNCTION inline float exp(float x) {
  const float raised = select(x < -87.3f, -87.3f, x);
  const PowerOfE power(select(raised > 89.0f, 89.0f, raised));  // e^89 overflows in the last product
  // n is split in two powers of two: 2^n itself leaves the float range at n = 128.
  const std::int32_t whole = static_cast<std::int32_t>(power.whole), half = whole >> 1;
  const float first = std::bit_cast<float>((half + 127) << 23);
  const float second = std::bit_cast<float>((whole - half + 127) << 23);
  return power.part * first * select(x < -87.3f, 0.0f, second);
}
HYBRIDMOE_FUNCTION inline double exp(double x) { return std::exp(x); }

/// exp(x), bit for bit, for x ≤ 0 and NaN, in fewer steps: 2^n is a float there.
HYBRIDMOE_FUNCTION inline float exp_nonpositive(float x) {
  const PowerOfE power(x);
  return select(x < -87.3f, 0.0f, power.part * std::bit_cast<float>((power.whole + 127u) << 23));
}
HYBRIDMOE_FUNCTION inline double exp_nonpositive(double x) { return std::exp(x); }

template <Scalar T>
HYBRIDMOE_FUNCTION T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

/// tanh through e^{−2|x|}; absolute error below 1e-7 in float (it is used where 1+tanh is formed).
HYBRIDMOE_FUNCTION inline float tanh(float x) {
  const float a = select(x < 0, -x, x);
  const float e = exp(-2.0f * a);
  const float t = (1.0f - e) / (1.0f + e);
  return select(x < 0, -t, t);
}
HYBRIDMOE_FUNCTION inline double tanh(double x) { return std::tanh(x); }

/// sin x and cos x in double, without branches, so that loops over it vectorise: the nearest multiple of π/2 is taken out in
/// three parts (Cody and Waite), Taylor's series do the rest. Absolute error below 2.5e-16 for |x| up to 1.6e6, where the
/// multiple's products are exact; beyond, that of one rounding of x, 1.2e-16·|x|.
struct SineCosine {
  double sine, cosine;
};
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE SineCosine sine_cosine(double x) {
  const double magic = 6755399441055744.0;  // 1.5·2^52: adding it rounds to an integer
  const double shifted = x * 0.63661977236758134 + magic, n = shifted - magic;
  const double r = ((x - n * 1.5707963267341256) - n * 6.077100506303966e-11) - n * 2.0222662487959506e-21, q = r * r;
  double s = 1.0 / 355687428096000.0, c = 1.0 / 20922789888000.0;  // 1/17!, 1/16!
  s = s * q - 1.0 / 1307674368000.0;
  s = s * q + 1.0 / 6227020800.0;
  s = s * q - 1.0 / 39916800.0;
  s = s * q + 1.0 / 362880.0;
  s = s * q - 1.0 / 5040.0;
  s = s * q + 1.0 / 120.0;
  s = s * q - 1.0 / 6.0;
  s = s * (q * r) + r;
  c = c * q - 1.0 / 87178291200.0;
  c = c * q + 1.0 / 479001600.0;
  c = c * q - 1.0 / 3628800.0;
  c = c * q + 1.0 / 40320.0;
  c = c * q - 1.0 / 720.0;
  c = c * q + 1.0 / 24.0;
  c = c * (q * q) + (1.0 - 0.5 * q);
  // Quarter turns: (s, c), (c, −s), (−s, −c), (−c, s).
  const std::int64_t quarter = std::bit_cast<std::int64_t>(shifted);
  const bool odd = (quarter & 1) != 0;
  const double sine = select(odd, c, s), cosine = select(odd, s, c);
  return {select((quarter & 2) != 0, -sine, sine), select(((quarter + 1) & 2) != 0, -cosine, cosine)};
}

HYBRIDMOE_FUNCTION inline float log(float x) { return ::logf(x); }
HYBRIDMOE_FUNCTION inline double log(double x) { return ::log(x); }
HYBRIDMOE_FUNCTION inline float sqrt(float x) { return ::sqrtf(x); }
HYBRIDMOE_FUNCTION inline double sqrt(double x) { return ::sqrt(x); }
HYBRIDMOE_FUNCTION inline float erf(float x) { return ::erff(x); }
HYBRIDMOE_FUNCTION inline double erf(double x) { return ::erf(x); }

/// a·b + c with one rounding, always: whether the compiler contracts must not change bits.
HYBRIDMOE_FUNCTION inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
HYBRIDMOE_FUNCTION inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

/// True unless x is NaN or infinite; by its bits, so that no compiler flag can fold it away.
inline bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }
inline bool is_finite(double x) { return (std::bit_cast<std::uint64_t>(x) & 0x7ff0000000000000u) != 0x7ff0000000000000u; }

template <Scalar T>
constexpr T lowest = -std::numeric_limits<T>::infinity();

}  // namespace math
}  // namespace hybridmoe
