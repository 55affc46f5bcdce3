// One run of docs/results/hybridmoe-plan.md: trains the model ARM and appends one line of JSON to a file. Saves every 100 steps;
// started again, it goes on bit for bit.
//   arm_NAME --data text|language|long [--file FILE] --seed N --steps N --rate R --out FILE [--folder DIR] [--commit ID]
//   arm_NAME --time N ...      trains N steps and prints the median of a step's seconds per token; nothing else
//   arm_NAME --price L --gain G --twins P --least P --target P --above B --lean P --evenly 0|1 --sampled 0|1 ...   other Budgets
//   arm_NAME --keep FILE ...   writes the trained weights to FILE
#include <cstdlib>
#include <cstring>

#include <hybridmoe/io/checkpoint.hpp>

#include "../build_tag.hpp"
#include "arms.hpp"
#include "corpus.hpp"
#include "measure.hpp"

#if !defined(ARM)
#define ARM full
#endif
#define ARM_TEXT_(x) #x
#define ARM_TEXT(x) ARM_TEXT_(x)

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;
using hm::train::Condition;
using Chosen = arms::ARM;
using M = Chosen::Model;
using Model = hm::Model<M, hm::f32>;
using Trainer = hm::train::Trainer<Model>;

namespace {

int fail(const hm::Error& error) { return std::fprintf(stderr, "%s\n", error.message().c_str()), 1; }

struct Run {
  std::string data = "text", file = "text.txt", out = "runs.jsonl", folder = ".", commit = "unknown", rate = "3e-3", keep;
  std::uint64_t seed = 1;
  Index steps = 480, time = 0;
  hm::train::Options options;

  Run(int count, char** words) {
    const auto option = [&](const char* name, auto& value) {
      for (int i = 1; i + 1 < count; ++i) {
        if (std::strcmp(words[i], name) != 0) continue;
        using Value = std::remove_reference_t<decltype(value)>;
        if constexpr (std::is_same_v<Value, std::string>)
          value = std::string(words[i + 1]);
        else
          value = static_cast<Value>(std::atof(words[i + 1]));
      }
    };
    option("--data", data), option("--file", file), option("--out", out), option("--folder", folder);
    option("--commit", commit), option("--rate", rate), option("--keep", keep);
    option("--seed", seed), option("--steps", steps), option("--time", time);
    options = arms::options<Chosen>(seed, steps, std::atof(rate.c_str()));
    hm::train::Budgets& budgets = options.budgets;
    option("--price", budgets.price), option("--gain", budgets.gain_loss), option("--twins", budgets.twins);
    option("--least", budgets.at_least), option("--target", budgets.at_target), option("--sampled", budgets.sampled);
    option("--above", budgets.above), option("--lean", budgets.lean), option("--evenly", budgets.evenly);
  }
  std::string checkpoint() const {
    return folder + "/" + ARM_TEXT(ARM) + "-" + data + "-" + std::to_string(seed) + "-" + std::to_string(steps) + "-" + rate +
           ".safetensors";
  }
};

int time_steps(Trainer& trainer, Index steps) {
  std::vector<double> seconds;
  for (Index i = 0; i < steps; ++i) {
    const hm::train::Stopwatch watch;
    if (const auto report = trainer.step(); !report) return fail(report.error());
    seconds.push_back(watch.seconds() / static_cast<double>(trainer.tokens_per_step()));
  }
  std::sort(seconds.begin(), seconds.end());
  return std::printf("%.9f\n", seconds[seconds.size() / 2]), 0;
}

constexpr bool chooses(Index layer) { return M::LayerPattern::letter_at(layer) == 'A'; }

/// Means over validation at one budget and target: by stratum, by place in the window, per layer; and token by token.
struct Seen {
  measure::Mean all, stratum[language::strata], place[16];
  measure::Mechanism mechanism[M::layer_count][1 + language::strata];  // of all tokens, and by stratum
  std::vector<double> loss, complexity, used = std::vector<double>(to_size(hm::Used::fields * M::layer_count));

  Seen(Trainer& trainer, const corpus::Corpus* corpus, const Condition& condition, Index windows = 0) {
    trainer.observe(windows, condition, [&](const hm::train::Observed<float>& seen) {
      const auto mean_of = [&](Index field) {
        double sum = 0;
        for (Index l = 0; l < M::layer_count; ++l) sum += static_cast<double>(seen.used[l * hm::Used::fields + field]);
        return sum / static_cast<double>(M::layer_count);
      };
      const double experts = mean_of(hm::Used::experts), slices = mean_of(hm::Used::slices);
      for (std::size_t i = 0; i < used.size(); ++i) used[i] += static_cast<double>(seen.used[i]);
      const corpus::Corpus::Known known = corpus == nullptr ? corpus::Corpus::Known{} : corpus->of(seen.token);
      // The place of the row that predicts, not of what it predicts.
      const auto row = static_cast<std::size_t>(all.tokens() % CONTEXT);
      place[row * 16 / CONTEXT].add(seen.loss, experts, slices, known.entropy);
      all.add(seen.loss, experts, slices, known.entropy);
      if (known.counts) stratum[known.stratum].add(seen.loss, experts, slices, known.entropy);
      for (Index l = 0; l < M::layer_count; ++l) {
        if (!chooses(l)) continue;
        const auto of = [&](Index field) { return static_cast<double>(seen.used[l * hm::Used::fields + field]); };
        const double window = of(hm::Used::window), keys = of(hm::Used::key_tokens), global = of(hm::Used::global);
        mechanism[l][0].add(window, keys, global);
        if (known.counts) mechanism[l][1 + known.stratum].add(window, keys, global);
      }
      loss.push_back(seen.loss);
      if (seen.complexity != nullptr) complexity.push_back(static_cast<double>(*seen.complexity));
    });
    for (double& use : used) use /= static_cast<double>(all.tokens());
  }

  /// Of every layer that chooses: {"budget":β,"target":q,"layer":n,"all":…,"easy":…,"hard":…,"noise":…}, measure::Mechanism each.
  void append_mechanisms(std::string& list, const Condition& condition) const {
    for (Index l = 0; l < M::layer_count; ++l) {
      if (!chooses(l)) continue;
      std::string one = "{\"budget\":" + measure::number(condition.budget, "%g");
      one.append(",\"target\":").append(measure::number(condition.target, "%g"));
      one.append(",\"layer\":").append(std::to_string(l + 1));
      const char* const name[] = {"all", "easy", "hard", "noise"};
      for (int s = 0; s <= language::strata; ++s) one.append(",\"").append(name[s]).append("\":").append(mechanism[l][s].json());
      measure::append(list, one + "}");
    }
  }
};

}  // namespace

int main(int count, char** words) {
  const Run run(count, words);
  const auto content = corpus::of(run.data, run.file);
  if (!content) return fail(content.error());
  Model model{hm::Seed{run.seed}};
  auto trainer = Trainer::create(model, content->text, run.options);
  if (!trainer) return fail(trainer.error());
  if (run.time > 0) return time_steps(*trainer, run.time);
  if (hm::io::load_checkpoint(*trainer, run.checkpoint())) std::fprintf(stderr, "%s goes on\n", run.checkpoint().c_str());

  std::string losses;
  double seconds = 0, last_tenth = 0;
  const Index begun = trainer->steps_done();
  bool lost = false;
  while (trainer->steps_done() < run.steps && !lost) {
    const hm::train::Stopwatch watch;
    const auto report = trainer->step();
    seconds += watch.seconds();
    lost = !report;  // the plan counts it with the uniform loss
    if (lost) {
      std::fprintf(stderr, "%s on %s, seed %llu: lost after %lld steps: %s\n", ARM_TEXT(ARM), run.data.c_str(),
                   static_cast<unsigned long long>(run.seed), static_cast<long long>(trainer->steps_done()),
                   report.error().message().c_str());
      break;
    }
    const Index done = trainer->steps_done();
    if (done <= 20 || done % 20 == 0) measure::append(losses, measure::number(report->loss));
    if (done > run.steps - run.steps / 10) last_tenth += report->loss / static_cast<double>(run.steps / 10);
    if (done % 100 == 0 || done == run.steps)
      if (const auto saved = hm::io::save_checkpoint(*trainer, run.checkpoint()); !saved) return fail(saved.error());
  }

  if (!run.keep.empty())
    if (const auto kept = hm::io::save_weights(model, run.keep); !kept) return fail(kept.error());

  const Condition trained_for{.budget = Chosen::training.sampled ? 1.0 : Chosen::training.budget};
  const Seen full(*trainer, &*content, trained_for);
  std::string budgets, places, used, complexity = "null";
  if (!full.complexity.empty() && Chosen::training.sampled) {
    const Seen least(*trainer, nullptr, {.budget = 0});
    complexity = measure::of_complexity(full.complexity, full.loss, least.loss);
    measure::append(budgets, measure::numbers({0, least.all.loss()}));
  }
  if (run.data == "text" && Chosen::training.sampled)
    for (const double budget : {0.2, 0.25, 0.4, 0.5, 0.6, 0.8})
      measure::append(budgets, measure::numbers({budget, Seen(*trainer, nullptr, {.budget = budget}).all.loss()}));
  if (Chosen::training.sampled) measure::append(budgets, measure::numbers({1, full.all.loss()}));
  for (const measure::Mean& place : full.place) measure::append(places, measure::number(place.loss()));
  for (const double use : full.used) measure::append(used, measure::number(use));
  // A mechanism is chosen by budget and target too.
  std::string mechanisms;
  full.append_mechanisms(mechanisms, trained_for);
  if (!mechanisms.empty())
    for (const Condition& condition : {Condition{0.5, 1}, Condition{0, 1}, Condition{1, 0}})
      Seen(*trainer, &*content, condition).append_mechanisms(mechanisms, condition);

  // The mean number of experts that the plan fixes is one on training text.
  const auto training = corpus::of_training(content->text);
  if (!training) return fail(training.error());
  auto again = Trainer::create(model, *training, run.options);
  if (!again) return fail(again.error());
  const Seen on_training(*again, nullptr, trained_for, 25'600 / CONTEXT);

  std::FILE* const file = std::fopen(run.out.c_str(), "a");
  if (file == nullptr) return std::fprintf(stderr, "%s cannot be written\n", run.out.c_str()), 1;
  std::fprintf(
      file,
      "{\"arm\":\"%s\",\"data\":\"%s\",\"seed\":%llu,\"steps\":%lld,\"rate\":%g,\"commit\":\"%s\",\"build\":\"%s\",\"price\":%g,"
      "\"gain\":%g,\"above\":%g,\"lean\":%g,\"evenly\":%d,"
      "\"lost\":%d,\"parameters\":%"
      "lld,"
      "\"active\":%lld,\"flops\":%.0f,\"rows_per_second\":%.0f,\"last_tenth\":%.6f,\"validation\":%s,\"easy\":%s,\"hard\":%s,"
      "\"noise\":%s,\"training\":%s,\"budgets\":[%s],\"places\":[%s],\"used\":[%s],\"complexity\":%s,\"mechanisms\":[%s],"
      "\"losses\":[%s]}\n",
      ARM_TEXT(ARM), run.data.c_str(), static_cast<unsigned long long>(run.seed), static_cast<long long>(run.steps),
      std::atof(run.rate.c_str()), run.commit.c_str(), replay::build(), run.options.budgets.price, run.options.budgets.gain_loss,
      run.options.budgets.above, run.options.budgets.lean, run.options.budgets.evenly ? 1 : 0, lost ? 1 : 0,
      static_cast<long long>(hm::Account<M>::parameters()), static_cast<long long>(hm::Account<M>::active_parameters().target),
      hm::Account<M>::flops_per_token(CONTEXT).forward,
      static_cast<double>((trainer->steps_done() - begun) * trainer->tokens_per_step()) / seconds, last_tenth,
      full.all.json().c_str(), full.stratum[0].json().c_str(), full.stratum[1].json().c_str(), full.stratum[2].json().c_str(),
      on_training.all.json().c_str(), budgets.c_str(), places.c_str(), used.c_str(), complexity.c_str(), mechanisms.c_str(),
      losses.c_str());
  if (std::fclose(file) != 0) return std::fprintf(stderr, "%s cannot be written\n", run.out.c_str()), 1;
  std::remove(run.checkpoint().c_str());
  return 0;
}
