#pragma once
/// @file fingerprint.hpp
/// Two programs' units may each define a `struct Tiny : LanguageModel<…>` of their own. Both are called Tiny, so the linker would
/// merge functions made for different sizes. A number made of the whole description is part of every implementation type.

#include <string>

#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/tensor.hpp>

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
  const std::string_view known = type_text<Flat>();
  const std::size_t end = known.find("::Flat"), begin = known.rfind("hybridmoe::", end) + 11;
  std::string text(type_text<typename Description::Description>());
  if (begin >= end) return text;
  const std::string inner(known.substr(begin, end + 2 - begin));
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
