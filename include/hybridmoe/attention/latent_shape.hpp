#pragma once
/// @file latent_shape.hpp
/// Sizes and forms of multi-head latent attention, and the memory that follows from them.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/ops/attention_heads.hpp>
#include <hybridmoe/ops/latent_keys.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// heads; elements of the latent (c), of the shared rotary key (r), of a head's key besides it (n) and of a head's value (v);
/// rank of the queries' latent (0: queries directly from x).
struct LatentHeads {
  Index heads, latent, rotary, size, value, query_rank = 0;
};

struct LatentFormTag {};
/// Scores and mixing in the space of latents: W_key is applied to the query, W_value to the mixed latent (default). A position
/// costs (2·latent + rotary) multiply-adds per head and query.
struct Absorbed : LatentFormTag {};
/// Keys and values of all heads are formed from all stored latents in each call: (size + rotary + value) multiply-adds per head,
/// query and position, and the forming. Equal to Absorbed but for rounding, with the same parameters.
struct Expanded : LatentFormTag {};

struct ScoreFactorTag {};
/// A factor of all scores beside 1/√(size + rotary): YaRN's squared mscale in DeepSeek's models.
template <Index numerator, Index denominator>
struct ScoreFactor : ScoreFactorTag {
  static_assert(numerator > 0 && denominator > 0, "attention::ScoreFactor is a positive fraction");
  static constexpr double value = static_cast<double>(numerator) / static_cast<double>(denominator);
};

/// What latent attention's types make of its sizes; `normed`: with QK-norm, `weighted`: with its gains.
template <LatentHeads sizes, bool absorbed, bool normed, bool weighted, Index context>
struct LatentShape {
  static constexpr int heads = static_cast<int>(sizes.heads), latent = static_cast<int>(sizes.latent),
                       rotary = static_cast<int>(sizes.rotary), size = static_cast<int>(sizes.size),
                       value_size = static_cast<int>(sizes.value);
  static constexpr bool low_rank = sizes.query_rank > 0;
  static constexpr Index rank = larger(1, sizes.query_rank), queries = heads * (size + rotary), keys_inner = heads * size,
                         inner = heads * value_size, lowered = latent + rotary;

  template <class T>
  using Keys = std::conditional_t<absorbed, ops::AbsorbedKeys<T, heads, latent, rotary, normed>,
                                  ops::ExpandedKeys<T, heads, latent, rotary, size, value_size, normed>>;
  static constexpr Index tiles = ops::tiles_for(context);

  /// What forward leaves for backward, and works with.
  template <class T>
  struct Tape {
    using K = Keys<T>;
    T *query_low = nullptr, *query_inverse = nullptr, *query_latent = nullptr;  ///< queries' latent, before and after its norm
    T *query, *down_rows, *down_inverse, *latents;
    T* head_key = nullptr;                                                        ///< [rows, heads·size], absorbed with QK-norm
    T *head_query, *turned_query;                                                 ///< [heads, rows, size], [heads, rows, rotary]
    T *absorbed_query = nullptr, *mixed_latent = nullptr, *head_value = nullptr;  ///< [heads, rows, latent | latent | value]
    T *mixed, *log_sum_of_exp;                                                    ///< [rows, heads·value], [heads, rows]
    T *store = nullptr, *expanded = nullptr;
    Index* offset = nullptr;  ///< [heads + 1] rows of the heads' products
    Index tape_tiles = 0;
    HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e) {
      const auto take = [&](Index per_row) { return arena.template take<T>(e.rows * per_row); };
      if constexpr (low_rank) {
        query_low = take(rank);
        query_inverse = take(1);
        query_latent = take(rank);
      }
      query = take(queries);
      down_rows = take(lowered);
      down_inverse = take(1);
      latents = take(latent);
      if constexpr (absorbed && normed) head_key = take(keys_inner);
      head_query = take(keys_inner);
      turned_query = take(heads * rotary);
      if constexpr (absorbed) {
        absorbed_query = take(heads * latent);
        mixed_latent = take(heads * latent);
        head_value = take(inner);
        offset = arena.template take<Index>(heads + 1);
      }
      mixed = take(inner);
      log_sum_of_exp = take(heads);
      if (e.training) {
        tape_tiles = K::Stores::tape_tiles_for(e.rows, e.sequences);
        store = arena.template take<T>(K::Stores::tape_elements(e.rows, e.sequences));
      }
      if constexpr (!absorbed)
        expanded = arena.template take<T>(K::expanded_elements(e.training ? tape_tiles : tiles * e.sequences));
    }
  };

  /// What backward works with.
  template <class T>
  struct Scratch {
    T *d_mixed, *inner_products, *d_head_query, *d_turned_query, *d_rotary, *d_latents, *d_down, *d_query, *partial;
    T *d_query_latent = nullptr, *d_inverse = nullptr, *d_key = nullptr, *d_value = nullptr;
    T *d_head_value = nullptr, *d_mixed_latent = nullptr, *d_absorbed_query = nullptr, *d_shared = nullptr;
    HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e) {
      const auto take = [&](Index per_row) { return arena.template take<T>(e.rows * per_row); };
      d_mixed = take(inner);
      inner_products = take(heads);
      d_head_query = take(keys_inner);
      d_turned_query = take(heads * rotary);
      d_rotary = take(heads * rotary);
      d_latents = take(latent);
      d_down = take(lowered);
      d_query = take(queries);
      partial = arena.template take<T>(weighted ? divide_up(e.rows, ops::head_rows) * 2 * size : 0);
      if constexpr (low_rank) d_query_latent = take(rank);
      if constexpr (normed) d_inverse = take(heads);
      if constexpr (normed || !absorbed) d_key = take(keys_inner);
      if constexpr (absorbed) {
        d_head_value = take(inner);
        d_mixed_latent = take(heads * latent);
        d_absorbed_query = take(heads * latent);
        d_shared = take(heads * latent);
      } else {
        d_value = take(inner);
      }
    }
  };
};

}  // namespace hybridmoe::attention
