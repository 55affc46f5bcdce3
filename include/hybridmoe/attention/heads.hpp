#pragma once
/// @file heads.hpp
/// Head counts and the options shared by attention modes.

#include <hybridmoe/ops/attention_heads.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Query heads, key-value heads (equal: multi-head; one: multi-query; between: grouped-query attention) and elements per head.
struct Heads {
  Index query, kv, size;
};

namespace attention {

struct QueryKeyNormTag {};
struct BiasTag {};

/// No normalisation of queries and keys (default).
struct PlainQueryKey : QueryKeyNormTag, ops::PlainHeads {
  static constexpr bool weighted = false;
};

/// Each head of query and key divided by its root mean square.
/// @tparam weighted_        with a learned gain per head element (Qwen3), or without any weight
/// @tparam inverse_epsilon  1/ε
template <bool weighted_ = true, Index inverse_epsilon = 1000000>
struct NormedQueryKey : QueryKeyNormTag, ops::RmsHeads<inverse_epsilon> {
  static constexpr bool weighted = weighted_;
};

/// Biases of the query, key and value projections, and of the output projection.
template <bool input_, bool output_>
struct Bias : BiasTag {
  static constexpr bool input = input_, output = output_;
};

}  // namespace attention
}  // namespace hybridmoe
