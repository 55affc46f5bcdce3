#pragma once
/// @file region.hpp
/// Memory of a place that knows what may happen to it: filled beforehand, with a guard behind it.

#include <cstring>
#include <vector>

#include <hybridmoe/exec/buffer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// A place's memory (`exec::Memory`), whatever the place.
class PlaceMemory {
 public:
  virtual ~PlaceMemory() = default;
  virtual std::byte* allocate(Index bytes) const = 0;
  virtual void release(std::byte* memory) const = 0;  ///< null: nothing
  virtual void copy_in(std::byte* to, const void* host, Index bytes) const = 0;
  virtual void copy_out(void* host, const std::byte* from, Index bytes) const = 0;
  virtual void fence() const = 0;
};

template <class Place>
class MemoryOf final : public PlaceMemory {
 public:
  explicit MemoryOf(const Place& place) : place_(place) {}
  std::byte* allocate(Index bytes) const override { return Memory::allocate(place_, bytes); }
  void release(std::byte* memory) const override {
    if (memory != nullptr) Memory::release(place_, memory);
  }
  void copy_in(std::byte* to, const void* host, Index bytes) const override { Memory::copy_in(place_, to, host, bytes); }
  void copy_out(void* host, const std::byte* from, Index bytes) const override { Memory::copy_out(place_, host, from, bytes); }
  void fence() const override { place_.fence(); }

 private:
  using Memory = exec::Memory<Place>;
  Place place_;
};

/// `bytes` for a layer to use and a guard that nobody may touch.
class Region {
 public:
  explicit Region(const PlaceMemory& memory) : memory_(memory) {}
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { memory_.release(data_); }

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
    memory_.copy_out(result.data(), data_, bytes_);
    return result;
  }
  /// Whether the guard is as it was.
  bool guarded() const {
    std::vector<std::byte> end(to_size(guard_));
    memory_.copy_out(end.data(), data_ + bytes_, guard_);
    for (const std::byte b : end) {
      if (b != mark) return false;
    }
    return true;
  }
  /// Whether the bytes are still what they were made.
  bool unchanged() const {
    std::vector<std::byte> now(to_size(bytes_));
    memory_.copy_out(now.data(), data_, bytes_);
    return bytes_ == 0 || std::memcmp(now.data(), image_.data(), to_size(bytes_)) == 0;
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  std::byte* data() const { return data_; }
  Index bytes() const { return bytes_; }
  Index room() const { return bytes_ + guard_; }

 private:
  static constexpr std::byte mark{0xa5};

  void place(Index bytes, Index guard) {
    bytes_ = bytes;
    guard_ = guard;
    if (room_ < bytes + guard) {
      memory_.release(data_);
      data_ = memory_.allocate(room_ = bytes + guard);
    }
    memory_.copy_in(data_, image_.data(), bytes);
    const std::vector<std::byte> end(to_size(guard), mark);
    memory_.copy_in(data_ + bytes, end.data(), guard);
  }

  const PlaceMemory& memory_;
  std::byte* data_ = nullptr;
  std::vector<std::byte> image_;
  Index bytes_ = 0, guard_ = 0, room_ = 0;
};

}  // namespace hybridmoe::check
