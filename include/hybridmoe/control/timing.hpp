#pragma once
/// @file timing.hpp
/// Whose complexity a row gets: its own, or, to find out whether complexity matters at all, that of an earlier row at the same
/// cost and with the same distribution. A type with `reach`, how far back it goes at most, and `source(t)`, in [t − reach, t].

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::control {

/// A row's own.
struct AsItIs {
  static constexpr Index reach = 0;
  HYBRIDMOE_FUNCTION static constexpr Index source(Index position) { return position; }
};

/// That of `delay` rows ago (of the first row where there is none).
template <Index delay>
struct Delayed {
  static_assert(delay > 0, "control::Delayed: the delay must be positive");
  static constexpr Index reach = delay;
  HYBRIDMOE_FUNCTION static constexpr Index source(Index position) { return larger(0, position - delay); }
};

/// That of a row between `least` and `most` rows ago, by a hash of the position; before position `most`, of any earlier row.
template <Index least = 64, Index most = 320>
struct Shuffled {
  static_assert(0 < least && least <= most, "control::Shuffled: delays must be positive, the least no more than the most");
  static constexpr Index reach = most;
  HYBRIDMOE_FUNCTION static constexpr Index source(Index position) {
    std::uint64_t h = (static_cast<std::uint64_t>(position) + 1) * 0x9E3779B97F4A7C15u;  // splitmix64
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
    h = (h ^ (h >> 31)) >> 1;
    if (position == 0) return 0;
    if (position < most) return position - 1 - static_cast<Index>(h % static_cast<std::uint64_t>(position));
    return position - least - static_cast<Index>(h % static_cast<std::uint64_t>(most - least + 1));
  }
};

}  // namespace hybridmoe::control
