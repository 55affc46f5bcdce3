#pragma once
// What a published run says of the build that made it.

namespace replay {

/// What decides the bits of a run, beside options that are the same for all of them (hybridmoe_repeatable in
/// cmake/developer.cmake): compiler and instruction set. Other builds round a little differently.
inline const char* build() {
#if defined(__clang__)
  return "clang";
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return "g++ with a sanitizer";
#elif defined(__AVX512F__)
  return "g++ avx512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "g++ avx2";
#else
  return "g++ base";
#endif
}

}  // namespace replay
