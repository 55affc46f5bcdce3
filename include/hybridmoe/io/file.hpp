#pragma once
/// @file file.hpp
/// Reading regular files, whole or in ranges. Pipes, directories and devices are refused, interruptions and short reads are
/// continued, and nothing is allocated before the size is known to be sane.

#include <utility>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/io/default_system.hpp>
#include <hybridmoe/io/heap_array.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// A regular file, open for reading. Its size is the one it had when it was opened: the file behind it may be replaced by a
/// rename (the old content stays readable), but if it is shortened, reads report it.
class File {
 public:
  static Result<File> open(std::string path, System& system = default_system()) {
    const Handle handle = uninterrupted([&] { return system.open(path.c_str(), Access::read); });
    if (handle < 0) return system_failure(Code::file_unreadable, "the file cannot be opened", std::move(path), handle);
    File file(std::move(path), system, handle);
    FileFacts facts;
    const int outcome = uninterrupted([&] { return system.facts(handle, facts); });
    if (outcome < 0) return system_failure(Code::file_unreadable, "the file cannot be examined", file.path_, outcome);
    if (!facts.regular) return Error{.code = Code::file_unreadable, .what = "this is not a regular file", .where = file.path_};
    file.size_ = facts.size;
    return Result<File>(std::move(file));
  }
  File(File&& other) noexcept
      : path_(std::move(other.path_)), system_(other.system_), handle_(std::exchange(other.handle_, -1)), size_(other.size_) {}
  File& operator=(File&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(system_, other.system_);
    std::swap(handle_, other.handle_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~File() {
    if (handle_ >= 0) system_->close(handle_);
  }

  const std::string& path() const { return path_; }
  Index size() const { return size_; }

  /// Exactly `bytes` bytes from byte `offset` on.
  Status read(Index offset, void* to, Index bytes) const {
    if (offset < 0 || bytes < 0 || offset > size_ || bytes > size_ - offset) {
      return Error{.code = Code::bad_argument, .what = "the range lies outside the file", .where = place(offset), .got = bytes};
    }
    auto* next = static_cast<std::byte*>(to);
    while (bytes > 0) {
      const Index piece = smaller(bytes, Index{1} << 30);
      const Index done = uninterrupted([&] { return system_->read(handle_, next, piece, offset); });
      if (done < 0) return system_failure(Code::file_unreadable, "reading failed", place(offset), done);
      if (done == 0) {
        return Error{.code = Code::file_damaged, .what = "the file became shorter while it was read", .where = place(offset)};
      }
      next += done;
      offset += done;
      bytes -= done;
    }
    return Done{};
  }

 private:
  File(std::string path, System& system, Handle handle) : path_(std::move(path)), system_(&system), handle_(handle) {}
  std::string place(Index offset) const { return path_ + ": byte " + std::to_string(offset); }

  std::string path_;
  System* system_;
  Handle handle_;
  Index size_ = 0;
};

/// A whole file; an empty one, or one of more than `most` bytes, is an error before anything is allocated.
inline Result<HeapArray<char>> read_file(std::string path, Index most, System& system = default_system()) {
  Result<File> file = File::open(std::move(path), system);
  if (!file) return std::move(file).error();
  const Index size = file->size();
  if (size == 0) return Error{.code = Code::file_damaged, .what = "the file is empty", .where = file->path()};
  if (size > most) {
    return Error{.code = Code::file_unreadable,
                 .what = "the file is larger than allowed",
                 .where = file->path(),
                 .got = size,
                 .expected = most};
  }
  HeapArray<char> content(size);
  if (!content) return out_of_memory(file->path(), size);
  const Status outcome = file->read(0, content.data(), size);
  if (!outcome) return outcome.error();
  return Result<HeapArray<char>>(std::move(content));
}

}  // namespace hybridmoe::io
