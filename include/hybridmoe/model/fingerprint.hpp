#pragma once
/// @file fingerprint.hpp
/// Two programs' units may each define a `struct Tiny : LanguageModel<…>` of their own. Both are called Tiny, so the linker would
/// merge functions made for different sizes. A number made of the whole description is part of every implementation type.

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

}  // namespace hybridmoe
