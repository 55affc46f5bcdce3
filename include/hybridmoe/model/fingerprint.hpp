#pragma once
/// @file fingerprint.hpp
/// Two programs' units may each define a `struct Tiny : LanguageModel<…>` of their own. Both are called Tiny, so the linker would
/// merge functions made for different sizes. A number made of the whole description is part of every implementation type.

#include <string>

#include <hybridmoe/core/random.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// The compiler's spelling of a type.
template <class Type>
constexpr std::string_view type_text() {
#if defined(__GNUC__) || defined(__clang__)
  return __PRETTY_FUNCTION__;
#else
  return __FUNCSIG__;
#endif
}

/// Differs for different descriptions, within one compiler.
template <class Description>
constexpr std::uint64_t fingerprint() {
  return random::hash(type_text<typename Description::Description>());
}

/// The description as this compiler spells it, without the inline namespace: the same for every instruction set and mode.
template <class Description>
std::string description_text() {
  std::string text(type_text<typename Description::Description>());
  // The text begins with this function's own name, and so shows how the compiler spells the namespace.
  const std::string_view outer = "hybridmoe::", function = "type_text";
  const std::size_t begin = text.find(outer), end = text.find(function);
  if (begin == std::string::npos || end == std::string::npos || begin + outer.size() >= end) return text;
  const std::string inner = text.substr(begin + outer.size(), end - begin - outer.size());
  for (std::size_t at = text.find(inner); at != std::string::npos; at = text.find(inner, at)) text.erase(at, inner.size());
  return text;
}

/// The compiler by which description_text() may be compared.
inline std::string compiler_text() {
#if defined(__CUDACC__)
  return "nvcc with " __VERSION__;
#elif defined(__clang__)
  return "clang " __VERSION__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "another compiler";
#endif
}

}  // namespace hybridmoe
