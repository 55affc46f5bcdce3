#pragma once
// What tests of the estimator and the controller share.

#include <hybridmoe/check/with_sources.hpp>

namespace test {

/// Syntax of the 40 tokens of check::WithSources, frequent enough that depths reach 15 and 0 and terminators are near and far.
struct FewClasses {
  HYBRIDMOE_FUNCTION static constexpr bool opens(std::int32_t id) { return id % 3 == 1; }
  HYBRIDMOE_FUNCTION static constexpr bool closes(std::int32_t id) { return id % 7 == 2; }
  HYBRIDMOE_FUNCTION static constexpr bool quotes(std::int32_t id) { return id % 5 == 3; }
  HYBRIDMOE_FUNCTION static constexpr bool terminates(std::int32_t id) { return id % 11 == 6; }
};

}  // namespace test
