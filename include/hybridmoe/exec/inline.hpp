#pragma once
/// @file inline.hpp
/// The calling thread and nothing else: no thread, no lock, no dependency. For engines and as the reference of all spaces.

#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::exec {

struct Inline {
  template <class Kernel>
  HYBRIDMOE_FUNCTION void each(Index count, const Kernel& kernel) const {
    for (Index i = 0; i < count; ++i) kernel(i);
  }
  HYBRIDMOE_FUNCTION static constexpr int concurrency() { return 1; }
  /// Calls f(space): a whole computation placed here. (exec::Teams starts a kernel and calls f inside it.)
  template <class Computation>
  void run(const Computation& f) const {
    f(*this);
  }
  /// Waits for the work of this space object; here there is none left.
  void fence() const {}
};

static_assert(ExecutionSpace<Inline>);

}  // namespace hybridmoe::exec
