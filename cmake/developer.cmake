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

# Runs that are published and repeated: what -march=native tunes for decides which products are fused with sums (none in a chain on
# some processors), so bits are the same on all processors of an instruction set only if the tuning is fixed, and the level of
# optimisation.
add_library(hybridmoe_repeatable INTERFACE)
target_compile_options(hybridmoe_repeatable INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-O3;-mtune=generic>)
