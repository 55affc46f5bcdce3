#pragma once
/// @file inline.hpp
/// The calling thread and nothing else: no thread, no lock, no dependency. For engines and as the reference of all spaces.

#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::exec {

#if HYBRIDMOE_MISPLACES_LEAF_ARRAYS
/// Never called: see HYBRIDMOE_MISPLACES_LEAF_ARRAYS.
[[gnu::noipa, gnu::cold]] inline void not_a_leaf() {}
#endif

/// Runs kernel(begin) … kernel(end−1) on the calling thread. Every host space runs its items through this one compiled copy
/// per kernel, so an item's bits depend neither on the space nor on how many items a call has. Kernels mark their
/// operator() HYBRIDMOE_INLINE, so that their arrays belong to this function's frame (see not_a_leaf).
template <class Kernel>
HYBRIDMOE_ONE_COPY HYBRIDMOE_FUNCTION void items(const Kernel& kernel, Index begin, Index end) {
#if HYBRIDMOE_MISPLACES_LEAF_ARRAYS
  if (begin > end) not_a_leaf();
#endif
  const Kernel local = kernel;  // nobody else sees it: its members stay in registers across the kernel's stores
  for (Index i = begin; i < end; ++i) local(i);
}

struct Inline {
  template <class Kernel>
  HYBRIDMOE_FUNCTION void each(Index count, const Kernel& kernel) const {
    items(kernel, 0, count);
  }
  HYBRIDMOE_FUNCTION static constexpr int concurrency() { return 1; }
  /// Calls f(space): a whole computation placed here. (exec::Teams starts a kernel and calls f inside it.)
  template <class Computation>
  HYBRIDMOE_FUNCTION void run(const Computation& f) const {
    f(*this);
  }
  /// Waits for the work of this space object; here there is none left.
  HYBRIDMOE_FUNCTION void fence() const {}
};

static_assert(ExecutionSpace<Inline>);

}  // namespace hybridmoe::exec
