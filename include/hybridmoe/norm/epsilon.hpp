#pragma once
/// @file epsilon.hpp
/// The small number under the root of a norm, as a type (not every compiler takes a floating template argument).

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::norm {

/// numerator/denominator: Epsilon<1, 100'000> is 1e-5.
template <Index numerator, Index denominator>
struct Epsilon {
  static_assert(numerator >= 0 && denominator > 0);
  template <class T>
  static constexpr T value = static_cast<T>(static_cast<double>(numerator) / static_cast<double>(denominator));
};

}  // namespace hybridmoe::norm
