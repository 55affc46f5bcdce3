#pragma once
/// @file region.hpp
/// Memory of a place that knows what may happen to it: filled beforehand, with a guard behind it.

#include <cstring>
#include <vector>

#include <hybridmoe/exec/buffer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// `bytes` for a layer to use and a guard that nobody may touch.
template <class Place>
class Region {
 public:
  explicit Region(const Place& place) : place_(place) {}

  /// All bytes become `fill`, and the guard is set.
  void prepare(Index bytes, unsigned char fill, Index guard = 64) {
    image_.assign(to_size(bytes), static_cast<std::byte>(fill));
    place(bytes, guard);
  }
  /// The bytes become those of `values`.
  template <class T>
  void hold(const std::vector<T>& values) {
    image_.resize(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(image_.data(), values.data(), image_.size());
    place(to_index(image_.size()), 64);
  }
  template <class T>
  std::vector<T> values() const {
    std::vector<T> result(to_size(bytes_) / sizeof(T));
    buffer_.copy_out(result.data(), bytes_);
    return result;
  }
  /// Whether the guard is as it was.
  bool guarded() const {
    std::vector<std::byte> end(to_size(guard_));
    buffer_.copy_out(end.data(), guard_, bytes_);
    for (const std::byte b : end) {
      if (b != mark) return false;
    }
    return true;
  }
  /// Whether the bytes are still what they were made.
  bool unchanged() const {
    std::vector<std::byte> now(to_size(bytes_));
    buffer_.copy_out(now.data(), bytes_);
    return bytes_ == 0 || std::memcmp(now.data(), image_.data(), to_size(bytes_)) == 0;
  }
  template <class T>
  T* as() const {
    return buffer_.template as<T>();
  }
  std::byte* data() const { return buffer_.data(); }
  Index bytes() const { return bytes_; }
  Index room() const { return bytes_ + guard_; }

 private:
  static constexpr std::byte mark{0xa5};

  void place(Index bytes, Index guard) {
    bytes_ = bytes;
    guard_ = guard;
    if (buffer_.bytes() < bytes + guard) buffer_ = exec::Buffer<Place>(place_, bytes + guard);
    buffer_.copy_in(image_.data(), bytes);
    const std::vector<std::byte> end(to_size(guard), mark);
    buffer_.copy_in(end.data(), guard, bytes);
  }

  Place place_;
  exec::Buffer<Place> buffer_;
  std::vector<std::byte> image_;
  Index bytes_ = 0, guard_ = 0;
};

}  // namespace hybridmoe::check
