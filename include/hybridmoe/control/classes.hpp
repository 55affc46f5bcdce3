#pragma once
/// @file classes.hpp
/// What a vocabulary's tokens mean to the complexity estimator's syntax: a type with four functions of the token id,
/// `opens`, `closes`, `quotes` (opens where no quotation is open, else closes) and `terminates`.

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::control {

/// Bytes: brackets of three kinds, the double quotation mark; a line's or a sentence's end.
struct ByteClasses {
  HYBRIDMOE_FUNCTION static constexpr bool opens(std::int32_t id) { return id == '(' || id == '[' || id == '{'; }
  HYBRIDMOE_FUNCTION static constexpr bool closes(std::int32_t id) { return id == ')' || id == ']' || id == '}'; }
  HYBRIDMOE_FUNCTION static constexpr bool quotes(std::int32_t id) { return id == '"'; }
  HYBRIDMOE_FUNCTION static constexpr bool terminates(std::int32_t id) {
    return id == '.' || id == '!' || id == '?' || id == '\n';
  }
};

/// A vocabulary without syntax.
struct NoClasses {
  HYBRIDMOE_FUNCTION static constexpr bool opens(std::int32_t) { return false; }
  HYBRIDMOE_FUNCTION static constexpr bool closes(std::int32_t) { return false; }
  HYBRIDMOE_FUNCTION static constexpr bool quotes(std::int32_t) { return false; }
  HYBRIDMOE_FUNCTION static constexpr bool terminates(std::int32_t) { return false; }
};

}  // namespace hybridmoe::control
