# The official releases that the build fetches where the network allows, pinned by hash. Used by cmake/dependencies.cmake
# (FetchContent) and by tools/deps (through cmake/download.cmake).
set(HYBRIDMOE_PIN_Catch2_URL https://github.com/catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz)
set(HYBRIDMOE_PIN_Catch2_SHA256 c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c)

set(HYBRIDMOE_PIN_Eigen3_URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz)
set(HYBRIDMOE_PIN_Eigen3_SHA256 8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)

set(HYBRIDMOE_PIN_nlohmann_json_URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz)
set(HYBRIDMOE_PIN_nlohmann_json_SHA256 d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)

set(HYBRIDMOE_PIN_benchmark_URL https://github.com/google/benchmark/archive/refs/tags/v1.9.1.tar.gz)
set(HYBRIDMOE_PIN_benchmark_SHA256 32131c08ee31eeff2c8968d7e874f3cb648034377dfc32a4c377fa8796d84981)

set(HYBRIDMOE_PIN_Kokkos_URL https://github.com/kokkos/kokkos/releases/download/4.7.00/kokkos-4.7.00.tar.gz)
set(HYBRIDMOE_PIN_Kokkos_SHA256 126b774a24dde8c1085c4aede7564c0b7492d6a07d85380f2b387a712cea1ff5)
