// Defines a model, trains it on a text, shows what it learned and lets it write. Run it with tools/quickstart.
#include <cstring>
#include <fstream>
#include <iterator>
#if defined(HYBRIDMOE_EXAMPLE_KOKKOS)
#include <hybridmoe/kokkos.hpp>
using Space = hybridmoe::exec::On<Kokkos::DefaultExecutionSpace>;
#else
#include <hybridmoe/hybridmoe.hpp>
using Space = hybridmoe::exec::Inline;
#endif
#include <hybridmoe/io/checkpoint.hpp>
namespace hm = hybridmoe;

//! [model]
constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 32};
using Experts =
    hm::channel::Moe<hm::Experts{.count = 4, .active = 2, .hidden = 128}, hm::router::TopK<>, hm::channel::SwiGlu<128>>;

struct Small : hm::LanguageModel<
                   hm::LanguageSizes{.vocab = 256, .width = 128, .context = 512}, hm::Pattern<"GLLS">,
                   hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<384>>>,
                   hm::Slot<'L', hm::Block<hm::attention::Local<heads, 64>, Experts>>,
                   hm::Slot<'S', hm::Block<hm::ssm::Mamba2<{.heads = 8, .head = 32, .state = 32}>, hm::channel::SwiGlu<384>>>> {};
static_assert(hm::Account<Small>::active_parameters().most < 1'000'000);
//! [model]

int fail(const hm::Error& error) { return std::fprintf(stderr, "%s\n", error.message().c_str()), 1; }

int main(int count, char** words) {
  const auto option = [&](const char* name, const char* otherwise) {
    for (int i = 1; i < count; ++i)
      if (std::strcmp(words[i], name) == 0) return i + 1 < count ? words[i + 1] : "";
    return otherwise;
  };
#if defined(HYBRIDMOE_EXAMPLE_KOKKOS)
  const Kokkos::ScopeGuard kokkos(Kokkos::InitializationSettings().set_num_threads(std::atoi(option("--threads", "2"))));
#endif
  std::ifstream file(option("--text", "text.txt"), std::ios::binary);
  const auto text = hm::train::Text::bytes(std::string(std::istreambuf_iterator<char>(file), {}));
  if (!text) return fail(text.error());

  hm::Model<Small, hm::f32, Space> model{hm::Seed{7}};
  auto trainer = hm::train::Trainer<decltype(model)>::create(
      model, *text, {.batch = 8, .length = 256, .schedule = {.peak = 3e-3, .warmup = 50}});
  if (!trainer) return fail(trainer.error());
  if (std::strcmp(option("--resume", "no"), "no") != 0)
    if (const auto resumed = hm::io::load_checkpoint(*trainer, "quickstart.safetensors"); !resumed) return fail(resumed.error());

  const hm::train::Interrupt interrupt;  // Ctrl-C ends training, and the checkpoint below keeps it
  const auto report = hm::train::fit(*trainer, {.seconds = std::atof(option("--seconds", "120")), .interrupt = &interrupt});
  if (!report) return fail(report.error());
  if (const auto saved = hm::io::save_checkpoint(*trainer, "quickstart.safetensors"); !saved) return fail(saved.error());
  std::ofstream("loss.svg") << report->curve.svg();
  std::printf("%s\n%s%.0f tokens/s, %.0f%% of peak\nvalidation: %.3f bits per byte\n\n", hm::describe<Small>().c_str(),
              report->curve.text().c_str(), static_cast<double>(report->tokens) / report->seconds, 100 * report->fraction_of_peak,
              trainer->evaluate() / std::log(2.0));

  const auto packed = hm::pack(model);
  auto session = hm::generate::Session<decltype(packed)>::create(packed);
  const std::int32_t prompt = '\n';
  const hm::train::Stopwatch watch;
  const auto written =
      hm::generate::generate(*session, {.prompt = {&prompt, 1}, .tokens = 400}, {.temperature = 0.7, .min_p = 0.05},
                             [](std::int32_t token) { return std::putchar(token) != EOF; });
  if (!written) return fail(written.error());
  std::printf("\n\n%.0f tokens/s decoding\n", static_cast<double>(session->length(0)) / watch.seconds());
}
