// Logs the run of bench/replay.hpp as Markdown, for docs/results/replay.md.
#include <cstdio>

#include "replay.hpp"

int main(int count, char** words) {
  namespace hm = hybridmoe;
  const auto text = hm::train::Text::read(count > 1 ? words[1] : "LICENSE");
  if (!text) return std::fprintf(stderr, "%s\n", text.error().message().c_str()), 1;
  replay::Model model{hm::Seed{replay::seed}};
  auto trainer = hm::train::Trainer<replay::Model>::create(model, *text, replay::options);
  if (!trainer) return std::fprintf(stderr, "%s\n", trainer.error().message().c_str()), 1;
  std::printf(
      "# A run to repeat\n\nMade by `bench_replay LICENSE` (model and settings: bench/replay.hpp; build: %s). The test\n"
      "`train/replay_test` repeats its first twenty steps.\n\n```\n",
      replay::build());
  for (hm::Index step = 0; step < replay::steps; ++step) {
    const auto report = trainer->step();
    if (!report) return std::fprintf(stderr, "%s\n", report.error().message().c_str()), 1;
    if (step < 20 || (step + 1) % 20 == 0) std::printf("%lld %.17g\n", static_cast<long long>(step), report->loss);
  }
  std::printf("```\n\nValidation loss at the end: %.4f nats per byte.\n", trainer->evaluate());
}
