#pragma once
/// @file vector.hpp
/// Vector registers of the CPU that is compiled for, through the vector extensions of g++ and clang, with a multiply-add that is
/// fused whatever the compiler's contraction flags say. (The intrinsics' header is avoided: it alone costs half a second a unit.)

#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::cpu {

#if defined(__AVX512F__)
inline constexpr int register_bytes = 64, register_count = 32;
#elif defined(__AVX__)
inline constexpr int register_bytes = 32, register_count = 16;
#elif defined(__aarch64__)
inline constexpr int register_bytes = 16, register_count = 32;
#else
inline constexpr int register_bytes = 16, register_count = 16;
#endif

/// a·b + c: rounded once where the target has such an instruction, rounded twice (everywhere alike) where it has not.
template <Scalar T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T fused(T a, T b, T c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  return math::fma(a, b, c);
#else
  return a * b + c;
#endif
}

#if HYBRIDMOE_VECTOR

/// `lanes` numbers in a register; one lane is the plain number.
template <class T, int lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(lanes * sizeof(T))));
  typedef T anywhere __attribute__((vector_size(lanes * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T>
struct VectorOf<T, 1> {
  using type = T;
  using anywhere = T;
};
template <class T, int lanes>
using Vector = typename VectorOf<T, lanes>::type;

/// Reads and writes at any address.
template <class T, int lanes>
HYBRIDMOE_INLINE Vector<T, lanes> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T, lanes>::anywhere*>(from);
}
template <class T, int lanes>
HYBRIDMOE_INLINE void store(T* to, Vector<T, lanes> value) {
  *reinterpret_cast<typename VectorOf<T, lanes>::anywhere*>(to) = value;
}
/// The number in every lane. (x − 0 is x for every x, −0 too, so compilers make a broadcast of it.)
template <class T, int lanes>
HYBRIDMOE_INLINE Vector<T, lanes> splat(T x) {
  return x - Vector<T, lanes>{};
}

/// Other targets' compilers contract this by default; without such an instruction nothing can.
template <class V>
HYBRIDMOE_INLINE V fused_lanes(V a, V b, V c) {
  if constexpr (std::floating_point<V>) {
    return fused(a, b, c);
  } else {
    return a * b + c;
  }
}
#if defined(__FMA__)
HYBRIDMOE_INLINE Vector<float, 4> fused_lanes(Vector<float, 4> a, Vector<float, 4> b, Vector<float, 4> c) {
  return __builtin_ia32_vfmaddps(a, b, c);
}
HYBRIDMOE_INLINE Vector<double, 2> fused_lanes(Vector<double, 2> a, Vector<double, 2> b, Vector<double, 2> c) {
  return __builtin_ia32_vfmaddpd(a, b, c);
}
HYBRIDMOE_INLINE Vector<float, 8> fused_lanes(Vector<float, 8> a, Vector<float, 8> b, Vector<float, 8> c) {
  return __builtin_ia32_vfmaddps256(a, b, c);
}
HYBRIDMOE_INLINE Vector<double, 4> fused_lanes(Vector<double, 4> a, Vector<double, 4> b, Vector<double, 4> c) {
  return __builtin_ia32_vfmaddpd256(a, b, c);
}
#if defined(__AVX512F__)
// All lanes, the current rounding mode.
HYBRIDMOE_INLINE Vector<float, 16> fused_lanes(Vector<float, 16> a, Vector<float, 16> b, Vector<float, 16> c) {
  return __builtin_ia32_vfmaddps512_mask(a, b, c, static_cast<unsigned short>(-1), 4);
}
HYBRIDMOE_INLINE Vector<double, 8> fused_lanes(Vector<double, 8> a, Vector<double, 8> b, Vector<double, 8> c) {
  return __builtin_ia32_vfmaddpd512_mask(a, b, c, static_cast<unsigned char>(-1), 4);
}
#endif
#endif

/// Holds a loaded value in its register: g++ would rather load it again for every use, and then waits for loads.
template <class V>
HYBRIDMOE_INLINE void keep([[maybe_unused]] V& value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__x86_64__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
}

/// Keeps a compiler from working a number out again.
HYBRIDMOE_INLINE void keep_number([[maybe_unused]] Index& value) { asm("" : "+r"(value)); }

/// Asks for a cache line ahead of its use; `write` for one that will be written.
template <bool write = false>
HYBRIDMOE_INLINE void prefetch(const void* line) {
  __builtin_prefetch(line, write ? 1 : 0);
}
/// Asks for a cache line to be brought into the second-level cache.
HYBRIDMOE_INLINE void prefetch_second_level(const void* line) { __builtin_prefetch(line, 0, 2); }

#endif  // HYBRIDMOE_VECTOR

/// `count` zeros, by plain stores: compilers make of such a loop a string instruction, which takes longer to begin than a row of
/// a small model takes to be written.
template <Index count, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void clear(T* to) {
  Index done = 0;
#if HYBRIDMOE_VECTOR
  constexpr int lanes = register_bytes / static_cast<int>(sizeof(T));
  Vector<T, lanes> zeros{};
  keep(zeros);
#pragma GCC unroll 16
  for (; done + lanes <= count; done += lanes) store<T, lanes>(to + done, zeros);
#endif
  for (; done < count; ++done) to[done] = T(0);
}

}  // namespace hybridmoe::ops::cpu
