#pragma once
/// @file system_stdio.hpp
/// System where there is no POSIX: the C library's files. It cannot lock, sync a directory, tell a pipe from a file or replace a
/// file in one step; what it cannot do it leaves out, so a crash between renaming the old file (to `.replaced`) and renaming the
/// new one leaves both under other names; the new one is complete by then.

#include <cstdio>

#include <atomic>

#include <hybridmoe/io/system.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

class StdioSystem final : public System {
 public:
  Handle open(const char* path, Access access) override {
    if (access == Access::directory) return directory;
    std::FILE* file = std::fopen(path, access == Access::read ? "rb" : "wb");
    if (file == nullptr) return fault();
    std::setvbuf(file, nullptr, _IONBF, 0);
    for (int i = 0; i < most_files; ++i) {
      std::FILE* free = nullptr;
      if (files_[i].compare_exchange_strong(free, file)) return i;
    }
    std::fclose(file);
    return -EMFILE;
  }
  int facts(Handle file, FileFacts& facts) override {
    std::FILE* stream = files_[file];
    if (std::fseek(stream, 0, SEEK_END) != 0) return fault();
    const long size = std::ftell(stream);
    if (size < 0) return fault();
    facts = {true, Index{size}, 0, 0};
    return 0;
  }
  int facts(const char*, FileFacts& facts) override {
    facts = {true, 0, 0, 0};
    return 0;
  }
  Index read(Handle file, void* to, Index bytes, Index offset) override {
    std::FILE* stream = files_[file];
    if (std::fseek(stream, static_cast<long>(offset), SEEK_SET) != 0) return fault();
    const std::size_t done = std::fread(to, 1, to_size(bytes), stream);
    return done == 0 && std::ferror(stream) != 0 ? fault() : to_index(done);
  }
  Index write(Handle file, const void* from, Index bytes) override {
    const std::size_t done = std::fwrite(from, 1, to_size(bytes), files_[file]);
    return done == 0 && bytes > 0 ? fault() : to_index(done);
  }
  int lock(Handle) override { return 0; }
  int truncate(Handle) override { return 0; }  // opening to write emptied the file
  int sync(Handle file) override { return file == directory || std::fflush(files_[file]) == 0 ? 0 : fault(); }
  int close(Handle file) override {
    if (file == directory) return 0;
    std::FILE* stream = files_[file].exchange(nullptr);
    return stream != nullptr && std::fclose(stream) == 0 ? 0 : fault();
  }
  int rename(const char* from, const char* to) override {
    if (std::rename(from, to) == 0) return 0;
    // Some systems refuse to rename onto a file: then it steps aside, and comes back if that was not the reason.
    const std::string aside = std::string(to) + ".replaced";
    std::remove(aside.c_str());
    if (std::rename(to, aside.c_str()) != 0) return fault();
    if (std::rename(from, to) != 0) {
      const int error = fault();
      std::rename(aside.c_str(), to);
      return error;
    }
    std::remove(aside.c_str());
    return 0;
  }
  bool renames_open_files() const override { return false; }  // Windows does not
  int remove(const char* path) override { return std::remove(path) == 0 ? 0 : fault(); }

 private:
  static constexpr int most_files = 64;
  static constexpr Handle directory = most_files;
  static int fault() { return errno > 0 ? -errno : -EIO; }
  std::atomic<std::FILE*> files_[most_files]{};
};

}  // namespace hybridmoe::io
