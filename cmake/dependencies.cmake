# What a build for developers needs beyond the library: found on the system (or in .deps, where tools/deps installs), else
# the pinned official release.
include(FetchContent)
include(${CMAKE_CURRENT_LIST_DIR}/pins.cmake)

set(BUILD_TESTING OFF CACHE BOOL "Build the tests of what is fetched; ours are HYBRIDMOE_BUILD_TESTS")
# Versions of CMake that do not know an option take it for a part of the value before it. SYSTEM stands first, where nothing is
# before it: CMake 3.25 knows it and still passes it on.
set(HYBRIDMOE_FETCH_FIRST)
set(HYBRIDMOE_FETCH_LAST)
if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.24)
  list(APPEND HYBRIDMOE_FETCH_LAST DOWNLOAD_EXTRACT_TIMESTAMP ON)
endif()
if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.25)
  list(APPEND HYBRIDMOE_FETCH_FIRST SYSTEM)  # their headers are not held to our warnings
endif()

# hybridmoe_need(NAME VERSION): find NAME, or fetch it.
macro(hybridmoe_need name version)
  find_package(${name} ${version} QUIET)
  if(NOT ${name}_FOUND)
    message(STATUS "${name} is not installed: fetching its official release (where that is impossible, run tools/deps)")
    FetchContent_Declare(${name} ${HYBRIDMOE_FETCH_FIRST} URL ${HYBRIDMOE_PIN_${name}_URL}
                         URL_HASH SHA256=${HYBRIDMOE_PIN_${name}_SHA256} ${HYBRIDMOE_FETCH_LAST})
    FetchContent_MakeAvailable(${name})
  endif()
endmacro()

# What tests compare with.
macro(hybridmoe_need_test_libraries)
  set(JSON_BuildTests OFF CACHE BOOL "")
  set(EIGEN_BUILD_DOC OFF CACHE BOOL "")
  hybridmoe_need(Catch2 3.7)  # failures do not exit with the 4 that means "skipped"
  hybridmoe_need(Eigen3 3.4)
  hybridmoe_need(nlohmann_json 3.10)
endmacro()

macro(hybridmoe_need_benchmark)
  set(BENCHMARK_ENABLE_TESTING OFF CACHE BOOL "")
  hybridmoe_need(benchmark 1.7)
endmacro()

# A Kokkos with threads: Serial and OpenMP in one build.
macro(hybridmoe_need_kokkos)
  set(Kokkos_ENABLE_SERIAL ON CACHE BOOL "")
  set(Kokkos_ENABLE_OPENMP ON CACHE BOOL "")
  hybridmoe_need(Kokkos 4.7)
endmacro()
