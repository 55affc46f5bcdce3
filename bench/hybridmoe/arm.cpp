// One run of docs/results/hybridmoe-plan.md: trains the model ARM on a text or on the generated language and appends one line of
// JSON to a file. Saves every 100 steps; started again, it goes on bit for bit.
//   arm_NAME --data text|language [--file FILE] --seed N --steps N --rate R --out FILE [--folder DIR] [--commit ID]
#include <cstdlib>
#include <cstring>

#include <hybridmoe/io/checkpoint.hpp>

#include "arms.hpp"
#include "language.hpp"

#if !defined(ARM)
#define ARM full
#endif
#define ARM_TEXT_(x) #x
#define ARM_TEXT(x) ARM_TEXT_(x)

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;
using Chosen = arms::ARM;
using M = Chosen::Model;

namespace {

constexpr language::Options language_options{.alphabet = 32, .first = 'a', .span = 96, .operands = 2, .slip = 0.1};
constexpr Index training_letters = 2'000'000, validation_letters = 200'000;

const char* option(int count, char** words, const char* name, const char* otherwise) {
  for (int i = 1; i + 1 < count; ++i)
    if (std::strcmp(words[i], name) == 0) return words[i + 1];
  return otherwise;
}
int fail(const hm::Error& error) { return std::fprintf(stderr, "%s\n", error.message().c_str()), 1; }

/// Appends a number to a list of JSON.
void list(std::string& text, double value) {
  if (!text.empty()) text += ',';
  text += std::to_string(value);
}

/// Sums by stratum.
struct Mean {
  double loss = 0, experts = 0, slices = 0, floor = 0, tokens = 0;
  void add(double l, double k, double n, double h) { loss += l, experts += k, slices += n, floor += h, tokens += 1; }
  std::string json() const {
    char text[200];
    std::snprintf(text, sizeof text, "{\"loss\":%.6f,\"experts\":%.4f,\"slices\":%.4f,\"floor\":%.6f,\"tokens\":%.0f}",
                  loss / tokens, experts / tokens, slices / tokens, floor / tokens, tokens);
    return tokens > 0 ? text : "null";
  }
};

}  // namespace

int main(int count, char** words) {
  const std::string data = option(count, words, "--data", "text"), out = option(count, words, "--out", "runs.jsonl");
  const auto seed = static_cast<std::uint64_t>(std::atoll(option(count, words, "--seed", "1")));
  const Index steps = std::atoll(option(count, words, "--steps", "480"));
  const double rate = std::atof(option(count, words, "--rate", "3e-3"));

  language::Text training_text, validation_text;
  auto text = hm::train::Text::read(option(count, words, "--file", "text.txt"));
  if (data == "language") {
    const language::Language source(language_options, 10);
    training_text = source.text(training_letters, 11);
    validation_text = source.text(validation_letters, 12);
    std::string content;
    for (const auto* part : {&training_text, &validation_text})
      for (const std::int32_t letter : part->token) content += static_cast<char>(letter);
    text = hm::train::Text::bytes(
        content, static_cast<double>(validation_letters) / static_cast<double>(training_letters + validation_letters));
  }
  if (!text) return fail(text.error());

  hm::Model<M, hm::f32> model{hm::Seed{seed}};
  hm::train::Options options{.batch = 8 * 256 / CONTEXT, .length = CONTEXT};
  options.schedule = {.peak = rate, .warmup = 50, .steps = steps, .last = 0.1};
  options.seed = seed;
  options.budgets.sampled = Chosen::training.sampled;
  options.budgets.twins_from = Chosen::training.twins_from;
  options.budgets.fixed.budget = Chosen::training.budget;
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, options);
  if (!trainer) return fail(trainer.error());
  const std::string place = std::string(option(count, words, "--folder", ".")) + "/" + ARM_TEXT(ARM) + "-" + data + "-" +
                            std::to_string(seed) + "-" + std::to_string(steps) + "-" + option(count, words, "--rate", "3e-3");
  if (hm::io::load_checkpoint(*trainer, place + ".safetensors")) std::fprintf(stderr, "%s goes on\n", place.c_str());

  std::string losses;
  double seconds = 0, last_tenth = 0, lost = 0;
  const Index begun = trainer->steps_done();
  while (trainer->steps_done() < steps) {
    const hm::train::Stopwatch watch;
    const auto report = trainer->step();
    seconds += watch.seconds();
    if (!report) {  // counts as lost: the plan's uniform loss
      lost = 1;
      break;
    }
    const Index done = trainer->steps_done();
    if (done <= 20 || done % 20 == 0) list(losses, report->loss);
    if (done > steps - steps / 10) last_tenth += report->loss / static_cast<double>(steps / 10);
    if (done % 100 == 0)
      if (const auto saved = hm::io::save_checkpoint(*trainer, place + ".safetensors"); !saved) return fail(saved.error());
  }

  // Validation: everything at full budget, by stratum where there are strata; and the loss at six budgets.
  Mean all, stratum[language::strata];
  const double layers = static_cast<double>(M::layer_count);
  const double budget = Chosen::training.sampled ? 1.0 : Chosen::training.budget;
  std::vector<double> used(to_size(hm::Used::fields * M::layer_count));
  trainer->observe(0, {.budget = budget}, [&](Index token, double loss, const float* use) {
    double experts = 0, slices = 0;
    for (Index l = 0; l < M::layer_count; ++l) {
      experts += static_cast<double>(use[l * hm::Used::fields + hm::Used::experts]) / layers;
      slices += static_cast<double>(use[l * hm::Used::fields + hm::Used::slices]) / layers;
    }
    for (std::size_t i = 0; i < used.size(); ++i) used[i] += static_cast<double>(use[i]);
    const Index at = token - training_letters;
    const bool known = data == "language" && at >= 0 && at < validation_letters;
    all.add(loss, experts, slices, known ? validation_text.entropy[to_size(at)] : 0);
    // A span's first letters say nothing yet of what it is.
    if (known && at % language_options.span >= 16)
      stratum[static_cast<std::size_t>(validation_text.stratum[to_size(at)])].add(loss, experts, slices,
                                                                                  validation_text.entropy[to_size(at)]);
  });
  std::string budgets;
  if (Chosen::training.sampled)
    for (int i = 0; i <= 5; ++i) {
      char pair[80];
      std::snprintf(pair, sizeof pair, "%s[%.1f,%.6f]", i == 0 ? "" : ",", i / 5.0, trainer->evaluate(0, {.budget = i / 5.0}));
      budgets += pair;
    }
  std::string uses;
  for (const double u : used) list(uses, u / all.tokens);

  std::FILE* const file = std::fopen(out.c_str(), "a");
  if (file == nullptr) return std::fprintf(stderr, "%s cannot be written\n", out.c_str()), 1;
  std::fprintf(file,
               "{\"arm\":\"%s\",\"data\":\"%s\",\"seed\":%llu,\"steps\":%lld,\"rate\":%g,\"commit\":\"%s\",\"lost\":%.0f,"
               "\"parameters\":%lld,\"active\":%lld,\"flops\":%.0f,\"rows_per_second\":%.0f,\"last_tenth\":%.6f,"
               "\"validation\":%s,\"easy\":%s,\"hard\":%s,\"noise\":%s,\"budgets\":[%s],\"used\":[%s],\"losses\":[%s]}\n",
               ARM_TEXT(ARM), data.c_str(), static_cast<unsigned long long>(seed), static_cast<long long>(steps), rate,
               option(count, words, "--commit", "unknown"), lost, static_cast<long long>(hm::Account<M>::parameters()),
               static_cast<long long>(hm::Account<M>::active_parameters().target),
               hm::Account<M>::flops_per_token(CONTEXT).forward,
               static_cast<double>((trainer->steps_done() - begun) * trainer->tokens_per_step()) / seconds, last_tenth,
               all.json().c_str(), stratum[0].json().c_str(), stratum[1].json().c_str(), stratum[2].json().c_str(),
               budgets.c_str(), uses.c_str(), losses.c_str());
  return std::fclose(file) == 0 ? 0 : 1;
}
