// Trains a small HybridMoE on a text, shows what it learned under several budgets, and lets it write. Run by tools/quickstart.
#if defined(HYBRIDMOE_EXAMPLE_KOKKOS)
#include <hybridmoe/kokkos.hpp>
using Space = hybridmoe::exec::On<Kokkos::DefaultExecutionSpace>;
#else
#include <hybridmoe/hybridmoe.hpp>
using Space = hybridmoe::exec::Inline;
#endif
#include <hybridmoe/io/checkpoint.hpp>
#include <hybridmoe/zoo/hybridmoe.hpp>
namespace hm = hybridmoe;
//! [model]
struct Small : hm::zoo::HybridModel<hm::zoo::hybrid_pico, hm::Pattern<"GLLM">> {};
static_assert(hm::Account<Small>::parameters() < 1'250'000 && hm::Account<Small>::active_parameters().target < 600'000);
constexpr double frugal = hm::Account<Small>::budget_for(0.5, 256);  // no token costs more than half of the worst case
//! [model]
constexpr const char* path = "quickstart.safetensors";
int fail(const hm::Error& error) { return std::fprintf(stderr, "%s\n", error.message().c_str()), 1; }

int main(int count, char** words) {
  const auto option = [&](const char* name, const char* otherwise) {
    for (int i = 1; i < count; ++i)
      if (std::string(words[i]) == name) return i + 1 < count ? words[i + 1] : "";
    return otherwise;
  };
#if defined(HYBRIDMOE_EXAMPLE_KOKKOS)
  const Kokkos::ScopeGuard kokkos(Kokkos::InitializationSettings().set_num_threads(std::atoi(option("--threads", "2"))));
#endif
  const auto text = hm::train::Text::read(option("--text", "text.txt"));
  if (!text) return fail(text.error());
  hm::Model<Small, hm::f32, Space> model{hm::Seed{7}};
  hm::train::Options training{.batch = 4, .length = 256, .schedule = {.peak = 3e-3, .warmup = 50}};
  // Half of the sequences learn at lower budgets too: one set of weights serves all.
  training.budgets = {.sampled = true, .twins = 0.5, .at_least = 0.5};
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, training);
  if (!trainer) return fail(trainer.error());
  const bool resume = option("--resume", nullptr) != nullptr;
  if (const auto found = resume ? hm::io::load_checkpoint(*trainer, path) : hm::Done{}; !found) return fail(found.error());
  const hm::train::Interrupt interrupt;  // Ctrl-C ends training, and the checkpoint below keeps it
  const auto report = hm::train::fit(*trainer, {.seconds = std::atof(option("--seconds", "120")), .interrupt = &interrupt});
  if (!report) return fail(report.error());
  if (const auto saved = hm::io::save_checkpoint(*trainer, path); !saved) return fail(saved.error());
  if (const auto drawn = hm::io::write_file("loss.svg", report->curve.svg()); !drawn) return fail(drawn.error());
  std::printf("%s\n%s%.0f tokens/s, %.0f%% of peak\n", hm::describe<Small>().c_str(), report->curve.text().c_str(),
              report->tokens_per_second(), 100 * report->fraction_of_peak);
  for (const double budget : {0.0, frugal, 1.0}) {
    const double bits = trainer->evaluate(0, {.budget = budget}) / std::log(2.0);
    std::printf("validation at budget %.2f: %.3f bits per byte\n", budget, bits);
  }
  const auto packed = hm::pack(model);
  auto session = hm::generate::Session<decltype(packed)>::create(packed);
  const std::span prompt(text->tokens() + text->split(), 64);  // how the validation text begins
  std::puts("");
  const auto show = [](std::int32_t token) { return std::putchar(token) != EOF; };
  for (const std::int32_t token : prompt) show(token);
  const hm::train::Stopwatch watch;
  const auto written = hm::generate::generate(*session, {prompt, 400}, {.temperature = 0.9, .min_p = 0.01}, show);
  if (!written) return fail(written.error());
  std::printf("\n\n%.0f tokens/s decoding\n", static_cast<double>(session->length(0) - 64) / watch.seconds());
}
