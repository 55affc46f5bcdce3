// Checkpoints and weights on the disk: continued training is the same training; files that do not fit or are damaged change
// nothing.

#include <clocale>
#include <cmath>
#include <limits>
#include <map>

#include <hybridmoe/io/checkpoint.hpp>
#include <io/support.hpp>
#include <train/support.hpp>

namespace hm = hybridmoe;
namespace io = hybridmoe::io;
namespace train = hybridmoe::train;
using hm::Index;
using test::Dense;
using test::Small;
using test::state_of;
using test::trainer_of;
using DenseModel = hm::Model<Dense, double>;
using SmallModel = hm::Model<Small, float>;

// One more layer of a known kind: other tensors.
struct Longer : hm::LanguageModel<test::dense_sizes, hm::Pattern<"GWG">, test::DenseG, test::DenseW> {};
// The same tensors, but heads of another size, or another window.
struct OtherHeads
    : hm::LanguageModel<
          test::dense_sizes, hm::Pattern<"GW">,
          hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{3, 3, 4}, hm::position::Nothing, hm::attention::Bias<true, true>>,
                                  hm::channel::Gelu<20>, hm::block::Norm<hm::norm::LayerNorm<>>>>,
          test::DenseW> {};
struct OtherWindow
    : hm::LanguageModel<test::dense_sizes, hm::Pattern<"GW">, test::DenseG,
                        hm::Slot<'W', hm::Block<hm::attention::Local<hm::Heads{2, 1, 6}, 8>, hm::channel::SwiGlu<16>>>> {};

namespace {

const train::Options dense_options{
    .batch = 2, .length = 24, .accumulate = 2, .schedule = {.peak = 1e-2, .warmup = 3, .steps = 12}, .dropout = 0.2f, .seed = 4};
const train::Options small_options{
    .batch = 2,
    .length = 48,
    .schedule = {.shape = train::Shape::warmup_stable_decay, .peak = 3e-3, .warmup = 2, .steps = 9, .decay = 3},
    .dropout = 0.1f,
    .seed = 4};

template <class Trainer>
std::vector<double> losses_of(Trainer& trainer, int steps) {
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    const auto report = trainer.step();
    REQUIRE(report);
    losses.push_back(report->loss);
  }
  return losses;
}

template <class Model>
void check_resume(const train::Text& text, const train::Options& options) {
  const support::Directory directory;
  const std::string path = directory / "run.safetensors";
  Model model{hm::Seed{1}};
  auto trainer = trainer_of(model, text, options);
  const std::vector<double> first = losses_of(trainer.value(), 4);
  REQUIRE(io::save_checkpoint(*trainer, path));
  const auto saved = state_of(*trainer);
  const std::vector<double> rest = losses_of(trainer.value(), 5);
  const double validation = trainer->evaluate();
  REQUIRE(directory.names() == std::vector<std::string>{"run.safetensors"});

  Model other{hm::Seed{2}};
  train::Options plain = options;
  plain.schedule = {.peak = 123, .warmup = 1, .steps = 2};  // the checkpoint's counts
  plain.recompute = true;                                   // changes no bit
  auto resumed = trainer_of(other, text, plain);
  const hm::Status loaded = io::load_checkpoint(*resumed, path);
  INFO((loaded ? std::string() : loaded.error().message()));
  REQUIRE(loaded);
  CHECK(resumed->steps_done() == 4);
  CHECK(resumed->options().schedule.steps == options.schedule.steps);
  CHECK(state_of(*resumed) == saved);
  CHECK(losses_of(resumed.value(), 5) == rest);
  CHECK(state_of(*resumed) == state_of(*trainer));
  CHECK(resumed->evaluate() == validation);

  // Saved again over the first, and read by another way.
  REQUIRE(io::save_checkpoint(*resumed, path));
  const auto file = io::SafetensorsFile::open(path);
  REQUIRE(file);
  REQUIRE(file->metadata("step"));
  CHECK(*file->metadata("step") == "9");
  std::map<std::string, std::pair<const typename Model::Element*, Index>> expected;
  std::vector<typename Model::Element> weights(hm::to_size(Model::elements));
  other.download(weights.data());
  Model::Description::template visit<typename Model::Element, hm::Flat>(
      [&](const hm::Name& name, const hm::Trait&, const auto& tensor) { expected[name.text()] = {tensor.data, tensor.size}; },
      hm::Name{}, static_cast<const typename Model::Element*>(weights.data()));
  CHECK(file->size() == 3 * hm::to_index(expected.size()));
  for (const auto& [name, place] : expected) {
    const auto tensor = file->find(name);
    REQUIRE(tensor);
    std::vector<typename Model::Element> values(hm::to_size(place.second));
    REQUIRE(file->read(*tensor, values.data()));
    CHECK(std::equal(values.begin(), values.end(), place.first));
    CHECK(file->find("optimizer.first." + name));
    CHECK(file->find("optimizer.second." + name));
  }
}

}  // namespace

TEST_CASE("training continued from a checkpoint is the uninterrupted training, bit for bit") {
  check_resume<DenseModel>(test::dense_text(), dense_options);
  check_resume<SmallModel>(test::small_text(), small_options);
}

namespace {

/// Loading fails with this code, mentions all of this, and the trainer stays as it was.
template <class Trainer>
void refuses(Trainer& trainer, const std::string& path, hm::Code code, const std::vector<std::string>& mentions) {
  const auto before = state_of(trainer);
  const Index step = trainer.steps_done();
  const hm::Status loaded = io::load_checkpoint(trainer, path);
  REQUIRE_FALSE(loaded);
  const std::string message = loaded.error().message();
  INFO(message);
  CHECK(loaded.error().code == code);
  for (const std::string& words : mentions) {
    INFO("expected: " << words);
    CHECK(message.find(words) != std::string::npos);
  }
  CHECK(state_of(trainer) == before);
  CHECK(trainer.steps_done() == step);
}

}  // namespace

TEST_CASE("a checkpoint of another run is refused with all that differs") {
  const support::Directory directory;
  const std::string path = directory / "run.safetensors";
  const train::Text text = test::dense_text(), other_text = test::dense_text(2);
  DenseModel model{hm::Seed{1}};
  auto trainer = trainer_of(model, text, dense_options);
  losses_of(trainer.value(), 2);
  REQUIRE(io::save_checkpoint(*trainer, path));

  DenseModel other{hm::Seed{2}};
  const auto with = [&](auto change, const std::vector<std::string>& mentions) {
    train::Options options = dense_options;
    change(options);
    auto changed = trainer_of(other, text, options);
    refuses(changed.value(), path, hm::Code::file_mismatch, mentions);
  };
  with([](train::Options& o) { o.batch = 4; }, {"batch: the checkpoint has 2, this run 4"});
  with([](train::Options& o) { o.length = 25; }, {"length: the checkpoint has 24, this run 25"});
  with([](train::Options& o) { o.accumulate = 1; }, {"accumulate: the checkpoint has 2, this run 1"});
  with([](train::Options& o) { o.seed = 5; }, {"seed: the checkpoint has 4, this run 5"});
  with([](train::Options& o) { o.dropout = 0.25f; }, {"dropout"});
  with([](train::Options& o) { o.clip = 0.5; }, {"clip"});
  with([](train::Options& o) { o.auxiliary = false; }, {"auxiliary: the checkpoint has yes, this run no"});
  with([](train::Options& o) { o.optimizer.beta1 = 0.8; }, {"beta1"});
  with([](train::Options& o) { o.optimizer.beta2 = 0.8; }, {"beta2"});
  with([](train::Options& o) { o.optimizer.epsilon = 1e-7; }, {"epsilon"});
  with([](train::Options& o) { o.optimizer.weight_decay = 0; }, {"weight_decay"});
  with([](train::Options& o) { o.groups = [](const std::string&, const hm::Trait&) { return train::Group{}; }; }, {"groups"});
  with([](train::Options& o) { o.batch = 1, o.seed = 7, o.clip = 0; }, {"batch", "seed", "clip"});
  auto on_other_text = trainer_of(other, other_text, dense_options);
  refuses(on_other_text.value(), path, hm::Code::file_mismatch, {"text: the checkpoint has"});

  // Other models: other tensors are all named; the same tensors with other heads are told apart too.
  hm::Model<Longer, double> longer_model{hm::Seed{1}};
  auto longer = trainer_of(longer_model, text, dense_options);
  refuses(
      longer.value(), path, hm::Code::file_mismatch,
      {"pattern: the checkpoint has GW 2, this run GWG 3", "missing: \"layers.2.mixer.query.weight\"",
       "missing: \"optimizer.first.layers.2.mixer.query.weight\"", "missing: \"optimizer.second.layers.2.channel.down.bias\""});
  REQUIRE(io::save_checkpoint(*longer, directory / "longer.safetensors"));
  auto shorter = trainer_of(model, text, dense_options);
  refuses(shorter.value(), directory / "longer.safetensors", hm::Code::file_mismatch,
          {"surplus: \"layers.2.mixer.query.weight\"", "surplus: \"optimizer.second.layers.2.channel.down.bias\""});
  hm::Model<OtherHeads, double> heads_model{hm::Seed{1}};
  auto heads = trainer_of(heads_model, text, dense_options);
  refuses(heads.value(), path, hm::Code::file_mismatch, {"description: the checkpoint has"});
  using io::checkpoint_detail::costs_text, io::checkpoint_detail::description_setting;
  CHECK(costs_text<OtherWindow::Core>(OtherWindow::layout()) != costs_text<Dense::Core>(Dense::layout()));
  CHECK(description_setting(hm::description_text<OtherWindow>()) != description_setting(hm::description_text<Dense>()));
  // Neither instruction sets nor exceptions are part of a description.
  CHECK(hm::description_text<Dense>().find("v0_") == std::string::npos);
}

TEST_CASE("numbers of a checkpoint are exact, and the same in every locale") {
  using namespace io::checkpoint_detail;
  // The first that is installed; in the C locale the test is about exactness alone.
  for (const char* name : {"de_DE.UTF-8", "fr_FR.UTF-8", "C"}) {
    if (std::setlocale(LC_NUMERIC, name) != nullptr) break;
  }
  CHECK(exact(0.1) == "0x1.999999999999ap-4");
  CHECK(exact(-3) == "-0x1.8p+1");
  CHECK(exact(0) == "0x0p+0");
  CHECK(exact(std::numeric_limits<double>::infinity()) == "inf");
  const auto again = [](double value) {
    double read = 77;
    REQUIRE(parse_exact(exact(value), read));
    CHECK(std::memcmp(&read, &value, sizeof value) == 0);
  };
  for (const double value : {0.0, -0.0, 1.0, 1e-3, 1.0 / 3, 5e-324, 1e-310, -2.2250738585072014e-308, 1.7976931348623157e308})
    again(value);
  for (const double n : test::numbers(1000, 9)) again(n), again(std::ldexp(n, static_cast<int>(300 * n)));
  for (const char* bad : {"",
                          "-",
                          "0x",
                          "0xp",
                          "0x.p0",
                          "0x1",
                          "1p0",
                          "0x1p",
                          "0x1p+",
                          "0x1p0 ",
                          "0x1,8p0",
                          "0x1.8.8p0",
                          "0x-1p0",
                          "0x1p1200",
                          "0x1p99999999999999999999",
                          "0x.8p-9223372036854775808",
                          "0x123456789abcdefp0",
                          "inf",
                          "nan",
                          "0xinfp0"}) {
    INFO(bad);
    double read = 0;
    CHECK_FALSE(parse_exact(bad, read));
  }

  const train::Schedule made{
      .shape = train::Shape::warmup_stable_decay, .peak = 0.3, .warmup = 1, .steps = INT64_MAX, .last = 0.01, .decay = 7};
  train::Schedule read;
  const std::string text = schedule_text(made);
  REQUIRE(parse_schedule(text, read));
  CHECK((read.shape == made.shape && read.peak == 0.3 && read.warmup == 1 && read.steps == INT64_MAX && read.last == 0.01 &&
         read.decay == 7));
  for (const std::string& bad : {text + " 1", text.substr(0, text.size() - 2), "3" + text.substr(1), "-1" + text.substr(1),
                                 std::string("1 inf 1 2 0x1p+0 3"), std::string("1 0x1p+0 1 9223372036854775808 0x1p+0 3")}) {
    INFO(bad);
    CHECK_FALSE(parse_schedule(bad, read));
    CHECK(schedule_text(read) == text);
  }
  std::setlocale(LC_NUMERIC, "C");
}

TEST_CASE("files that are no checkpoints are refused") {
  const support::Directory directory;
  const train::Text text = test::dense_text();
  DenseModel model{hm::Seed{1}};
  auto trainer = trainer_of(model, text, dense_options);
  refuses(trainer.value(), directory / "nothing", hm::Code::file_unreadable, {});
  refuses(trainer.value(), directory / "", hm::Code::file_unreadable, {});
  support::spill(directory / "empty", "");
  refuses(trainer.value(), directory / "empty", hm::Code::file_damaged, {});
  REQUIRE(io::save_weights(model, directory / "weights"));
  refuses(trainer.value(), directory / "weights", hm::Code::file_mismatch, {"not a training checkpoint"});
  // What a message quotes of a file cannot steer a terminal, or fill it.
  io::SafetensorsWriter writer;
  writer.metadata("checkpoint", "\x1B[2J" + std::string(100'000, 'x'));
  REQUIRE(writer.write(directory / "odd"));
  refuses(trainer.value(), directory / "odd", hm::Code::file_mismatch, {"\"\\u001b[2Jxxx"});
  CHECK(io::load_checkpoint(*trainer, directory / "odd").error().message().size() < 1000);
  writer.metadata("checkpoint", io::checkpoint_detail::format);
  writer.metadata("batch", "\x1B[2J\"" + std::string(100'000, 'x'));
  REQUIRE(writer.write(directory / "odd"));
  refuses(trainer.value(), directory / "odd", hm::Code::file_mismatch, {"batch: the checkpoint has \\u001b[2J\\\"xxx"});
  CHECK(io::load_checkpoint(*trainer, directory / "odd").error().message().size() < 20'000);
}

TEST_CASE("a damaged checkpoint is refused, wherever it is damaged, and left alone") {
  const support::Directory directory;
  const std::string path = directory / "run.safetensors", damaged = directory / "damaged";
  const train::Text text = test::dense_text();
  DenseModel model{hm::Seed{1}};
  auto trainer = trainer_of(model, text, dense_options);
  losses_of(trainer.value(), 3);
  REQUIRE(io::save_checkpoint(*trainer, path));
  const auto before = state_of(*trainer);
  const std::string whole = support::slurp(path);
  const auto size = whole.size();
  int tried = 0;
  const auto refused = [&](const std::string& content, const std::string& how) {
    support::spill(damaged, content);
    INFO(how);
    const hm::Status loaded = io::load_checkpoint(*trainer, damaged);
    REQUIRE_FALSE(loaded);
    REQUIRE(state_of(*trainer) == before);
    REQUIRE(trainer->steps_done() == 3);
    REQUIRE(support::slurp(damaged) == content);
    ++tried;
  };
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  support::Random random(3);
  std::vector<std::size_t> cuts{0, 1, 7, 8, 9, 8 + header / 2, 7 + header, 8 + header, 9 + header, size / 2, size - 8, size - 1};
  for (int i = 0; i < 60; ++i) cuts.push_back(static_cast<std::size_t>(random.below(hm::to_index(size))));
  for (const std::size_t cut : cuts) refused(whole.substr(0, cut), "cut to " + std::to_string(cut) + " bytes");
  refused(whole + '\0', "a byte more");
  // A bit of every 16th byte of the header, and of some bytes of the data.
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < 8 + header; at += at < 300 ? 1 : 16) places.push_back(at);
  for (int i = 0; i < 150; ++i)
    places.push_back(8 + header + static_cast<std::size_t>(random.below(hm::to_index(size - header - 8))));
  for (const std::size_t place : places) {
    std::string content = whole;
    content[place] = static_cast<char>(content[place] ^ (1 << random.below(8)));
    refused(content, "a bit changed in byte " + std::to_string(place));
  }
  CHECK(tried > 400);
  CHECK(io::load_checkpoint(*trainer, path));
}

TEST_CASE("whatever the system refuses while saving, the old or the new checkpoint is there") {
  const support::Directory directory;
  const std::string path = directory / "run.safetensors";
  const train::Text text = test::dense_text();
  DenseModel model{hm::Seed{1}}, reader{hm::Seed{2}};
  auto trainer = trainer_of(model, text, dense_options), other = trainer_of(reader, text, dense_options);
  REQUIRE(io::save_checkpoint(*trainer, path));
  losses_of(trainer.value(), 1);
  const auto saved = state_of(*trainer);
  int failures = 0;
  for (int failing = 0;; ++failing) {
    support::Watched system;
    system.interfere = [&](int call) { return call == failing ? Index{-EIO} : Index{0}; };
    const hm::Status outcome = io::save_checkpoint(*trainer, path, system);
    CHECK(system.open_handles == 0);
    REQUIRE(io::load_checkpoint(*other, path));
    CHECK((other->steps_done() == 0 || other->steps_done() == 1));
    if (outcome) CHECK(other->steps_done() == 1);
    if (other->steps_done() == 1) {
      CHECK(state_of(*other) == saved);
      REQUIRE(std::rename(path.c_str(), (path + ".new").c_str()) == 0);  // so that the next failure meets the old one again
      DenseModel begin{hm::Seed{1}};
      auto old = trainer_of(begin, text, dense_options);
      REQUIRE(io::save_checkpoint(*old, path));
    }
    if (system.calls <= failing) break;  // nothing was left to fail
    if (outcome) continue;               // a lock may be refused: some file systems have none
    ++failures;
    CHECK(outcome.error().code == hm::Code::file_unwritable);
  }
  CHECK(failures > 5);
}

TEST_CASE("weights go to a file and back, and a file that does not fit changes nothing") {
  const support::Directory directory;
  const std::string path = directory / "weights.safetensors";
  const SmallModel model{hm::Seed{1}};
  REQUIRE(io::save_weights(model, path));
  SmallModel other{hm::Seed{2}};
  REQUIRE(io::load_weights(other, path));
  CHECK(std::equal(model.parameters(), model.parameters() + model.elements, other.parameters()));

  DenseModel dense{hm::Seed{1}};
  REQUIRE(io::save_weights(dense, path));
  const auto refused = [&](auto& into, const std::vector<std::string>& mentions) {
    using T = std::remove_cvref_t<decltype(*into.parameters())>;
    const std::vector<T> before(into.parameters(), into.parameters() + into.elements);
    const hm::Status loaded = io::load_weights(into, path);
    REQUIRE_FALSE(loaded);
    const std::string message = loaded.error().message();
    INFO(message);
    for (const std::string& words : mentions) CHECK(message.find(words) != std::string::npos);
    CHECK(std::equal(before.begin(), before.end(), into.parameters()));
  };
  refused(other, {"missing: \"layers.3.mixer.decay_log\" [4]", "surplus: \"position.weight\" [40, 12]",
                  "misshapen: \"embedding.weight\": the file has [41, 12], the model needs [256, 48]",
                  "surplus: \"head.weight\" [41, 12]"});
  hm::Model<Longer, double> longer{hm::Seed{1}};
  refused(longer, {"missing: \"layers.2.mixer.query.weight\" [12, 12]", "16 missing, 0 surplus, 0 misshapen"});
  const std::string whole = support::slurp(path);
  support::spill(path, whole.substr(0, whole.size() - 1));
  refused(dense, {});
  support::spill(path, whole);
  REQUIRE(io::load_weights(dense, path));
}
