// Trains a decoder of 3.1 million parameters on a text and logs how it learns, for comparison with other programs at equal time.
//   learn --text FILE [--steps 2430] [--threads 2] [--seed 1] [--checkpoint FILE]
// The log goes to standard output as Markdown. The last tenth of the text is the validation part; the validation loss is the mean
// over its non-overlapping windows of 256 tokens.
#include <cstring>
#include <fstream>

#include <hybridmoe/kokkos.hpp>

#include <hybridmoe/io/checkpoint.hpp>

namespace hm = hybridmoe;
using hm::Index;

constexpr hm::Heads heads{.query = 6, .kv = 6, .size = 32};
struct Learner
    : hm::LanguageModel<
          hm::LanguageSizes{.vocab = 256, .width = 192, .context = 256}, hm::Pattern<"G", hm::layers<7>>,
          hm::Slot<'G', hm::Block<hm::attention::Full<heads, hm::attention::NormedQueryKey<false>>, hm::channel::SwiGlu<512>>>> {
};
static_assert(hm::Account<Learner>::parameters() < 3'200'000);

namespace {

const char* option(int count, char** words, const char* name, const char* otherwise) {
  for (int i = 1; i + 1 < count; ++i)
    if (std::strcmp(words[i], name) == 0) return words[i + 1];
  return otherwise;
}

int fail(const hm::Error& error) { return std::fprintf(stderr, "%s\n", error.message().c_str()), 1; }

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

}  // namespace

int main(int count, char** words) {
  const int threads = std::atoi(option(count, words, "--threads", "2"));
  const Kokkos::ScopeGuard kokkos(Kokkos::InitializationSettings().set_num_threads(threads));
  using Space = hm::exec::On<Kokkos::DefaultExecutionSpace>;
  const auto text = hm::train::Text::read(option(count, words, "--text", "text.txt"));
  if (!text) return fail(text.error());

  const auto seed = static_cast<std::uint64_t>(std::atoll(option(count, words, "--seed", "1")));
  const Index steps = std::atoll(option(count, words, "--steps", "2430"));
  hm::Model<Learner, hm::f32, Space> model{hm::Seed{seed}};
  hm::train::Options options;
  options.batch = 16;
  options.length = 256;
  options.optimizer = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1};
  options.schedule = {.shape = hm::train::Shape::cosine, .peak = 2e-3, .warmup = 100, .steps = steps, .last = 0.05};
  options.dropout = 0.1f;
  options.seed = seed;
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, options);
  if (!trainer) return fail(trainer.error());

  const double flops = hm::Account<Learner>::flops_per_token(options.length).training,
               peak = hm::train::peak_flops(model.space());
  std::printf(
      "Processor: %s, %d threads. %lld parameters, %.2f MFLOP per token in training; float peak of the product kernel %.0f "
      "GFLOP/s.\n",
      processor().c_str(), threads, static_cast<long long>(hm::Account<Learner>::parameters()), flops / 1e6, peak / 1e9);
  std::printf("Batch %lld x %lld tokens, %lld steps, seed %llu; text of %lld tokens, validation from token %lld.\n\n",
              static_cast<long long>(options.batch), static_cast<long long>(options.length), static_cast<long long>(steps),
              static_cast<unsigned long long>(seed), static_cast<long long>(text->size()), static_cast<long long>(text->split()));
  std::printf("| step | training loss | validation loss | training seconds | tokens/s | of peak |\n|-|-|-|-|-|-|\n");
  std::string first_losses;
  double seconds = 0, mean = 0;
  Index since = 0;
  while (trainer->steps_done() < steps) {
    const hm::train::Stopwatch watch;
    const auto report = trainer->step();
    if (!report) return fail(report.error());
    seconds += watch.seconds();
    mean += report->loss;
    ++since;
    const Index done = trainer->steps_done();
    if (done <= 20) {
      char loss[32];
      std::snprintf(loss, sizeof loss, "%.9g\n", report->loss);
      first_losses += loss;
    }
    const bool last = done == steps;
    if (done % 200 != 0 && !last) continue;
    // Part of the validation text on the way, all of it at the end; its time is not training time.
    const double validation = trainer->evaluate(last ? 0 : 64);
    const double rate = static_cast<double>(done * trainer->tokens_per_step()) / seconds;
    std::printf("| %lld | %.4f | %.4f%s | %.1f | %.0f | %.0f%% |\n", static_cast<long long>(done),
                mean / static_cast<double>(since), validation, last ? " (all)" : "", seconds, rate, 100 * rate * flops / peak);
    std::fflush(stdout);
    mean = 0;
    since = 0;
  }
  std::printf("\nFirst 20 losses:\n\n```\n%s```\n", first_losses.c_str());
  if (const char* path = option(count, words, "--checkpoint", nullptr); path != nullptr)
    if (const auto saved = hm::io::save_checkpoint(*trainer, path); !saved) return fail(saved.error());
}
