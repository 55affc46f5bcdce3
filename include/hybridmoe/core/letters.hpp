#pragma once
/// @file letters.hpp
/// Strings as template arguments, and their letters as types. Kernels never see the string: some compilers reject one inside a
/// kernel's type.

#include <string_view>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// A string literal as a template argument.
template <std::size_t n>
struct FixedString {
  char text[n]{};
  static constexpr Index size = static_cast<Index>(n) - 1;
  consteval FixedString(const char (&literal)[n]) {
    for (std::size_t i = 0; i < n; ++i) text[i] = literal[i];
  }
  constexpr char operator[](Index i) const { return text[i]; }
  constexpr std::string_view view() const { return {text, n - 1}; }
};

/// A letter as a type, so that a compiler's message shows it as a letter.
template <char c>
struct letter {
  static constexpr char value = c;
};

}  // namespace hybridmoe
