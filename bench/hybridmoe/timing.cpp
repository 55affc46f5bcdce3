// H7 of docs/results/hybridmoe-plan.md: what a budget saves. Loads a trained full model and times, on one thread, a prefill of
// 256 tokens and decoding, at full budget and at half of the worst case's FLOPs, alternating; prints one line of JSON. Time is
// the program's own CPU time, so that other programs count little.
//   bench_budget WEIGHTS TEXT      (weights: made by arm_full --keep WEIGHTS)
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include <hybridmoe/io/checkpoint.hpp>

#include "arms.hpp"

namespace hm = hybridmoe;
using hm::Index;
using Model = hm::Model<arms::Full, hm::f32>;

namespace {

constexpr Index prompt = 256 - 64, decoded = 64;
constexpr int repetitions = 21;
constexpr double half = hm::Account<arms::Full>::budget_for(0.5, 256);

int fail(const hm::Error& error) { return std::fprintf(stderr, "%s\n", error.message().c_str()), 1; }
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + repetitions / 2, values.end());
  return values[repetitions / 2];
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return std::fprintf(stderr, "bench_budget WEIGHTS TEXT\n"), 1;
  const auto text = hm::train::Text::read(words[2]);
  if (!text) return fail(text.error());
  Model model{hm::Seed{1}};
  if (const auto loaded = hm::io::load_weights(model, words[1]); !loaded) return fail(loaded.error());
  const auto packed = hm::pack(model);
  auto session = hm::generate::Session<std::remove_const_t<decltype(packed)>>::create(packed, {.rows = 256});
  if (!session) return fail(session.error());
  const auto token = [&](Index place) { return std::span(text->tokens() + text->split() + place, 1); };

  std::vector<double> prefill[2], decode[2];
  for (int i = 0; i < repetitions; ++i)
    for (int b = 0; b < 2; ++b) {
      const Index at = i * 256;
      const auto fresh = [&]() -> hm::Status {
        session->reset(0);
        return session->spend(0, {.budget = b == 0 ? 1.0 : half});
      };
      if (const auto told = fresh(); !told) return fail(told.error());
      const double whole = cpu_seconds();
      if (const auto fed = session->feed(0, std::span(text->tokens() + text->split() + at, 256)); !fed) return fail(fed.error());
      prefill[b].push_back((cpu_seconds() - whole) / 256);

      if (const auto told = fresh(); !told) return fail(told.error());
      if (const auto fed = session->feed(0, std::span(text->tokens() + text->split() + at, prompt)); !fed)
        return fail(fed.error());
      const double watch = cpu_seconds();
      for (Index t = 0; t < decoded; ++t)
        if (const auto fed = session->feed(0, token(at + prompt + t)); !fed) return fail(fed.error());
      decode[b].push_back((cpu_seconds() - watch) / decoded);
    }
  std::printf(
      "{\"beta\":%.6f,\"flops_ratio\":%.4f,\"prefill\":[%.9f,%.9f],\"prefill_ratio\":%.4f,\"decode\":[%.9f,%.9f],"
      "\"decode_ratio\":%.4f}\n",
      half, hm::Account<arms::Full>::capped_flops(256, half) / hm::Account<arms::Full>::capped_flops(256, 1), median(prefill[0]),
      median(prefill[1]), median(prefill[1]) / median(prefill[0]), median(decode[0]), median(decode[1]),
      median(decode[1]) / median(decode[0]));
}
