// kill -9 while a checkpoint is being saved, as often as HYBRIDMOE_KILLS says (20 by default): whatever is found afterwards is
// the old or the new checkpoint, whole, and training continued from it equals a run that was never disturbed, bit for bit.
// Every other kill strikes at a chosen system call between opening the temporary file and the rename, the others at any time.
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/io/checkpoint.hpp>
#include <hybridmoe/ssm/mamba2.hpp>

namespace hm = hybridmoe;
using hm::Index;

struct Victim
    : hm::LanguageModel<
          hm::LanguageSizes{.vocab = 256, .width = 16, .context = 16}, hm::Pattern<"GS">,
          hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{2, 1, 8}>, hm::channel::SwiGlu<24>>>,
          hm::Slot<'S', hm::Block<hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 2, .head = 8, .state = 4, .chunk = 8}>>>> {};
using Model = hm::Model<Victim, float>;
using Trainer = hm::train::Trainer<Model>;

namespace {

constexpr Index last_step = 40;

hm::train::Text text() {
  std::string content;
  for (int i = 0; i < 4000; ++i) content += static_cast<char>('a' + i * i % 23);
  return hm::train::Text::bytes(content).value();
}
constexpr hm::train::Options options{
    .batch = 2, .length = 16, .schedule = {.peak = 1e-2, .warmup = 4, .steps = last_step}, .dropout = 0.1f};

/// All bits of a trainer's state.
std::vector<float> state_of(Trainer& trainer) {
  const auto count = hm::to_size(Model::elements);
  std::vector<float> state(3 * count);
  trainer.model().download(state.data());
  trainer.first_moment().copy_out(state.data() + count, Model::bytes);
  trainer.second_moment().copy_out(state.data() + 2 * count, Model::bytes);
  return state;
}

/// The machine's files, and a SIGKILL before the chosen call (counted from opening the temporary file; a write is done by half).
class Deadly final : public hm::io::System {
 public:
  int strike = -1;  ///< calls left to live; negative: no harm
  hm::io::Handle open(const char* path, hm::io::Access access) override { return counted(), real().open(path, access); }
  int facts(hm::io::Handle file, hm::io::FileFacts& facts) override { return counted(), real().facts(file, facts); }
  int facts(const char* path, hm::io::FileFacts& facts) override { return counted(), real().facts(path, facts); }
  Index read(hm::io::Handle file, void* to, Index bytes, Index offset) override { return real().read(file, to, bytes, offset); }
  Index write(hm::io::Handle file, const void* from, Index bytes) override {
    if (strike == 0) real().write(file, from, bytes / 2);
    return counted(), real().write(file, from, bytes);
  }
  int lock(hm::io::Handle file) override { return counted(), real().lock(file); }
  int truncate(hm::io::Handle file) override { return counted(), real().truncate(file); }
  int sync(hm::io::Handle file) override { return counted(), real().sync(file); }
  int close(hm::io::Handle file) override { return real().close(file); }
  int rename(const char* from, const char* to) override {
    if (strike > 0) strike = 0;  // now, at the latest
    return counted(), real().rename(from, to);
  }
  int remove(const char* path) override { return real().remove(path); }

 private:
  static hm::io::System& real() { return hm::io::default_system(); }
  void counted() {
    if (strike == 0) std::raise(SIGKILL);
    if (strike > 0) --strike;
  }
};

/// The child: goes on from the checkpoint, saves after every step and reports each save that returned. With strike ≥ 0 the second
/// save is its last.
[[noreturn]] void live(const std::string& path, int strike, int reports) {
  const hm::train::Text content = text();
  Model model{hm::Seed{3}};
  auto trainer = Trainer::create(model, content, options);
  if (!trainer || (std::filesystem::exists(path) && !hm::io::load_checkpoint(*trainer, path))) _exit(3);
  Deadly system;
  for (int saves = 0; trainer->steps_done() < last_step; ++saves) {
    if (!trainer->step()) _exit(4);
    if (saves == 1) system.strike = strike;
    if (!hm::io::save_checkpoint(*trainer, path, system)) _exit(5);
    const Index done = trainer->steps_done();
    if (::write(reports, &done, sizeof done) != sizeof done) _exit(6);
  }
  for (;;) pause();
}

}  // namespace

TEST_CASE("a checkpoint survives kill -9 and training goes on bit for bit") {
  const char* const wanted = std::getenv("HYBRIDMOE_KILLS");
  const int kills = wanted == nullptr ? 20 : std::atoi(wanted);
  REQUIRE(kills > 0);

  const hm::train::Text content = text();
  std::vector<std::vector<float>> undisturbed;
  {
    Model model{hm::Seed{3}};
    auto trainer = Trainer::create(model, content, options);
    REQUIRE(trainer);
    undisturbed.push_back(state_of(*trainer));
    for (Index step = 0; step <= last_step; ++step) {
      REQUIRE(trainer->step());
      undisturbed.push_back(state_of(*trainer));
    }
  }

  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("hybridmoe-kill-" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const std::string path = folder / "checkpoint.safetensors";
  int old_found = 0, new_found = 0, between = 0;
  for (int kill_number = 0; kill_number < kills; ++kill_number) {
    const hm::random::Block drawn = hm::random::draw({7, 7}, 1, static_cast<std::uint64_t>(kill_number));
    const auto& words = drawn.word;
    const bool chosen = kill_number % 2 == 0;
    Index saved = 0;  // the step of the last save that is known to have returned
    if (std::filesystem::exists(path)) {
      Model model{hm::Seed{3}};
      auto trainer = Trainer::create(model, content, options);
      REQUIRE(hm::io::load_checkpoint(*trainer, path));
      saved = trainer->steps_done();
      if (saved > last_step - 4) {  // begin again
        std::filesystem::remove(path);
        saved = 0;
      }
    }
    int reports[2];
    REQUIRE(pipe(reports) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      close(reports[0]);
      live(path, chosen ? static_cast<int>(1 + words[0] % 40) : -1, reports[1]);
    }
    close(reports[1]);
    Index done = 0;
    if (!chosen) {
      REQUIRE(read(reports[0], &done, sizeof done) == sizeof done);  // it lives; now at any time
      saved = done;
      usleep(words[0] % 3000);
      kill(child, SIGKILL);
    }
    while (read(reports[0], &done, sizeof done) == sizeof done) saved = done;
    close(reports[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGKILL);
    between += chosen;

    Model model{hm::Seed{99}};  // other parameters: what follows must come from the file
    auto trainer = Trainer::create(model, content, options);
    REQUIRE(trainer);
    const auto loaded = hm::io::load_checkpoint(*trainer, path);
    INFO("kill " << kill_number << (loaded ? "" : ": " + loaded.error().message()));
    REQUIRE(loaded);
    const Index found = trainer->steps_done();
    // The old one, or the new one that was just renamed. (A report may be lost with its writer, a save cannot.)
    CHECK((found == saved || found == saved + 1));
    if (chosen) CHECK(found == saved);  // it struck before the rename
    found == saved ? ++old_found : ++new_found;
    CHECK(state_of(*trainer) == undisturbed[hm::to_size(found)]);
    REQUIRE(trainer->step());
    CHECK(state_of(*trainer) == undisturbed[hm::to_size(found + 1)]);
  }
  WARN(kills << " kills, " << between << " of them between open and rename; the old checkpoint was found " << old_found
             << " times, the new one " << new_found << " times");
  std::filesystem::remove_all(folder);
}
