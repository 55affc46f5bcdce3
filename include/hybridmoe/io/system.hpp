#pragma once
/// @file system.hpp
/// The few calls to the operating system that files need, behind an interface, so that a test can let any of them fail, come up
/// short, be interrupted or wait. Results follow the kernel's habit: a negative value is −errno.

#include <cerrno>
#include <string>
#include <system_error>

#include <hybridmoe/core/error.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// What a call to open is for.
enum class Access {
  read,      ///< an existing file; never waits for a pipe's other end
  write,     ///< created if it is missing, not emptied; a symbolic link is not followed
  directory  ///< a directory, to sync it
};

/// What the system knows about a file.
struct FileFacts {
  bool regular = false;
  Index size = 0;
  std::uint64_t device = 0, number = 0;  ///< together they tell files apart
};

/// A file that is open: what System::open returned.
using Handle = int;

/// One virtual function for each call; none retries or loops.
class System {
 public:
  virtual Handle open(const char* path, Access access) = 0;
  virtual int facts(Handle file, FileFacts& facts) = 0;
  virtual int facts(const char* path, FileFacts& facts) = 0;
  /// Both may do less than they are asked for; reading 0 bytes means the end of the file.
  virtual Index read(Handle file, void* to, Index bytes, Index offset) = 0;
  virtual Index write(Handle file, const void* from, Index bytes) = 0;
  /// Takes the file for this handle alone, or returns −EWOULDBLOCK if another holds it. Closing lets go.
  virtual int lock(Handle file) = 0;
  virtual int truncate(Handle file) = 0;
  virtual int sync(Handle file) = 0;
  virtual int close(Handle file) = 0;
  virtual int rename(const char* from, const char* to) = 0;
  /// Whether rename() and remove() work on a file that is open. Where they do not, AtomicFile closes it first.
  virtual bool renames_open_files() const { return true; }
  virtual int remove(const char* path) = 0;

 protected:
  System() = default;
  System(const System&) = default;
  System& operator=(const System&) = default;
  ~System() = default;
};

/// How often a call that a signal interrupted is tried again before that counts as a failure.
inline constexpr int most_interruptions = 1000;

/// call(), again while it reports an interruption.
template <class Call>
auto uninterrupted(const Call& call) {
  auto result = call();
  for (int i = 0; result == -EINTR && i < most_interruptions; ++i) result = call();
  return result;
}

/// An error with the system's own words as detail. number: what a System call returned.
inline Error system_failure(Code code, std::string_view what, std::string where, Index number) {
  Error error{.code = code, .what = what, .where = std::move(where)};
  error.detail = std::generic_category().message(static_cast<int>(-number));
  return error;
}

}  // namespace hybridmoe::io
