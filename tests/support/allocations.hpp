#pragma once
// Counts every heap allocation of the program, by standing in front of malloc. Include it in one source file of a program.

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HYBRIDMOE_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HYBRIDMOE_TEST_SANITIZED 1
#endif
#endif

namespace test {

inline std::atomic<std::uint64_t> allocation_count{0};

/// Allocations of all threads since the program began.
inline std::uint64_t allocations() { return allocation_count.load(std::memory_order_relaxed); }

}  // namespace test

#if defined(HYBRIDMOE_TEST_SANITIZED)

// A sanitizer owns malloc; it offers hooks instead.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, std::size_t),
                                                         void (*on_free)(const volatile void*));
namespace test {
inline void count_allocation(const volatile void*, std::size_t) { allocation_count.fetch_add(1, std::memory_order_relaxed); }
inline void ignore_release(const volatile void*) {}
inline const int hooks_installed = __sanitizer_install_malloc_and_free_hooks(count_allocation, ignore_release);
}  // namespace test

#elif defined(__GLIBC__)

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t bytes) {
  test::allocation_count.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  test::allocation_count.fetch_add(1, std::memory_order_relaxed);
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, std::size_t bytes) {
  test::allocation_count.fetch_add(1, std::memory_order_relaxed);
  return __libc_realloc(memory, bytes);
}
void* memalign(std::size_t alignment, std::size_t bytes) {
  test::allocation_count.fetch_add(1, std::memory_order_relaxed);
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
  *memory = memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}
}

#endif
