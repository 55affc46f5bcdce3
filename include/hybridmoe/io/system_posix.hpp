#pragma once
/// @file system_posix.hpp
/// System on POSIX: one call each.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include <hybridmoe/io/system.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

class PosixSystem final : public System {
 public:
  Handle open(const char* path, Access access) override {
    int flags = O_CLOEXEC | O_NOCTTY;
    if (access == Access::read) flags |= O_RDONLY | O_NONBLOCK;  // a named pipe must not make us wait for a writer
    if (access == Access::write) flags |= O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK;
    if (access == Access::directory) flags |= O_RDONLY | O_DIRECTORY;
    return result(::open(path, flags, 0666));
  }
  int facts(Handle file, FileFacts& facts) override {
    struct stat status {};
    return translate(::fstat(file, &status), status, facts);
  }
  int facts(const char* path, FileFacts& facts) override {
    struct stat status {};
    return translate(::lstat(path, &status), status, facts);
  }
  Index read(Handle file, void* to, Index bytes, Index offset) override {
    return result(Index{::pread(file, to, to_size(bytes), static_cast<off_t>(offset))});
  }
  Index write(Handle file, const void* from, Index bytes) override { return result(Index{::write(file, from, to_size(bytes))}); }
  int lock(Handle file) override { return result(::flock(file, LOCK_EX | LOCK_NB)); }
  int truncate(Handle file) override { return result(::ftruncate(file, 0)); }
  int sync(Handle file) override {
#if defined(__APPLE__)
    if (::fcntl(file, F_FULLFSYNC) == 0) return 0;  // fsync alone leaves the data in the drive's cache there
#endif
    return result(::fsync(file));
  }
  int close(Handle file) override { return result(::close(file)); }
  int rename(const char* from, const char* to) override { return result(std::rename(from, to)); }
  int remove(const char* path) override { return result(::unlink(path)); }

 private:
  template <class T>
  static T result(T value) {
    return value < 0 ? static_cast<T>(-errno) : value;
  }
  static int translate(int outcome, const struct stat& status, FileFacts& facts) {
    if (outcome < 0) return -errno;
    facts.regular = S_ISREG(status.st_mode);
    facts.size = static_cast<Index>(status.st_size);
    facts.device = static_cast<std::uint64_t>(status.st_dev);
    facts.number = static_cast<std::uint64_t>(status.st_ino);
    return 0;
  }
};

}  // namespace hybridmoe::io
