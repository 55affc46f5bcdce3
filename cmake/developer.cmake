# What tests, examples and benchmarks share: dependencies, warnings, the processor, the compiler cache.
list(APPEND CMAKE_PREFIX_PATH ${PROJECT_SOURCE_DIR}/.deps)  # where tools/deps installs; the system comes after it
include(cmake/dependencies.cmake)

find_program(HYBRIDMOE_CCACHE ccache)
if(HYBRIDMOE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${HYBRIDMOE_CCACHE})
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

if(HYBRIDMOE_CUDA)
  enable_language(CUDA)
endif()
if(HYBRIDMOE_KOKKOS STREQUAL "AUTO")
  find_package(Kokkos 4.7 QUIET)
  set(HYBRIDMOE_HAS_KOKKOS ${Kokkos_FOUND})
elseif(HYBRIDMOE_KOKKOS)
  hybridmoe_need_kokkos()
  set(HYBRIDMOE_HAS_KOKKOS ON)
else()
  set(HYBRIDMOE_HAS_KOKKOS OFF)
endif()

add_library(hybridmoe_developer INTERFACE)
target_compile_options(hybridmoe_developer INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Wshadow>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${HYBRIDMOE_WERROR}>>:-Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${HYBRIDMOE_NATIVE}>>:-march=native>)

# Runs that are published and repeated. Which products are fused with sums is decided by the level of optimisation, by what
# -march=native tunes for, and by how long registers are: with all three fixed, bits are the same on every x86-64 processor that
# has AVX2, and a change of bits shows on whichever of them it is made.
add_library(hybridmoe_repeatable INTERFACE)
if(NOT CMAKE_CROSSCOMPILING AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  include(CheckCXXSourceRuns)
  check_cxx_source_runs("int main() { return __builtin_cpu_supports(\"avx2\") && __builtin_cpu_supports(\"fma\") ? 0 : 1; }"
    HYBRIDMOE_HAS_AVX2)
endif()
target_compile_options(hybridmoe_repeatable INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-O3;-mtune=generic>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${HYBRIDMOE_HAS_AVX2}>>:-march=x86-64-v3>)
