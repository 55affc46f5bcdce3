#pragma once
/// @file position.hpp
/// Position encodings act on one head vector inside a kernel. An encoding is a type with
///   `template <int size, class T> static void table(Index position, T* cosine, T* sine)`   [size/2] each
///   `template <int size, class T> static void rotate(T* x, const T* cosine, const T* sine)` in place
///   `template <int size, class T> static void unrotate(...)`                                 the transpose, for gradients
/// `active` tells whether there is anything to do. Optional: `template <Index size> static constexpr bool fits`, whether heads of
/// this size can be encoded (true if absent).

#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::position {

/// Marks a type as a position encoding, so that attention modes find it among their options.
struct Tag {};

/// No encoding inside attention: learned positions at the embedding, or none at all.
struct Nothing : Tag {
  static constexpr bool active = false;
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void table(Index, T*, T*) {}
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void rotate(T*, const T*, const T*) {}
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void unrotate(T*, const T*, const T*) {}
};

}  // namespace hybridmoe::position
