#pragma once
/// @file support.hpp
/// What the tests of io share: a directory of their own, files in memory, and a system that fails when it is told to.

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <hybridmoe/io/default_system.hpp>

namespace support {

using hybridmoe::Index;
using hybridmoe::to_index;
using hybridmoe::to_size;
namespace io = hybridmoe::io;

/// The checked-in fixtures.
inline std::string golden(const std::string& file) {
#if defined(HYBRIDMOE_TEST_DATA)
  return HYBRIDMOE_TEST_DATA "/golden/" + file;
#else
  const std::string here = __FILE__;
  const std::size_t slash = here.rfind('/');
  return (slash == std::string::npos ? "." : here.substr(0, slash)) + "/../golden/" + file;
#endif
}

/// Reads and writes by another way than the library's.
inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void spill(const std::string& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }
inline bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

/// A directory that disappears with everything in it (one level).
class Directory {
 public:
  Directory() {
    const char* base = std::getenv("TMPDIR");
    std::string pattern = std::string(base == nullptr ? "/tmp" : base) + "/hybridmoe_io_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    for (const std::string& name : names()) {
      if (::unlink((*this / name).c_str()) != 0) ::rmdir((*this / name).c_str());
    }
    ::rmdir(path_.c_str());
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    DIR* directory = ::opendir(path_.c_str());
    while (const dirent* entry = ::readdir(directory)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") result.push_back(name);
    }
    ::closedir(directory);
    return result;
  }

 private:
  std::string path_;
};

/// One file, in memory: whatever path is opened.
class Memory final : public io::System {
 public:
  explicit Memory(std::string text) : content(std::move(text)) {}
  std::string content;

  io::Handle open(const char*, io::Access) override { return 3; }
  int facts(io::Handle, io::FileFacts& facts) override { return facts = {true, static_cast<Index>(content.size()), 0, 0}, 0; }
  int facts(const char*, io::FileFacts& facts) override { return this->facts(3, facts); }
  Index read(io::Handle, void* to, Index bytes, Index offset) override {
    const Index part = std::clamp(static_cast<Index>(content.size()) - offset, Index{0}, bytes);
    std::memcpy(to, content.data() + offset, static_cast<std::size_t>(part));
    return part;
  }
  Index write(io::Handle, const void*, Index) override { return -EROFS; }
  int lock(io::Handle) override { return 0; }
  int truncate(io::Handle) override { return -EROFS; }
  int sync(io::Handle) override { return 0; }
  int close(io::Handle) override { return 0; }
  int rename(const char*, const char*) override { return -EROFS; }
  int remove(const char*) override { return -EROFS; }
};

/// The machine's files, counted; `interfere(call)` may replace a call's outcome: 0 lets it happen, a negative number is its
/// result instead, and a positive one bounds the bytes of a read or write.
class Watched final : public io::System {
 public:
  std::function<Index(int)> interfere = [](int) { return Index{0}; };
  int calls = 0;
  int open_handles = 0;
  int open_at_rename = 0;

  explicit Watched(io::System& real = io::default_system()) : real_(real) {}

  io::Handle open(const char* path, io::Access access) override {
    const int handle = plain([&] { return real_.open(path, access); });
    open_handles += handle >= 0;
    return handle;
  }
  int facts(io::Handle file, io::FileFacts& facts) override {
    return plain([&] { return real_.facts(file, facts); });
  }
  int facts(const char* path, io::FileFacts& facts) override {
    return plain([&] { return real_.facts(path, facts); });
  }
  Index read(io::Handle file, void* to, Index bytes, Index offset) override {
    const Index order = interfere(calls++);
    return order < 0 ? order : real_.read(file, to, order > 0 ? std::min(order, bytes) : bytes, offset);
  }
  Index write(io::Handle file, const void* from, Index bytes) override {
    const Index order = interfere(calls++);
    return order < 0 ? order : real_.write(file, from, order > 0 ? std::min(order, bytes) : bytes);
  }
  int lock(io::Handle file) override {
    return plain([&] { return real_.lock(file); });
  }
  int truncate(io::Handle file) override {
    return plain([&] { return real_.truncate(file); });
  }
  int sync(io::Handle file) override {
    return plain([&] { return real_.sync(file); });
  }
  /// Closing always closes, even where it reports a failure: that is what systems do.
  int close(io::Handle file) override {
    --open_handles;
    const Index order = interfere(calls++);
    const int result = real_.close(file);
    return order < 0 ? static_cast<int>(order) : result;
  }
  int rename(const char* from, const char* to) override {
    open_at_rename = open_handles;
    return plain([&] { return real_.rename(from, to); });
  }
  bool renames_open_files() const override { return real_.renames_open_files(); }
  int remove(const char* path) override {
    return plain([&] { return real_.remove(path); });
  }

 private:
  template <class Call>
  int plain(const Call& call) {
    const Index order = interfere(calls++);
    return order < 0 ? static_cast<int>(order) : call();
  }
  io::System& real_;
};

/// A file of the format from its parts.
inline std::string safetensors(const std::string& header, const std::string& data = {}) {
  const std::uint64_t size = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &size, 8);
  return file + header + data;
}

/// A small stream of pseudo-random numbers (splitmix64, Steele et al. 2014): tests repeat exactly everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t operator()() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  /// 0 … below−1.
  Index below(Index below) { return static_cast<Index>((*this)() % static_cast<std::uint64_t>(below)); }
  bool chance(double p) { return static_cast<double>((*this)() >> 11) * 0x1p-53 < p; }

 private:
  std::uint64_t state_;
};

}  // namespace support
