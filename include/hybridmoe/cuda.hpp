#pragma once
/// @file cuda.hpp
/// The front door for programs with Kokkos' CUDA space: as kokkos.hpp, with the operations that have versions of their own for
/// CUDA. For nvcc only.

#if !defined(__CUDACC__)
#error "hybridmoe/cuda.hpp has to be compiled as CUDA (nvcc); other files of the program include hybridmoe/hybridmoe.hpp"
#endif

#include <hybridmoe/ops/cuda/matmul.cuh>

#include <hybridmoe/kokkos.hpp>
