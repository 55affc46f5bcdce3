// Files under failure: every call to the system fails once or for ever, reads and writes come up short, signals interrupt, and
// writers are killed at every step. The old or the new content must be there each time.
#include <catch2/catch_test_macros.hpp>

#include <signal.h>
#include <sys/wait.h>

#include <hybridmoe/io/atomic_file.hpp>
#include <hybridmoe/io/file.hpp>
#include <hybridmoe/io/system_stdio.hpp>

#include "support.hpp"

using namespace hybridmoe;
using support::Directory;
using support::exists;
using support::slurp;
using support::spill;
using support::Watched;

namespace {

std::string text_of(const Result<io::HeapArray<char>>& content) {
  REQUIRE(content);
  return {content->begin(), content->end()};
}

const std::string old_text = "the old content";
const std::string new_text = std::string(100'000, 'n') + "the new content";

/// Two writes and a commit, as a program would save.
Status save(const std::string& path, io::System& system) {
  Result<io::AtomicFile> file = io::AtomicFile::create(path, system);
  if (!file) return file.error();
  if (Status done = file->write(new_text.data(), 10); !done) return done;
  if (Status done = file->write(new_text.data() + 10, to_index(new_text.size()) - 10); !done) return done;
  return file->commit();
}

int calls_of_save() {
  Directory directory;
  Watched system;
  REQUIRE(save(directory / "file", system));
  return system.calls;
}

}  // namespace

TEST_CASE("a file is read whole or in ranges") {
  Directory directory;
  spill(directory / "file", "0123456789");
  CHECK(text_of(io::read_file(directory / "file", 10)) == "0123456789");
  REQUIRE(::symlink((directory / "file").c_str(), (directory / "link").c_str()) == 0);
  CHECK(text_of(io::read_file(directory / "link", 10)) == "0123456789");
  const Result<io::File> file = io::File::open(directory / "file");
  REQUIRE(file);
  CHECK(file->size() == 10);
  char piece[3];
  REQUIRE(file->read(7, piece, 3));
  CHECK(std::string(piece, 3) == "789");
  REQUIRE(file->read(10, piece, 0));
  for (const auto& [at, count] : {std::pair<Index, Index>{8, 3}, {-1, 1}, {11, 0}, {0, -1}, {INT64_MAX, 1}, {1, INT64_MAX}}) {
    const Status read = file->read(at, piece, count);
    REQUIRE(!read);
    CHECK(read.error().what == "the range lies outside the file");
  }
}

TEST_CASE("what is not a sound regular file is refused at once, by name") {
  Directory directory;
  const auto fault = [](const std::string& path, Index most = 1 << 20) {
    const Result<io::HeapArray<char>> content = io::read_file(path, most);
    REQUIRE(!content);
    CHECK(content.error().where.starts_with(path));
    return std::string(content.error().what);
  };
  spill(directory / "empty", "");
  spill(directory / "large", "12345");
  REQUIRE(::mkfifo((directory / "pipe").c_str(), 0600) == 0);
  REQUIRE(::mkdir((directory / "folder").c_str(), 0700) == 0);
  REQUIRE(::symlink((directory / "nowhere").c_str(), (directory / "dangling").c_str()) == 0);
  REQUIRE(::symlink((directory / "loop").c_str(), (directory / "loop").c_str()) == 0);
  spill(directory / "sparse", "x");
  REQUIRE(::truncate((directory / "sparse").c_str(), off_t{100} << 30) == 0);
  CHECK(fault(directory / "missing") == "the file cannot be opened");
  CHECK(fault(directory / "dangling") == "the file cannot be opened");
  CHECK(fault(directory / "loop") == "the file cannot be opened");
  CHECK(fault(directory / "large" + "/below") == "the file cannot be opened");
  CHECK(fault("") == "the file cannot be opened");
  CHECK(fault(directory / std::string(300, 'x')) == "the file cannot be opened");
  CHECK(fault(directory / "pipe") == "this is not a regular file");
  CHECK(fault(directory / "folder") == "this is not a regular file");
  CHECK(fault("/dev/zero") == "this is not a regular file");
  CHECK(fault(directory / "empty") == "the file is empty");
  CHECK(fault(directory / "large", 4) == "the file is larger than allowed");
  CHECK(fault(directory / "sparse") == "the file is larger than allowed");
}

TEST_CASE("reading survives short reads and interruptions, and reports failures") {
  Directory directory;
  spill(directory / "file", new_text);
  const Index size = to_index(new_text.size());
  Watched counting;
  REQUIRE(io::read_file(directory / "file", size, counting));
  REQUIRE(counting.calls == 4);  // open, facts, read, close
  CHECK(counting.open_handles == 0);

  for (const Index short_of : {Index{1}, Index{1000}}) {
    if (short_of == 1) spill(directory / "file", new_text.substr(0, 300));
    Watched system;
    system.interfere = [&](int) { return short_of; };
    CHECK(text_of(io::read_file(directory / "file", size, system)) == slurp(directory / "file"));
    spill(directory / "file", new_text);
  }
  for (int k = 0; k < counting.calls; ++k) {
    for (const bool always : {false, true}) {
      Watched system;
      system.interfere = [&](int call) { return call == k || (always && call > k) ? -EIO : 0; };
      const Result<io::HeapArray<char>> content = io::read_file(directory / "file", size, system);
      CHECK(static_cast<bool>(content) == (k == 3));  // what was read stays read if closing fails
      if (!content) {
        CHECK(content.error().code == Code::file_unreadable);
        CHECK(content.error().detail.find("rror") != std::string::npos);
      }
      CHECK(system.open_handles == 0);

      Watched signalled;
      signalled.interfere = [&](int call) { return call == k || (always && call > k) ? -EINTR : 0; };
      CHECK(static_cast<bool>(io::read_file(directory / "file", size, signalled)) == (k == 3 || !always));
      CHECK(signalled.calls < 3 * io::most_interruptions);
      CHECK(signalled.open_handles == 0);
    }
  }
}

TEST_CASE("a file that is cut while it is read is an error") {
  Directory directory;
  spill(directory / "file", old_text);
  const Result<io::File> file = io::File::open(directory / "file");
  REQUIRE(file);
  REQUIRE(::truncate((directory / "file").c_str(), 4) == 0);
  char all[64];
  const Status read = file->read(0, all, file->size());
  REQUIRE(!read);
  CHECK(read.error().what == "the file became shorter while it was read");
  CHECK(read.error().code == Code::file_damaged);
}

TEST_CASE("saving replaces a file in one step and leaves nothing else behind") {
  Directory directory;
  REQUIRE(io::write_file(directory / "file", old_text));
  CHECK(slurp(directory / "file") == old_text);
  const Result<io::File> reader = io::File::open(directory / "file");
  REQUIRE(reader);
  Watched system;
  REQUIRE(save(directory / "file", system));
  CHECK(slurp(directory / "file") == new_text);
  CHECK(directory.names().size() == 1);
  CHECK(system.open_handles == 0);
  // Who had the file open goes on reading the old content.
  std::string still(old_text.size(), ' ');
  REQUIRE(reader->read(0, still.data(), reader->size()));
  CHECK(still == old_text);
  REQUIRE(io::write_file(directory / "file", ""));
  CHECK(slurp(directory / "file").empty());
}

TEST_CASE("an unfinished file disappears, and its methods say so afterwards") {
  Directory directory;
  spill(directory / "file", old_text);
  {
    Result<io::AtomicFile> file = io::AtomicFile::create(directory / "file");
    REQUIRE(file);
    REQUIRE(file->write("abc", 3));
    CHECK(file->written() == 3);
    CHECK(slurp(file->temporary_path()) == "abc");
    CHECK(file->temporary_path() == directory / "file.incomplete");
    io::AtomicFile moved = std::move(file).value();
    CHECK(directory.names().size() == 2);
  }
  CHECK(directory.names().size() == 1);
  CHECK(slurp(directory / "file") == old_text);
  Result<io::AtomicFile> file = io::AtomicFile::create(directory / "file");
  REQUIRE(file);
  REQUIRE(file->commit());
  CHECK(!file->commit());
  CHECK(!file->write("x", 1));
}

TEST_CASE("saving that fails at any call, once or for ever, leaves the old or the new file whole") {
  const int calls = calls_of_save();
  REQUIRE(calls >= 12);
  int late = 0;
  for (int k = 0; k < calls; ++k) {
    for (const Index order : {Index{-ENOSPC}, Index{-EIO}, Index{-EINTR}, Index{-EDQUOT}, Index{-EROFS}, Index{7}}) {
      for (const bool always : {false, true}) {
        Directory directory;
        spill(directory / "file", old_text);
        Watched system;
        system.interfere = [&](int call) { return call == k || (always && call > k) ? order : 0; };
        const Status saved = save(directory / "file", system);
        CAPTURE(k, order, always, saved ? "saved" : saved.error().message());
        const std::string now = slurp(directory / "file");
        if (saved) {
          CHECK(now == new_text);
        } else {
          CHECK(saved.error().code == Code::file_unwritable);
          CHECK((now == old_text || now == new_text));
          const bool is_late = saved.error().what == "the new file is in place, but a power cut might still undo it";
          CHECK(is_late == (now == new_text));
          late += is_late;
        }
        // Short writes and one interruption are no failures.
        if (order > 0 || (order == -EINTR && !always)) CHECK(saved);
        // The temporary file is gone, unless removing it was made to fail as well.
        if (!always || saved) CHECK(directory.names().size() == 1);
        CHECK(system.open_handles == 0);
        CHECK(system.calls < 5 * io::most_interruptions + calls + 100'000);
        // The next save works.
        CHECK(io::write_file(directory / "file", "next"));
        CHECK(slurp(directory / "file") == "next");
        CHECK(directory.names().size() == 1);
      }
    }
  }
  CHECK(late > 0);
}

TEST_CASE("two writers of one file do not mix") {
  Directory directory;
  spill(directory / "file", old_text);
  Result<io::AtomicFile> first = io::AtomicFile::create(directory / "file");
  REQUIRE(first);
  REQUIRE(first->write("first", 5));
  const Result<io::AtomicFile> second = io::AtomicFile::create(directory / "file");
  REQUIRE(!second);
  CHECK(second.error().what == "another writer is saving this file");
  REQUIRE(first->commit());
  CHECK(slurp(directory / "file") == "first");

  // A writer that opened the temporary file just before another renamed it must not touch what is now the file itself.
  Watched slow;
  int renames = 0;
  slow.interfere = [&](int call) {
    if (call != 1) return Index{0};  // after open, before lock
    ++renames;
    REQUIRE(::rename((directory / "file.incomplete").c_str(), (directory / "file").c_str()) == 0);
    return Index{0};
  };
  spill(directory / "file.incomplete", "finished by another");
  Result<io::AtomicFile> third = io::AtomicFile::create(directory / "file", slow);
  REQUIRE(third);
  CHECK(renames == 1);
  CHECK(slurp(directory / "file") == "finished by another");
  REQUIRE(third->write("third", 5));
  REQUIRE(third->commit());
  CHECK(slurp(directory / "file") == "third");
  CHECK(directory.names().size() == 1);
}

TEST_CASE("what stands in the temporary file's place") {
  Directory directory;
  spill(directory / "file", old_text);
  SECTION("a killed writer's remains are reused") {
    spill(directory / "file.incomplete", std::string(1 << 20, 'r'));
    REQUIRE(io::write_file(directory / "file", "new"));
    CHECK(slurp(directory / "file") == "new");
    CHECK(directory.names().size() == 1);
  }
  SECTION("a symbolic link is not followed") {
    spill(directory / "victim", "precious");
    REQUIRE(::symlink((directory / "victim").c_str(), (directory / "file.incomplete").c_str()) == 0);
    CHECK(!io::write_file(directory / "file", "new"));
    CHECK(slurp(directory / "victim") == "precious");
  }
  SECTION("a pipe or a directory is refused and stays") {
    SECTION("pipe") { REQUIRE(::mkfifo((directory / "file.incomplete").c_str(), 0600) == 0); }
    SECTION("directory") { REQUIRE(::mkdir((directory / "file.incomplete").c_str(), 0700) == 0); }
    CHECK(!io::write_file(directory / "file", "new"));
    CHECK(exists(directory / "file.incomplete"));
  }
  SECTION("a directory in the file's own place makes renaming fail") {
    REQUIRE(::mkdir((directory / "folder").c_str(), 0700) == 0);
    const Status saved = io::write_file(directory / "folder", "new");
    REQUIRE(!saved);
    CHECK(saved.error().what == "renaming failed; the old file is untouched");
    CHECK(directory.names().size() == 2);
  }
  SECTION("no such directory") {
    const Status saved = io::write_file(directory / "missing" + "/file", "new");
    REQUIRE(!saved);
    CHECK(saved.error().what == "the temporary file cannot be created");
  }
  if (exists(directory / "file.incomplete")) CHECK(slurp(directory / "file") == old_text);
}

TEST_CASE("a writer killed at any call leaves the old or the new file, and the next writer goes on") {
  const int calls = calls_of_save();
  Directory directory;
  const std::string path = directory / "file";
  REQUIRE(io::write_file(path, old_text));
  int old_found = 0, new_found = 0;
  for (int k = 0; k < calls; ++k) {
    int pipes[2];
    REQUIRE(::pipe(pipes) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      Watched system;
      system.interfere = [&](int call) {
        if (call < k) return Index{k % 2 == 0 ? 0 : 40'000};  // odd k: with writes cut short
        const char ready = 'r';
        if (::write(pipes[1], &ready, 1) == 1) {
          for (;;) ::pause();
        }
        ::_exit(3);
      };
      static_cast<void>(save(path, system));
      ::_exit(4);
    }
    char ready = 0;
    REQUIRE(::read(pipes[0], &ready, 1) == 1);
    REQUIRE(::kill(child, SIGKILL) == 0);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    ::close(pipes[0]);
    ::close(pipes[1]);
    const std::string now = slurp(path);
    CAPTURE(k);
    REQUIRE((now == old_text || now == new_text));
    ++(now == old_text ? old_found : new_found);
    REQUIRE(io::write_file(path, old_text));
    CHECK(directory.names().size() == 1);
  }
  CHECK(old_found >= 8);
  CHECK(new_found >= 2);
}

TEST_CASE("the C library's files serve where there is no POSIX") {
  Directory directory;
  io::StdioSystem system;
  REQUIRE(io::write_file(directory / "file", old_text, system));
  CHECK(slurp(directory / "file") == old_text);
  REQUIRE(save(directory / "file", system));
  CHECK(directory.names().size() == 1);
  CHECK(text_of(io::read_file(directory / "file", 1 << 20, system)) == new_text);
  const Result<io::File> file = io::File::open(directory / "file", system);
  REQUIRE(file);
  char piece[3];
  REQUIRE(file->read(file->size() - 3, piece, 3));
  CHECK(std::string(piece, 3) == "ent");
  // Systems without POSIX refuse to rename an open file.
  Watched watched(system);
  REQUIRE(save(directory / "file", watched));
  CHECK(watched.open_at_rename == 0);
  CHECK(watched.open_handles == 0);
  // Whatever fails, once, the old or the new content is there.
  for (int k = 0; k < watched.calls; ++k) {
    spill(directory / "file", old_text);
    Watched failing(system);
    failing.interfere = [&](int call) { return Index{call == k ? -EIO : 0}; };
    const Status saved = save(directory / "file", failing);
    const std::string now = slurp(directory / "file");
    CAPTURE(k);
    CHECK((now == old_text || now == new_text));
    if (saved) CHECK(now == new_text);
    CHECK(failing.open_handles == 0);
    CHECK(directory.names().size() == 1);
  }
  spill(directory / "file", new_text);
  // A rename that fails for whatever reason leaves the old file.
  CHECK(system.rename((directory / "missing").c_str(), (directory / "file").c_str()) < 0);
  CHECK(slurp(directory / "file") == new_text);
  CHECK(directory.names().size() == 1);
  CHECK(!io::File::open(directory / "missing", system));
  CHECK(!io::AtomicFile::create(directory / "missing" + "/file", system));
  std::vector<io::File> many;
  for (int i = 0; i < 63; ++i) many.push_back(std::move(io::File::open(directory / "file", system)).value());
  CHECK(!io::File::open(directory / "file", system));
  many.clear();
  CHECK(io::File::open(directory / "file", system));
}
