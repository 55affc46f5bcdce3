#pragma once
/// @file kokkos.hpp
/// The front door for programs with Kokkos: everything of hybridmoe.hpp, on any of Kokkos' spaces, and inside its kernels.
/// Spaces and their own versions of operations come first, since a specialisation that is declared after its use is ignored.

#include <hybridmoe/exec/on.hpp>
#include <hybridmoe/exec/teams.hpp>

#if defined(KOKKOS_ENABLE_CUDA)  // always with this Kokkos: two units of a program must not disagree on the body of an operation
#include <hybridmoe/ops/cuda/matmul.cuh>
#endif

#include <hybridmoe/hybridmoe.hpp>

#include <hybridmoe/interop/kokkos_view.hpp>
