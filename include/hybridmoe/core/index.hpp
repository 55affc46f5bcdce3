#pragma once
/// @file index.hpp
/// The signed integer of every size, offset and position, and arithmetic on it.

#include <cstddef>
#include <cstdint>

#include <hybridmoe/core/config.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

using Index = std::int64_t;

/// ⌈a/b⌉ for a ≥ 0, b > 0.
HYBRIDMOE_FUNCTION constexpr Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

/// The smallest multiple of b that is at least a (a ≥ 0, b > 0).
HYBRIDMOE_FUNCTION constexpr Index round_up(Index a, Index b) { return divide_up(a, b) * b; }

HYBRIDMOE_FUNCTION constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }
HYBRIDMOE_FUNCTION constexpr Index larger(Index a, Index b) { return a < b ? b : a; }

constexpr std::size_t to_size(Index n) { return static_cast<std::size_t>(n); }
constexpr Index to_index(std::size_t n) { return static_cast<Index>(n); }

}  // namespace hybridmoe
