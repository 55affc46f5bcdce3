#pragma once
/// @file teams.hpp
/// Starts a kernel of one team and runs a computation inside it: how the laws are checked on exec::Team.

#include <hybridmoe/exec/on.hpp>
#include <hybridmoe/exec/team.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::exec {

/// Calls f on every thread of a team, as Kokkos calls a kernel.
template <class KokkosSpace, class Computation>
struct TeamKernel {
  using Member = typename Kokkos::TeamPolicy<KokkosSpace>::member_type;
  Computation f;

  HYBRIDMOE_FUNCTION void operator()(const Member& member) const { f(Team<Member>{member}); }
};

/// A place for computations: teams of at most `team_size` threads (fewer where the space has fewer) on the caller's instance.
template <class KokkosSpace_>
struct Teams {
  using KokkosSpace = KokkosSpace_;
  KokkosSpace instance{};
  int team_size = 1;

  /// Runs f(Team) in a kernel of one team. f is a named functor that a device can run, with HYBRIDMOE_FUNCTION.
  template <class Computation>
  void run(const Computation& f) const {
    const TeamKernel<KokkosSpace, Computation> kernel{f};
    const int most = Kokkos::TeamPolicy<KokkosSpace>(instance, 1, 1).team_size_max(kernel, Kokkos::ParallelForTag{});
    const Kokkos::TeamPolicy<KokkosSpace> policy(instance, 1, team_size < most ? team_size : most);
    Kokkos::parallel_for("hybridmoe", policy, kernel);
  }
  int concurrency() const { return team_size; }
  void fence() const { instance.fence("hybridmoe"); }
};

}  // namespace hybridmoe::exec
