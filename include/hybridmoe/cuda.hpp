#pragma once
/// @file cuda.hpp
/// The front door for programs with Kokkos' CUDA space: kokkos.hpp, and a clear word where that space is missing.

#if !defined(__CUDACC__)
#error "hybridmoe/cuda.hpp has to be compiled as CUDA (nvcc); other files of the program include hybridmoe/hybridmoe.hpp"
#endif

#include <hybridmoe/kokkos.hpp>

#if !defined(KOKKOS_ENABLE_CUDA)
#error "hybridmoe/cuda.hpp needs a Kokkos that was built with its CUDA space"
#endif
