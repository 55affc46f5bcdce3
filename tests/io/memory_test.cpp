// Memory: opening a file takes at most the file's size plus 64 MiB, loading and saving take no copy of the data, and when memory
// runs out, at whatever allocation, nothing leaks and the next attempt works.
#include <catch2/catch_test_macros.hpp>

#include <sys/resource.h>
#include <sys/wait.h>

#include <cstdio>
#include <new>

#include <hybridmoe/io/load.hpp>
#include <hybridmoe/io/safetensors.hpp>

#include "support.hpp"

using namespace hybridmoe;
using io::SafetensorsFile;
using io::Shape;
using support::Memory;
using support::safetensors;

namespace {

Index live = 0, peak = 0;  // bytes from operator new
Index until_failure = -1;  // allocations that still succeed; below 0: all
bool fail_forever = false;
Index refused = 0;

[[gnu::noinline]] void* obtain(std::size_t bytes) {
  if (until_failure == 0) {
    ++refused;
    if (!fail_forever) until_failure = -1;
    return nullptr;
  }
  if (until_failure > 0) --until_failure;
  auto* const memory = static_cast<std::size_t*>(std::malloc(bytes + 16));
  if (memory == nullptr) return nullptr;
  *memory = bytes;
  live += static_cast<Index>(bytes);
  peak = std::max(peak, live);
  return memory + 2;
}
[[gnu::noinline]] void give_back(void* memory) {
  if (memory == nullptr) return;
  auto* const start = static_cast<std::size_t*>(memory) - 2;
  live -= static_cast<Index>(*start);
  std::free(start);
}

}  // namespace

void* operator new(std::size_t bytes) {
  if (void* memory = obtain(bytes)) return memory;
#if defined(__cpp_exceptions)
  throw std::bad_alloc{};
#else
  std::abort();
#endif
}
void* operator new[](std::size_t bytes) { return operator new(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return obtain(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return obtain(bytes); }
void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete[](void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::size_t) noexcept { give_back(memory); }

namespace {

/// The most memory held during f(), beyond what was held before.
template <class Body>
Index most_held(const Body& f) {
  const Index before = live;
  peak = live;
  f();
  return peak - before;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr Index large = 4'000'000;
#else
constexpr Index large = 20'000'000;
#endif
constexpr Index constant = Index{64} << 20;

std::string many(const std::string& unit, Index bytes) {
  std::string text;
  text.reserve(to_size(bytes) + unit.size());
  while (to_index(text.size()) < bytes) text += unit;
  return text;
}

std::string many_tensors(Index bytes) {
  std::string header = "{";
  for (Index i = 0; to_index(header.size()) < bytes && i < 1'000'000; ++i) {
    header += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[" +
              std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  return header + "}";
}

}  // namespace

TEST_CASE("opening takes at most the file's size and 64 MiB, whatever the header says") {
  const auto bounded = [](const std::string& bytes, bool sound) {
    Memory memory(bytes);
    const Index held = most_held([&] { CHECK(static_cast<bool>(SafetensorsFile::open("memory", memory)) == sound); });
    CHECK(held <= to_index(bytes.size()) + constant);
  };
  const std::string header = many_tensors(large);
  bounded(safetensors(header, std::string(to_size(std::count(header.begin(), header.end(), ':')) / 4, 'd')), true);
  bounded(safetensors("{\"__metadata__\":{\"k\":\"" + many("\\u00e9", large) + "\"}}"), true);
  bounded(safetensors("{" + many(" ", large) + "}"), true);
  bounded(safetensors("{\"__metadata__\":{" + many("\"\":\"\",", large)), false);
  bounded(safetensors("{" + many("\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", large)), false);
  bounded(safetensors(many("[", large)), false);
  bounded(safetensors("{\"x\":{\"dtype\":\"U8\",\"shape\":" + many("[", large)), false);
  bounded(safetensors("{\"" + many("n", large) + "\":{}}"), false);
  bounded(safetensors("{\"x\":{\"dtype\":\"" + many("F", large) + "\"}}"), false);
  bounded(safetensors("{\"x\":{\"" + many("\\u0064", large) + "\":1}}"), false);
}

TEST_CASE("small files take little, however large the numbers in them") {
  const auto held = [](const std::string& bytes) {
    Memory memory(bytes);
    return most_held([&] { static_cast<void>(SafetensorsFile::open("memory", memory)); });
  };
  std::string lying(8, '\0');
  lying[0] = '\xFF', lying[1] = '\xE0', lying[2] = '\xF5', lying[3] = '\x05';  // announces 99,999,999 bytes
  CHECK(held(lying + "{}") < 4096);
  CHECK(held(safetensors("{\"x\":{\"dtype\":\"U8\",\"shape\":[1099511627776],\"data_offsets\":[0,1099511627776]}}")) < 8192);
  CHECK(held(safetensors("{\"x\":{\"dtype\":\"U8\",\"shape\":[0,1099511627776],\"data_offsets\":[0,0]}}")) < 8192);
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_CASE("the resident set keeps to the bound as well") {
  support::Directory directory;
  {
    const std::string header = many_tensors(large);
    support::spill(directory / "file",
                   safetensors(header, std::string(to_size(std::count(header.begin(), header.end(), ':')) / 4, 'd')));
  }
  struct stat status {};
  REQUIRE(::stat((directory / "file").c_str(), &status) == 0);
  // A process of its own, whose high-water mark starts where this one's resident set is now.
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::FILE* clear = std::fopen("/proc/self/clear_refs", "w");  // 5: forget the high-water mark
    if (clear == nullptr || std::fputs("5", clear) < 0 || std::fclose(clear) != 0) ::_exit(77);
    const auto high_water = [] {
      std::FILE* text = std::fopen("/proc/self/status", "r");
      char line[256];
      long kilobytes = -1;
      while (text != nullptr && std::fgets(line, sizeof line, text) != nullptr) {
        if (std::sscanf(line, "VmHWM: %ld", &kilobytes) == 1) break;
      }
      if (text != nullptr) std::fclose(text);
      return kilobytes;
    };
    const long before = high_water();
    const Result<SafetensorsFile> file = SafetensorsFile::open(directory / "file");
    const long after = high_water();
    if (before < 0 || after < 0) ::_exit(77);
    if (!file || file->size() < 100'000) ::_exit(2);
    ::_exit(Index{after - before} * 1024 <= Index{status.st_size} + constant ? 0 : 1);
  }
  int outcome = 0;
  REQUIRE(::waitpid(child, &outcome, 0) == child);
  REQUIRE(WIFEXITED(outcome));
  if (WEXITSTATUS(outcome) == 77) SKIP("no /proc with a high-water mark that can be reset");
  CHECK(WEXITSTATUS(outcome) == 0);
}
#endif

TEST_CASE("loading and saving stream: no second copy of the data") {
  support::Directory directory;
  constexpr Index elements = 4'000'000;
  std::vector<std::uint16_t> half(to_size(elements), 0x3F80);
  std::vector<float> whole(to_size(elements));
  io::SafetensorsWriter writer;
  writer.add("w.weight", io::Dtype::bf16, Shape::of<2000, 2000>(), half.data());
  CHECK(most_held([&] { CHECK(writer.write(directory / "file", io::Checksums::whole_file)); }) < 100'000);
  CHECK(most_held([&] {
          const Result<SafetensorsFile> file = SafetensorsFile::open(directory / "file");
          REQUIRE(file);
          CHECK(file->compare_checksum());
          for (const bool transposed : {false, true}) {
            const io::Rule rules[] = {{.ours = "w.weight", .theirs = "w.weight", .transposed = transposed}};
            io::TensorList list;
            list.add("w.weight", Shape::of<2000, 2000>(), whole.data());
            CHECK(io::load_tensors(*file, list, io::Family{.name = "test", .rules = rules}));
          }
        }) < 400'000);
  CHECK(whole == std::vector<float>(to_size(elements), 1.0f));
}

#if defined(__cpp_exceptions)  // the standard library's strings and vectors have no other way to say so
TEST_CASE("when any allocation fails, once or for ever, nothing leaks and the next attempt works") {
  support::Directory directory;
  const std::string path = directory / "a path long enough not to fit into a string without an allocation";
  std::vector<float> values(100, 1.0f);
  io::SafetensorsWriter writer;
  writer.add("embedding.weight", Shape::of<10, 10>(), values.data());
  writer.metadata("step", "1");
  REQUIRE(writer.write(path, io::Checksums::whole_file));
  const std::string sound = support::slurp(path);
  const auto use = [&]() -> Status {
    const Result<SafetensorsFile> file = SafetensorsFile::open(path);
    if (!file) return file.error();
    if (Status intact = file->compare_checksum(); !intact) return intact;
    io::TensorList list;
    list.add("embedding.weight", Shape::of<10, 10>(), values.data());
    if (Status loaded = io::load_tensors(*file, list, io::own_names); !loaded) return loaded;
    return writer.write(path, io::Checksums::whole_file);
  };
  Index failures = 0, by_value = 0;
  for (const bool forever : {false, true}) {
    for (Index k = 0;; ++k) {
      const Index before = live;
      bool done = false, thrown = false;
      Code code = Code::bad_argument;
      fail_forever = forever;
      refused = 0;
      until_failure = k;
      try {
        const Status outcome = use();
        done = static_cast<bool>(outcome);
        if (!done) code = outcome.error().code;
      } catch (const std::bad_alloc&) {  // from the standard library's strings and vectors; ours return an Error
        thrown = true;
      }
      const bool never_failed = refused == 0;
      until_failure = -1;
      CHECK(live == before);
      CHECK(support::slurp(path) == sound);
      CHECK(directory.names().size() == 1);
      if (never_failed) {
        CHECK(done);
        break;
      }
      ++failures;
      if (!done && !thrown) {
        ++by_value;
        CHECK(code == Code::out_of_memory);
      }
      if (k > 10'000) FAIL("it never succeeds");
    }
    CHECK(use());
  }
  CHECK(failures > 20);
  CHECK(by_value >= 6);
}
#endif
