#pragma once
/// @file result.hpp
/// A value or an Error; the library's way to fail.

#include <new>
#include <utility>
#include <variant>

#include <hybridmoe/core/error.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

struct Done {};  ///< the value of an operation that only succeeds or fails

/// Either a T or an Error. Test it before use: `if (!result) report(result.error().message());`
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : either_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : either_(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const { return either_.index() == 0; }
  /// The value. Only after a test; a wrong use stops in debug builds.
  T& value() & { return *checked(std::get_if<0>(&either_)); }
  const T& value() const& { return *checked(std::get_if<0>(&either_)); }
  T&& value() && { return std::move(*checked(std::get_if<0>(&either_))); }
  const Error& error() const& { return *checked(std::get_if<1>(&either_)); }
  Error&& error() && { return std::move(*checked(std::get_if<1>(&either_))); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  template <class P>
  static P* checked(P* pointer) {
    HYBRIDMOE_ASSERT(pointer != nullptr);
    return pointer;
  }
  std::variant<T, Error> either_;
};

using Status = Result<Done>;

}  // namespace hybridmoe
