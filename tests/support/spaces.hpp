#pragma once
// The places where the laws run. A place has run(f), which calls f(space); memory for it is an exec::Buffer<Place>.

#include <hybridmoe/exec/buffer.hpp>

#if defined(HYBRIDMOE_TEST_KOKKOS) && HYBRIDMOE_TEST_KOKKOS
#include <hybridmoe/exec/teams.hpp>
#endif

#include <cstdlib>
#include <cstring>

namespace test {

/// True unless the environment's HYBRIDMOE_TEST_SPACES (names, in any order) leaves this place out.
inline bool space_is_wanted(const char* name) {
  const char* wanted = std::getenv("HYBRIDMOE_TEST_SPACES");
  return wanted == nullptr || std::strstr(wanted, name) != nullptr;
}

/// Calls f(place, name) for the calling thread, and with HYBRIDMOE_TEST_KOKKOS=1 for every space of the Kokkos build and for a
/// team of two threads inside a kernel. A device is included where its tests are compiled for it.
template <class F>
void for_each_space(F&& f) {
  namespace exec = hybridmoe::exec;
  const auto visit = [&](const auto& place, const char* name) {
    if (space_is_wanted(name)) f(place, name);
  };
  visit(exec::Inline{}, "Inline");
#if defined(HYBRIDMOE_TEST_KOKKOS) && HYBRIDMOE_TEST_KOKKOS
#if defined(KOKKOS_ENABLE_SERIAL)
  visit(exec::On<Kokkos::Serial>{}, "Serial");
#endif
#if defined(KOKKOS_ENABLE_OPENMP)
  visit(exec::On<Kokkos::OpenMP>{}, "OpenMP");
  visit(exec::Teams<Kokkos::OpenMP>{{}, 2}, "Team");
#endif
#if defined(KOKKOS_ENABLE_CUDA)
  visit(exec::On<Kokkos::Cuda>{}, "Cuda");
#endif
#endif
}

}  // namespace test
