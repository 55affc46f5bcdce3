#pragma once
/// @file pattern.hpp
/// Which block stands in which layer, as a string of letters: "GLLS" repeated, cut at a number of layers, or written out whole.

#include <hybridmoe/core/letters.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// How many layers a pattern spans: Pattern<"GLLLLML", layers<72>> repeats the period and cuts the last repeat.
template <Index count_>
struct layers {
  static_assert(count_ > 0, "layers<n> needs at least one layer");
  static constexpr Index count = count_;
};

/// The layer pattern. Without layers<n> the string is the whole model.
template <FixedString period, class Layers = layers<period.size>>
struct Pattern {
  static constexpr Index count = Layers::count;
  static constexpr Index period_size = period.size;
  static constexpr char letter_at(Index layer) { return period[layer % period.size]; }
  static constexpr std::string_view text() { return period.view(); }
};

/// Binds a letter of the pattern to a block.
template <char letter_, class Block_>
struct Slot {
  static constexpr char letter = letter_;
  using Block = Block_;
};

}  // namespace hybridmoe
