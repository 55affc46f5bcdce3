#pragma once
/// @file mask.hpp
/// Which keys a query sees. A mask is causal and shows a contiguous range [first(q), q]; it also says how many positions a
/// sequence must keep.

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::mask {

/// Every key up to the query.
struct Causal {
  HYBRIDMOE_FUNCTION static constexpr Index first(Index) { return 0; }
  /// Positions to keep for a context and a longest chunk.
  static constexpr Index kept(Index context, Index) { return context; }
  /// Keys that a query at the end of `context` sees.
  static constexpr Index seen(Index context) { return context; }
};

/// The last `width` keys, the query's own included (Beltagy et al., "Longformer", 2020; Mistral).
template <Index width>
struct Window {
  static_assert(width > 0, "mask::Window needs a width of at least one key");
  HYBRIDMOE_FUNCTION static constexpr Index first(Index query) { return query < width ? 0 : query - width + 1; }
  static constexpr Index kept(Index context, Index chunk) { return smaller(context, width + chunk); }
  static constexpr Index seen(Index context) { return smaller(context, width); }
};

}  // namespace hybridmoe::mask
