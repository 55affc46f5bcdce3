#pragma once
/// @file result.hpp
/// A value or an Error; the library's way to fail.

#include <new>
#include <type_traits>
#include <utility>

#include <hybridmoe/core/error.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

struct Done {};  ///< the value of an operation that only succeeds or fails

/// Either a T or an Error. Test it before use: `if (!result) report(result.error().message());`
/// Written out, since a std::variant for every model that something is made of takes the compiler longer than the model.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)), good_(true) {}
  Result(Error error) : error_(std::move(error)), good_(false) {}
  Result(const Result& other)
    requires std::is_copy_constructible_v<T>
      : good_(other.good_) {
    if (good_)
      new (&value_) T(other.value_);
    else
      new (&error_) Error(other.error_);
  }
  Result(Result&& other) noexcept(std::is_nothrow_move_constructible_v<T>) : good_(other.good_) {
    if (good_)
      new (&value_) T(std::move(other.value_));
    else
      new (&error_) Error(std::move(other.error_));
  }
  Result& operator=(Result other) {
    this->~Result();
    return *new (this) Result(std::move(other));
  }
  ~Result() {
    if (good_)
      value_.~T();
    else
      error_.~Error();
  }

  explicit operator bool() const { return good_; }
  /// The value. Only after a test; a wrong use stops in debug builds.
  T& value() & { return checked(), value_; }
  const T& value() const& { return checked(), value_; }
  T&& value() && { return checked(), std::move(value_); }
  const Error& error() const& { return checked_error(), error_; }
  Error&& error() && { return checked_error(), std::move(error_); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  void checked() const { HYBRIDMOE_ASSERT(good_); }
  void checked_error() const { HYBRIDMOE_ASSERT(!good_); }
  union {
    T value_;
    Error error_;
  };
  bool good_;
};

using Status = Result<Done>;

}  // namespace hybridmoe
