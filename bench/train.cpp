// Training speed of a GPT of 6 layers x 384 (6 heads, context 256, batch 12, vocabulary 256, float) in tokens per second and as a
// fraction of the float peak measured in the same run. bench/peers/compare runs it in turn with PyTorch.
//   bench_train [--threads 2] [--steps 5] [--repeats 1]
#include <algorithm>
#include <cstring>

#include <hybridmoe/kokkos.hpp>

#include <hybridmoe/zoo/gpt2.hpp>

namespace hm = hybridmoe;
struct Gpt
    : hm::zoo::Gpt2<hm::zoo::Gpt2Sizes{.vocab = 256, .width = 384, .layers = 6, .heads = 6, .context = 256, .hidden = 1536}> {};

int main(int count, char** words) {
  const auto option = [&](const char* name, int otherwise) {
    for (int i = 1; i + 1 < count; ++i)
      if (std::strcmp(words[i], name) == 0) return std::atoi(words[i + 1]);
    return otherwise;
  };
  const Kokkos::ScopeGuard kokkos(Kokkos::InitializationSettings().set_num_threads(option("--threads", 2)));
  using Space = hm::exec::On<Kokkos::DefaultExecutionSpace>;
  std::string content(200'000, ' ');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(hm::random::draw({1, 2}, 3, i).word[0]);
  const auto text = hm::train::Text::bytes(content);
  hm::Model<Gpt, hm::f32, Space> model{hm::Seed{1}};
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, {.batch = 12, .length = 256});
  if (!trainer) return std::puts(trainer.error().message().c_str()), 1;
  const double flops = hm::Account<Gpt>::flops_per_token(256).training, peak = hm::train::peak_flops(model.space());
  if (!trainer->step()) return 1;  // touches all memory once
  std::vector<double> rates;
  for (int repeat = 0; repeat < option("--repeats", 1); ++repeat) {
    const hm::train::Stopwatch watch;
    for (int step = 0; step < option("--steps", 5); ++step)
      if (!trainer->step()) return 1;
    rates.push_back(option("--steps", 5) * static_cast<double>(trainer->tokens_per_step()) / watch.seconds());
  }
  std::sort(rates.begin(), rates.end());
  const double median = rates[rates.size() / 2];
  std::printf("hybridmoe %.0f tokens/s, %.2f of the float peak (%.0f GFLOP/s on %d threads)\n", median, median * flops / peak,
              peak / 1e9, option("--threads", 2));
}
