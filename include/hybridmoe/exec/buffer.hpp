#pragma once
/// @file buffer.hpp
/// Memory that a space's kernels can reach, and copies between it and the host.

#include <cstdlib>
#include <cstring>
#include <utility>

#include <hybridmoe/exec/inline.hpp>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hybridmoe::inline HYBRIDMOE_ABI::exec {

/// Allocation and copies of a space; specialised for spaces whose memory is not the host's.
template <class Space>
struct Memory {
  static constexpr Index page = Index{1} << 21;

  /// Zeroed bytes aligned to a cache line (large ones to 2 MiB, with huge pages asked for: one-row products read a third
  /// faster from them), or null.
  static std::byte* allocate(const Space&, Index bytes) {
    const Index alignment = bytes >= page ? page : 64;
    void* memory = std::aligned_alloc(to_size(alignment), to_size(round_up(bytes < 1 ? 1 : bytes, alignment)));
#if defined(__linux__)
    if (memory != nullptr && bytes >= page) madvise(memory, to_size(round_up(bytes, alignment)), MADV_HUGEPAGE);
#endif
    if (memory != nullptr) std::memset(memory, 0, to_size(bytes));
    return static_cast<std::byte*>(memory);
  }
  static void release(const Space&, std::byte* memory) { std::free(memory); }
  /// Copies between this memory and the host (either direction) after all earlier work on the space; returns when done.
  static void copy_in(const Space& space, std::byte* to, const void* host, Index bytes) {
    space.fence();
    if (bytes > 0) std::memcpy(to, host, to_size(bytes));
  }
  static void copy_out(const Space& space, void* host, const std::byte* from, Index bytes) {
    space.fence();
    if (bytes > 0) std::memcpy(host, from, to_size(bytes));
  }
  /// Copies or zeroes within the space's memory, ordered with its kernels.
  static void copy(const Space& space, std::byte* to, const std::byte* from, Index bytes) { copy_in(space, to, from, bytes); }
  static void zero(const Space& space, std::byte* to, Index bytes) {
    space.fence();
    if (bytes > 0) std::memset(to, 0, to_size(bytes));
  }
};

/// Owns bytes in a space's memory. Movable. Empty after a failed allocation: test with operator bool.
template <class Space>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Space space, Index bytes)
      : space_(space), data_(Memory<Space>::allocate(space, bytes)), bytes_(data_ == nullptr ? 0 : bytes) {}
  Buffer(Buffer&& other) noexcept
      : space_(other.space_), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(space_, other.space_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) Memory<Space>::release(space_, data_);
  }

  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  Index bytes() const { return bytes_; }
  const Space& space() const { return space_; }

  void copy_in(const void* host, Index count, Index at = 0) { Memory<Space>::copy_in(space_, data_ + at, host, count); }
  void copy_out(void* host, Index count, Index at = 0) const { Memory<Space>::copy_out(space_, host, data_ + at, count); }
  void zero() { Memory<Space>::zero(space_, data_, bytes_); }

 private:
  Space space_{};
  std::byte* data_ = nullptr;
  Index bytes_ = 0;
};

}  // namespace hybridmoe::exec
