#pragma once
/// @file team.hpp
/// A team of threads inside somebody else's kernel. Needs no Kokkos: anything with a rank, a size and a barrier is a member.

#include <hybridmoe/exec/inline.hpp>

#if HYBRIDMOE_THREAD_SANITIZER
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace hybridmoe::inline HYBRIDMOE_ABI::exec {

/// One thread's handle of its team, as the kernel received it. All threads of the team make the same calls with the same
/// arguments; each() shares the items and ends with a barrier. Code outside of kernels runs on every thread and must not
/// write to memory that the team shares. A team of Kokkos has to have vector length 1.
template <class Member>
struct Team {
  Member member;

  template <class Kernel>
  HYBRIDMOE_FUNCTION void each(Index count, const Kernel& kernel) const {
    const Index size = member.team_size();
    for (Index i = member.team_rank(); i < count; i += size) items(kernel, i, i + 1);
    wait();
  }
  HYBRIDMOE_FUNCTION int concurrency() const { return member.team_size(); }
  /// Calls f(space) on every thread of the team.
  template <class Computation>
  HYBRIDMOE_FUNCTION void run(const Computation& f) const {
    f(*this);
  }
  /// Nothing is left to wait for: each() has ended with a barrier.
  HYBRIDMOE_FUNCTION void fence() const {}

 private:
  HYBRIDMOE_FUNCTION void wait() const {
#if HYBRIDMOE_THREAD_SANITIZER
    // The barrier of Kokkos' host teams polls plain memory between fences. The thread sanitizer does not see that it orders the
    // threads, and is told.
    static char barrier;
    __tsan_release(&barrier);
    member.team_barrier();
    __tsan_acquire(&barrier);
#else
    member.team_barrier();
#endif
  }
};

}  // namespace hybridmoe::exec
