#pragma once
/// @file options.hpp
/// Options of a layer as types in any order: each derives from a tag, and the layer picks by tag.

#include <type_traits>

#include <hybridmoe/core/config.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

template <class Tag, class Default, class... Options>
struct PickOption {
  using type = Default;
};
template <class Tag, class Default, class First, class... Rest>
struct PickOption<Tag, Default, First, Rest...> {
  using type = typename std::conditional_t<std::is_base_of_v<Tag, First>, std::type_identity<First>,
                                           PickOption<Tag, Default, Rest...>>::type;
};

/// The first of Options derived from Tag, else Default.
template <class Tag, class Default, class... Options>
using Option = typename PickOption<Tag, Default, Options...>::type;

/// Whether Option derives from one of Tags; a layer asserts it of each of its options.
template <class Option, class... Tags>
constexpr bool has_a_tag = (std::is_base_of_v<Tags, Option> || ...);

}  // namespace hybridmoe
