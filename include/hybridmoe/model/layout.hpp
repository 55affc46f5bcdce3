#pragma once
/// @file layout.hpp
/// A pattern as numbers at run time. Everything heavy that a model does is compiled for its *kinds* of layer and takes a Layout,
/// so that another pattern over the same kinds adds a table and no code.

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Which kind of layer stands where: one byte per layer. Offsets into buffers and states are sums over the layers before; who
/// walks the layers keeps them as it goes. Points to tables that live as long as the program.
struct Layout {
  const std::uint8_t* slots = nullptr;  ///< [layers], the slot of each
  Index layers = 0;
  const char* letters = nullptr;  ///< the letter of each slot

  HYBRIDMOE_FUNCTION constexpr int slot(Index layer) const { return slots[layer]; }
  HYBRIDMOE_FUNCTION constexpr char letter(Index layer) const { return letters[slots[layer]]; }

  friend constexpr bool operator==(const Layout& a, const Layout& b) {
    bool same = a.layers == b.layers;
    for (Index l = 0; same && l < a.layers; ++l) same = a.slots[l] == b.slots[l];
    return same;
  }

  /// The sum of a number that each slot has, over all layers.
  template <class PerSlot>
  HYBRIDMOE_FUNCTION constexpr auto sum(const PerSlot& number) const {
    auto total = number[0];
    total = {};
    for (Index l = 0; l < layers; ++l) total = total + number[slots[l]];
    return total;
  }
};

}  // namespace hybridmoe
