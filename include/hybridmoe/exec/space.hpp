#pragma once
/// @file space.hpp
/// What every execution space offers. A kernel is a named functor with `HYBRIDMOE_FUNCTION void operator()(Index) const`; its
/// items must be independent. Sums over items have a fixed shape (an item per result, or a second pass), never atomics, so
/// results do not depend on how a space shares items out.

#include <concepts>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::exec {

/// Stands for a kernel where a concept needs one.
struct AnyKernel {
  HYBRIDMOE_FUNCTION void operator()(Index) const {}
};

/// `each(n, f)` runs f(0) … f(n−1) and orders them after all earlier and before all later calls on the same space object.
/// `concurrency()` is a hint of how many items run at once; nothing that reaches a result may depend on it.
template <class S>
concept ExecutionSpace = std::copy_constructible<S> && requires(const S space, Index count, AnyKernel kernel) {
  space.each(count, kernel);
  { space.concurrency() } -> std::convertible_to<int>;
};

}  // namespace hybridmoe::exec
