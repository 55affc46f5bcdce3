#pragma once
/// @file team.hpp
/// A team of threads inside somebody else's kernel. Needs no Kokkos: anything with a rank, a size and a barrier is a member.

#include <hybridmoe/exec/inline.hpp>

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
    member.team_barrier();
  }
  HYBRIDMOE_FUNCTION int concurrency() const { return member.team_size(); }
  /// Calls f(space) on every thread of the team.
  template <class Computation>
  HYBRIDMOE_FUNCTION void run(const Computation& f) const {
    f(*this);
  }
  /// Nothing is left to wait for: each() has ended with a barrier.
  HYBRIDMOE_FUNCTION void fence() const {}
};

}  // namespace hybridmoe::exec
