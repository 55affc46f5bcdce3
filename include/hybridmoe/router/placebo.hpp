#pragma once
/// @file placebo.hpp
/// Routers that cost what router::Dynamic costs and decide by a hash of the position instead of by the token: what adaptive
/// routing must beat.

#include <hybridmoe/router/dynamic.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

constexpr DynamicOptions with(DynamicOptions options, Placebo placebo) {
  options.placebo = placebo;
  return options;
}

/// Each row gets a number of experts drawn at random, with the mean that the options want; the scores say which.
template <DynamicOptions options = DynamicOptions{}>
struct RandomCount : Dynamic<with(options, Placebo::random_count)> {};

/// Each row gets as many experts as its scores ask for, with their weights, but experts at random.
template <DynamicOptions options = DynamicOptions{}>
struct RandomExperts : Dynamic<with(options, Placebo::random_experts)> {};

}  // namespace hybridmoe::router
