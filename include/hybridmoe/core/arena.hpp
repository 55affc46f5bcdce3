#pragma once
/// @file arena.hpp
/// Memory planned ahead. A layer describes its scratch and its tape once, as a struct whose constructor takes pieces from an
/// arena; the same constructor run on `Measure` gives the size as a constant expression.

#include <type_traits>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Every piece starts on a cache line.
inline constexpr Index arena_alignment = 64;

/// Hands out pieces of a caller's buffer, front to back. Copying an arena is how a callee gets scratch: its copy's pieces are
/// free again when it returns. (Threads of a team hold equal copies and so compute equal addresses.)
struct Arena {
  std::byte* next = nullptr;
  std::byte* end = nullptr;
  std::byte** peak = nullptr;  ///< where the laws watch how far a call reached, or null

  template <class T>
  HYBRIDMOE_FUNCTION T* take(Index count) {
    std::byte* piece = next;
    next += round_up(count * static_cast<Index>(sizeof(T)), arena_alignment);
    HYBRIDMOE_ASSERT(next <= end);
    if (peak != nullptr && *peak < next) *peak = next;
    return reinterpret_cast<T*>(piece);
  }
  HYBRIDMOE_FUNCTION Index left() const { return static_cast<Index>(end - next); }
};

/// Counts what an Arena would hand out.
struct Measure {
  Index bytes = 0;

  template <class T>
  HYBRIDMOE_FUNCTION constexpr T* take(Index count) {
    bytes += round_up(count * static_cast<Index>(sizeof(T)), arena_alignment);
    return nullptr;
  }
};

/// Bytes that Plan's constructor takes from an arena for these arguments.
template <class Plan, class... Arguments>
HYBRIDMOE_FUNCTION constexpr Index planned_bytes(const Arguments&... arguments) {
  Measure measure;
  [[maybe_unused]] Plan plan(measure, arguments...);
  return measure.bytes;
}

}  // namespace hybridmoe
