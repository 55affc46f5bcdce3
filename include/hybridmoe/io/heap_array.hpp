#pragma once
/// @file heap_array.hpp
/// Room for elements on the heap that fails with an empty value, not with an exception. Files decide how large tables become, so
/// every table that a file can make large lives in one of these.

#include <memory>
#include <new>
#include <string>
#include <type_traits>

#include <hybridmoe/core/error.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// Owns `size()` elements, not initialised. Movable. Empty after a failed allocation: test with operator bool.
template <class T>
class HeapArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  HeapArray() = default;
  explicit HeapArray(Index count)
      : data_(static_cast<T*>(::operator new(to_size(count) * sizeof(T), std::nothrow))), size_(data_ == nullptr ? 0 : count) {}

  explicit operator bool() const { return data_ != nullptr; }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  Index size() const { return size_; }
  T& operator[](Index i) { return data_.get()[i]; }
  const T& operator[](Index i) const { return data_.get()[i]; }
  T* begin() { return data_.get(); }
  T* end() { return data_.get() + size_; }
  const T* begin() const { return data_.get(); }
  const T* end() const { return data_.get() + size_; }
  /// Forgets the elements from `count` on; their room stays until the array dies.
  void shorten(Index count) { size_ = count; }

 private:
  struct Release {
    void operator()(T* memory) const { ::operator delete(memory); }
  };
  std::unique_ptr<T, Release> data_;
  Index size_ = 0;
};

inline Error out_of_memory(std::string where, Index bytes) {
  return {.code = Code::out_of_memory, .what = "memory is short", .where = std::move(where), .expected = bytes};
}

}  // namespace hybridmoe::io
