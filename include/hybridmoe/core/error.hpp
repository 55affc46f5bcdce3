#pragma once
/// @file error.hpp
/// What went wrong, where, what was got and what was expected. Errors are values: no header of the library throws.

#include <string>
#include <string_view>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// A text followed by a number: "step 12". (Appending keeps g++ 12 from a false warning about overlapping copies.)
inline std::string numbered(std::string_view label, Index number) {
  std::string text(label);
  text += std::to_string(number);
  return text;
}

enum class Code {
  bad_argument,     ///< a value the caller passed is outside its range
  end_of_context,   ///< a sequence has no position left
  out_of_memory,    ///< an allocation or a caller's arena is too small
  file_unreadable,  ///< the system refused to open or read a file
  file_unwritable,  ///< the system refused to create, write, sync or rename a file
  file_damaged,     ///< a file breaks its format
  file_mismatch,    ///< a sound file that belongs to another model or another run
  not_finite,       ///< NaN or infinity where training cannot go on
};

/// An error. `what` is a fixed sentence (so that making one allocates nothing); `where` and `detail` are optional.
struct Error {
  Code code = Code::bad_argument;
  std::string_view what;
  std::string where{};
  Index got = unset;
  Index expected = unset;
  std::string detail{};

  static constexpr Index unset = INT64_MIN;

  /// One readable text: `where: what (got 3, expected 4)` and the details on lines of their own.
  std::string message() const {
    std::string text;
    if (!where.empty()) text += where + ": ";
    text += what;
    if (got != unset || expected != unset) {
      text += " (";
      if (got != unset) text += numbered("got ", got);
      if (got != unset && expected != unset) text += ", ";
      if (expected != unset) text += numbered("expected ", expected);
      text += ")";
    }
    if (!detail.empty()) text += "\n" + detail;
    return text;
  }
};

}  // namespace hybridmoe
