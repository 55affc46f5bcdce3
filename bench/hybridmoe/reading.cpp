// What a reader who knows the rules loses on the held-out part of the generated language of docs/results/hybridmoe-plan.md, read
// as models read it, in windows of 256 from their first letter: a yardstick beside the floor. No arguments.
#include <cstdio>

#include "corpus.hpp"
#include "reader.hpp"

int main() {
  const auto content = corpus::generated();
  if (!content) return std::fprintf(stderr, "%s\n", content.error().message().c_str()), 1;
  const language::Language source = corpus::source();
  constexpr hybridmoe::Index window = 256, end = corpus::validation_letters / window * window;
  const double span = static_cast<double>(corpus::language_options.span);
  for (const double change : {0.5 / span, 1 / span, 1.5 / span}) {
    language::Reader reader(source, change);
    double all = 0, loss[2][language::strata] = {}, count[2][language::strata] = {};
    for (hybridmoe::Index t = 0; t < end; ++t) {
      if (t % window == 0) reader.forget();
      const double lost = reader.read(content->validation.token, t);
      const corpus::Corpus::Known known = content->of(corpus::training_letters + t);
      all += lost, loss[known.counts][known.stratum] += lost, count[known.counts][known.stratum] += 1;
    }
    std::printf("change %.4f: %.4f; easy, hard, noise: first 16 letters of a span", change, all / static_cast<double>(end));
    for (std::size_t s = 0; s < language::strata; ++s) std::printf(" %.4f", loss[0][s] / count[0][s]);
    std::printf(", then");
    for (std::size_t s = 0; s < language::strata; ++s) std::printf(" %.4f", loss[1][s] / count[1][s]);
    std::printf("\n");
  }
}
