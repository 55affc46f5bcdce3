#pragma once
/// @file atomic_file.hpp
/// Replacing a file so that at every moment, kill or power cut included, either the old or the new content is there, complete:
/// a temporary file in the same directory is written, synced, renamed onto the file, and the directory is synced. The file is a
/// new one each time: with the permissions of a new file, and in place of a symbolic link of that name, not behind it.

#include <utility>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/io/default_system.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// The new content of a file, until commit() puts it in place. Destroyed without a commit, it removes the temporary file. The
/// temporary file's name is fixed (a killed writer's remains are reused) and locked (a second writer gets an error).
class AtomicFile {
 public:
  static constexpr std::string_view suffix = ".incomplete";

  static Result<AtomicFile> create(std::string path, System& system = default_system()) {
    AtomicFile file(std::move(path), system);
    // Between open and lock another writer may have renamed the file we opened: then look again.
    for (int attempt = 0; attempt < 100; ++attempt) {
      Result<bool> outcome = file.acquire();
      if (!outcome) return std::move(outcome).error();
      if (outcome.value()) return Result<AtomicFile>(std::move(file));
    }
    return Error{.code = Code::file_unwritable, .what = "another writer is saving this file", .where = file.path_};
  }
  AtomicFile(AtomicFile&& other) noexcept
      : path_(std::move(other.path_)),
        temporary_(std::move(other.temporary_)),
        system_(other.system_),
        handle_(std::exchange(other.handle_, -1)),
        owned_(std::exchange(other.owned_, false)),
        written_(other.written_) {}
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile() { abandon(); }

  /// Appends.
  Status write(const void* from, Index bytes) {
    if (!owned_) return Error{.code = Code::bad_argument, .what = "the file is already committed or given up", .where = path_};
    const auto* next = static_cast<const std::byte*>(from);
    while (bytes > 0) {
      const Index piece = smaller(bytes, Index{1} << 30);
      const Index done = uninterrupted([&] { return system_->write(handle_, next, piece); });
      if (done <= 0) {
        const Error error = system_failure(Code::file_unwritable, "writing failed; the old file is untouched",
                                           path_ + ": byte " + std::to_string(written_), done == 0 ? -EIO : done);
        abandon();
        return error;
      }
      next += done;
      bytes -= done;
      written_ += done;
    }
    return Done{};
  }

  /// Puts the content in place. Any error but the last leaves the old file as it was.
  Status commit() {
    if (!owned_) return Error{.code = Code::bad_argument, .what = "the file is already committed or given up", .where = path_};
    int outcome = uninterrupted([&] { return system_->sync(handle_); });
    if (outcome < 0) return give_up("syncing failed; the old file is untouched", outcome);
    // The lock is kept until after the rename: nobody else may write to the temporary file that is about to become the file.
    if (!system_->renames_open_files()) {
      outcome = system_->close(std::exchange(handle_, -1));
      if (outcome < 0 && outcome != -EINTR) return give_up("closing failed; the old file is untouched", outcome);
    }
    outcome = uninterrupted([&] { return system_->rename(temporary_.c_str(), path_.c_str()); });
    if (outcome < 0) return give_up("renaming failed; the old file is untouched", outcome);
    owned_ = false;
    if (handle_ >= 0) outcome = system_->close(std::exchange(handle_, -1));  // never twice: it may be somebody else's by then
    if (outcome < 0 && outcome != -EINTR) return late_error(outcome);
    outcome = sync_directory();
    if (outcome < 0) return late_error(outcome);
    return Done{};
  }

  const std::string& path() const { return path_; }
  const std::string& temporary_path() const { return temporary_; }
  Index written() const { return written_; }

 private:
  AtomicFile(std::string path, System& system)
      : path_(std::move(path)), temporary_(path_ + std::string(suffix)), system_(&system) {}

  /// Opens and locks the temporary file; false if it was renamed away meanwhile.
  Result<bool> acquire() {
    handle_ = uninterrupted([&] { return system_->open(temporary_.c_str(), Access::write); });
    if (handle_ < 0) {
      return system_failure(Code::file_unwritable, "the temporary file cannot be created", temporary_,
                            std::exchange(handle_, -1));
    }
    int outcome = uninterrupted([&] { return system_->lock(handle_); });
    if (outcome == -EWOULDBLOCK) return refuse("another writer is saving this file", outcome);
    // File systems without locks (ENOLCK and its kin) go unprotected against a second writer.
    FileFacts ours, named;
    outcome = uninterrupted([&] { return system_->facts(handle_, ours); });
    if (outcome >= 0 && !ours.regular) return refuse("the temporary file's name is taken by something else", -EEXIST);
    if (outcome >= 0) outcome = uninterrupted([&] { return system_->facts(temporary_.c_str(), named); });
    if (outcome < 0 && outcome != -ENOENT) {
      owned_ = true;
      return give_up("the temporary file cannot be examined", outcome);
    }
    if (outcome == -ENOENT || ours.device != named.device || ours.number != named.number) {
      system_->close(std::exchange(handle_, -1));
      return false;
    }
    owned_ = true;
    outcome = uninterrupted([&] { return system_->truncate(handle_); });
    if (outcome < 0) return give_up("the temporary file cannot be emptied", outcome);
    return true;
  }
  Error refuse(std::string_view what, Index number) {
    system_->close(std::exchange(handle_, -1));
    return system_failure(Code::file_unwritable, what, temporary_, number);
  }
  Error give_up(std::string_view what, Index number) {
    abandon();
    return system_failure(Code::file_unwritable, what, path_, number);
  }
  Error late_error(Index number) const {
    return system_failure(Code::file_unwritable, "the new file is in place, but a power cut might still undo it", path_, number);
  }
  int sync_directory() {
    const std::size_t slash = path_.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
    const Handle handle = uninterrupted([&] { return system_->open(directory.c_str(), Access::directory); });
    if (handle < 0) return handle == -EACCES ? 0 : handle;  // a directory we may write to but not list
    const int outcome = uninterrupted([&] { return system_->sync(handle); });
    system_->close(handle);
    return outcome == -EINVAL || outcome == -ENOTSUP ? 0 : outcome;  // file systems that have nothing to sync there
  }
  /// Removes the temporary file, then lets go of its lock.
  void abandon() {
    const auto close = [this] {
      if (handle_ >= 0) system_->close(std::exchange(handle_, -1));
    };
    if (!system_->renames_open_files()) close();
    if (owned_) uninterrupted([&] { return system_->remove(temporary_.c_str()); });
    owned_ = false;
    close();
  }

  std::string path_, temporary_;
  System* system_;
  Handle handle_ = -1;
  bool owned_ = false;  ///< the temporary file is ours, locked and in its place
  Index written_ = 0;
};

/// Replaces a whole file with `content`.
inline Status write_file(std::string path, std::string_view content, System& system = default_system()) {
  Result<AtomicFile> file = AtomicFile::create(std::move(path), system);
  if (!file) return std::move(file).error();
  const Status outcome = file->write(content.data(), to_index(content.size()));
  if (!outcome) return outcome;
  return file->commit();
}

}  // namespace hybridmoe::io
