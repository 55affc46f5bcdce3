#pragma once
/// @file config.hpp
/// The only macros of the library. Everything else is C++.

#include <hybridmoe/version.hpp>

#if defined(__FAST_MATH__) || defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "hybridmoe: -ffast-math removes the NaN checks and the fixed summation order that the library promises; compile without it"
#endif

/// Marks a function that may run on the host and inside a device kernel.
#if defined(__CUDACC__)
#define HYBRIDMOE_FUNCTION __host__ __device__
#else
#define HYBRIDMOE_FUNCTION
#endif

/// 1 where GCC vector extensions may be used: host code of g++ and clang.
#if (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDACC__) && !defined(HYBRIDMOE_NO_VECTOR)
#define HYBRIDMOE_VECTOR 1
#else
#define HYBRIDMOE_VECTOR 0
#endif

/// Forces a small kernel into its caller, so that its register block stays in registers.
#if defined(__GNUC__) || defined(__clang__)
#define HYBRIDMOE_INLINE [[gnu::always_inline]] inline
#else
#define HYBRIDMOE_INLINE inline
#endif

/// Keeps a function as one compiled copy that no caller's constants reach. Compilers decide per copy which a·b + c they round
/// once, so a copy made for `rows == 1` may give other bits than the copy for any number of rows.
#if defined(__CUDA_ARCH__)
#define HYBRIDMOE_ONE_COPY
#elif defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define HYBRIDMOE_ONE_COPY [[gnu::noipa]]
#elif defined(__GNUC__) || defined(__clang__)
#define HYBRIDMOE_ONE_COPY [[gnu::noinline]]
#else
#define HYBRIDMOE_ONE_COPY
#endif

/// 1 for g++ before 14 on x86, which may place a vectorised array of a function that calls nothing at a misaligned address (GCC
/// bug 109780); that ends in a segmentation fault. A function with a call, taken or not, it lays out right.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14 && defined(__x86_64__) && !defined(__CUDACC__)
#define HYBRIDMOE_MISPLACES_LEAF_ARRAYS 1
#else
#define HYBRIDMOE_MISPLACES_LEAF_ARRAYS 0
#endif

/// 1 under clang's thread sanitizer.
#define HYBRIDMOE_THREAD_SANITIZER 0
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#undef HYBRIDMOE_THREAD_SANITIZER
#define HYBRIDMOE_THREAD_SANITIZER 1
#endif
#endif

/// Checks a promise between parts of the library (never user input, which gets a Result). Replaceable by the host program.
#if !defined(HYBRIDMOE_ASSERT)
#if defined(NDEBUG) || defined(__CUDA_ARCH__)
#define HYBRIDMOE_ASSERT(condition) static_cast<void>(0)
#else
#include <cassert>
#define HYBRIDMOE_ASSERT(condition) assert(condition)
#endif
#endif

// Two units compiled for different instruction sets or exception modes must not share one inline function: the linker would
// keep whichever it met first. The inline namespace keeps their symbols apart, as far as kernels differ: by the width of the
// registers, by fused multiply-adds, and by whether vector extensions are used at all.
#if defined(__AVX512F__)
#define HYBRIDMOE_ABI_SET avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define HYBRIDMOE_ABI_SET avx2
#elif defined(__AVX__) && defined(__FMA__)
#define HYBRIDMOE_ABI_SET avx_fma
#elif defined(__AVX__)
#define HYBRIDMOE_ABI_SET avx
#else
#define HYBRIDMOE_ABI_SET base
#endif
#if defined(__CUDACC__)
#define HYBRIDMOE_ABI_COMPILER nvcc
#elif !HYBRIDMOE_VECTOR
#define HYBRIDMOE_ABI_COMPILER plain
#else
#define HYBRIDMOE_ABI_COMPILER host
#endif
#if defined(__cpp_exceptions)
#define HYBRIDMOE_ABI_MODE except
#else
#define HYBRIDMOE_ABI_MODE noexcept_
#endif
#define HYBRIDMOE_ABI_JOIN_(a, b, c, d, e) v##a##_##b##_##c##_##d##_##e
#define HYBRIDMOE_ABI_JOIN(a, b, c, d, e) HYBRIDMOE_ABI_JOIN_(a, b, c, d, e)
/// The inline namespace of everything: version, instruction set, compiler and exception mode.
#define HYBRIDMOE_ABI \
  HYBRIDMOE_ABI_JOIN(HYBRIDMOE_VERSION_MAJOR, HYBRIDMOE_VERSION_MINOR, HYBRIDMOE_ABI_SET, HYBRIDMOE_ABI_COMPILER, \
                     HYBRIDMOE_ABI_MODE)
