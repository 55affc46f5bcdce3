// main() of tests with Kokkos: it starts and ends Kokkos, as a program that uses the library has to.

#include <Kokkos_Core.hpp>

#include <catch2/catch_session.hpp>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
#if defined(KOKKOS_ENABLE_CUDA)
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("SKIPPED: this Kokkos is for CUDA and no GPU is here");
    return 4;
  }
#endif
  // Two threads unless the environment says otherwise: the smallest number that shows what depends on threads.
  Kokkos::InitializationSettings settings;
  settings.set_disable_warnings(true);
  if (std::getenv("OMP_NUM_THREADS") == nullptr && std::getenv("KOKKOS_NUM_THREADS") == nullptr) settings.set_num_threads(2);
  const Kokkos::ScopeGuard kokkos(settings);
  return Catch::Session().run(argc, argv);
}
