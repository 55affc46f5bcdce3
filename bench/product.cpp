// Products with weights as fractions of what the processor could do, both measured in the same run: f32 products against the
// multiply-add rate of registers, a one-row product against the rate at which memory on 2 MiB pages is read. Where OpenBLAS is
// installed it runs as a peer. A peak is the best median of everything that was measured, so nothing exceeds it.
//   bench_product [--benchmark_repetitions=15] [--benchmark_filter=...] and Google Benchmark's other options
// Benchmarks run in random order, interleaved, so that a drift of the machine hits all alike; the table at the end has medians.
// One thread is timed by its own CPU time, so that other programs count little; several threads by the clock on the wall, and
// repetitions in which other programs took turns on these processors are left out of the table (their number stands below it).
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#if defined(HYBRIDMOE_BENCH_KOKKOS)
#include <hybridmoe/kokkos.hpp>
#endif

#include "peak.hpp"

#if defined(HYBRIDMOE_BENCH_BLAS)
extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*, const float*,
            const int*, const float*, float*, const int*);
void sgemv_(const char*, const int*, const int*, const float*, const float*, const int*, const float*, const int*, const float*,
            float*, const int*);
void openblas_set_num_threads(int);
char* openblas_get_corename();
}
#endif

namespace {

namespace hm = hybridmoe;
using hm::Index;

constexpr Index rows = 512, depth = 2048, columns = 768, few = 8;  // y[rows, columns] = x[rows, depth]·Wᵀ
constexpr Index big_out = 16384, big_in = 4096;                    // 256 MiB: far more than any cache

enum class Bound { multiply, read, cache };  // cache: as many bytes as the small weight has, over and over
constexpr const char* unit(Bound bound) { return bound == Bound::multiply ? "GFLOP/s" : "GB/s"; }

struct Line {
  std::string name;
  Bound bound;
  int threads;
  double goal;  ///< fraction of the bound, 0: none
  std::vector<double> rates = {}, disturbed = {};

  double median() {
    if (rates.empty()) return 0;
    std::sort(rates.begin(), rates.end());
    return rates[rates.size() / 2];
  }
};

/// What was registered, in order, with what was measured.
std::vector<Line>& lines() {
  static std::vector<Line> all;
  return all;
}

/// First estimates of the bounds, for the counters that are printed while the program runs.
double& estimate(Bound bound, int threads) {
  static std::map<std::pair<Bound, int>, double> all;
  return all[{bound, threads}];
}

/// How often a thread of this program had to make room for another program's.
double interruptions() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_nivcsw);
}

/// Registers `body`, which does `work` (FLOP or bytes) a call.
void add(const std::string& name, Bound bound, int threads, double work, double goal, const std::function<void()>& body) {
  const std::string full = name + (threads == 1 ? "/1 thread" : "/" + std::to_string(threads) + " threads");
  lines().push_back({full, bound, threads, goal});
  auto* const benchmark = benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& state) {
    // Threads that waited in vain for work of the benchmark before go to sleep; then caches and this one's threads wake up.
    std::this_thread::sleep_for(std::chrono::milliseconds(40));
    const hm::train::Stopwatch watch;
    do body();
    while (watch.seconds() < 0.01);
    const double before = interruptions();
    const hm::train::Stopwatch measured;
    for (auto _ : state) body();
    state.counters["interruptions/s"] = (interruptions() - before) / measured.seconds();
    const auto rate = benchmark::Counter::kIsIterationInvariantRate;
    state.counters[unit(bound)] = benchmark::Counter(work / 1e9, rate);
    state.counters["of_bound"] = benchmark::Counter(work / estimate(bound, threads), rate);
  });
  benchmark->Unit(benchmark::kMicrosecond)->MinTime(0.05);
  if (threads > 1) benchmark->UseRealTime();
}

/// Keeps every repetition's rate besides printing it.
class Reporter : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.error_occurred) continue;
      for (Line& line : lines())
        if (line.name == run.run_name.function_name) {
          // A program that shares a processor takes turns of a few milliseconds: hundreds a second.
          const bool alone = line.threads == 1 || run.counters.at("interruptions/s") < 60;
          (alone ? line.rates : line.disturbed).push_back(run.counters.at(unit(line.bound)));
        }
    }
    ConsoleReporter::ReportRuns(runs);
  }
};

/// Memory of everything, and the operands in it.
template <class Space>
struct Operands {
  Space space{};
  int threads = space.concurrency();
  using Product = hm::ops::Matmul<Space, float, columns, depth>;
  using Big = hm::ops::Matmul<Space, float, big_out, big_in>;
  hm::exec::Buffer<Space> x{space, rows* depth * 4}, y{space, rows* columns * 4}, flat{space, columns* depth * 4},
      packed{space, columns* depth * 4}, big{space, big_out* big_in * 4}, line{space, (big_out + big_in) * 4},
      sink{space, 4096 * bench::lanes * 4}, dx{space, rows* depth * 4}, dw{space, columns* depth * 4},
      workspace{space, Product::workspace_bytes(rows, true)};

  static float* floats(hm::exec::Buffer<Space>& buffer) { return reinterpret_cast<float*>(buffer.data()); }
  explicit operator bool() {
    return bool(x) && bool(y) && bool(flat) && bool(packed) && bool(big) && bool(line) && bool(sink) && bool(dx) && bool(dw) &&
           bool(workspace);
  }
  void fill() {
    const auto draw = [](float* to, Index count) {
      std::uint32_t bits = 1;
      for (Index i = 0; i < count; ++i) {
        bits = bits * 1664525u + 1013904223u;
        to[i] = static_cast<float>(bits >> 9) * 0x1p-23f - 0.5f;
      }
    };
    draw(floats(x), rows * depth);
    draw(floats(y), rows * columns);
    draw(floats(flat), columns * depth);
    draw(floats(big), big_out * big_in);
    draw(floats(line), big_in);
  }
};

template <Index streams, class Space>
void add_read(Operands<Space>& o) {
  using Kernel = bench::ReadKernel<streams>;
  constexpr Index items = big_out * big_in / Kernel::piece;
  add("read " + std::to_string(streams) + " streams", Bound::read, o.threads, big_out * big_in * 4.0, 0,
      [&o] { o.space.each(items, Kernel{o.floats(o.big), o.floats(o.sink)}); });
}

template <class Space>
void add_all(Operands<Space>& o) {
  using Product = typename Operands<Space>::Product;
  using Big = typename Operands<Space>::Big;
  using Flat = hm::Array<float, columns, depth>;
  using Packed = hm::Panels<float, columns, depth>;
  using Again = bench::ReadKernel<1, depth * columns / 6>;
  const int threads = o.threads;
  const auto arena = [&o] { return hm::Arena{o.workspace.data(), o.workspace.data() + o.workspace.bytes()}; };
  float *const x = o.floats(o.x), *const y = o.floats(o.y), *const dx = o.floats(o.dx), *const line = o.floats(o.line);
  Flat &flat = *reinterpret_cast<Flat*>(o.flat.data()), &dw = *reinterpret_cast<Flat*>(o.dw.data());
  Packed& packed = *reinterpret_cast<Packed*>(o.packed.data());
  const auto& big = *reinterpret_cast<const hm::Panels<float, big_out, big_in>*>(o.big.data());
  Product::pack(o.space, flat, packed);

  const double flops = 2.0 * rows * depth * columns, few_flops = 2.0 * few * depth * columns, bytes = 4.0 * big_out * big_in;
  add("multiply-adds", Bound::multiply, threads, bench::FmaKernel::flops * bench::FmaKernel::items, 0,
      [&o] { o.space.each(bench::FmaKernel::items, bench::FmaKernel{o.floats(o.sink)}); });
  add_read<1>(o);
  add_read<4>(o);
  add_read<8>(o);
  // The weight of the small product comes from a cache that all cores share; where that is slow, it is what bounds few rows.
  add("read 6 MiB again", Bound::cache, threads, 4.0 * depth * columns, 0,
      [&o] { o.space.each(depth * columns / Again::piece, Again{o.floats(o.big), o.floats(o.sink)}); });
  add("512x2048x768 packed", Bound::multiply, threads, flops, threads == 1 ? 0.88 : 0.85,
      [=, &o, &packed] { Product::forward(o.space, arena(), rows, x, packed, nullptr, y); });
  add("8x2048x768 packed", Bound::multiply, threads, few_flops, threads == 1 ? 0.80 : 0,
      [=, &o, &packed] { Product::forward(o.space, arena(), few, x, packed, nullptr, y); });
  add("8x2048x768 packed, as a read", Bound::cache, threads, columns * depth * 4.0, 0,
      [=, &o, &packed] { Product::forward(o.space, arena(), few, x, packed, nullptr, y); });
  add("1x4096x16384 packed", Bound::read, threads, bytes, 0.90,
      [=, &o, &big] { Big::forward(o.space, arena(), 1, line, big, nullptr, line + big_in); });
  add("512x2048x768 flat", Bound::multiply, threads, flops, 0,
      [=, &o, &flat] { Product::forward(o.space, arena(), rows, x, flat, nullptr, y); });
  add("512x2048x768 backward, input", Bound::multiply, threads, flops, 0,
      [=, &o, &flat] { Product::backward_input(o.space, arena(), rows, y, flat, dx); });
  add("512x2048x768 backward, weight", Bound::multiply, threads, flops, 0,
      [=, &o, &dw] { Product::backward_weight(o.space, arena(), rows, x, y, dw, nullptr); });
#if defined(HYBRIDMOE_BENCH_BLAS)
  const auto blas = [=, &flat](Index count) {
    openblas_set_num_threads(threads);
    const int m = static_cast<int>(columns), n = static_cast<int>(count), k = static_cast<int>(depth);
    const float one = 1, zero = 0;
    sgemm_("T", "N", &m, &n, &k, &one, flat.data, &k, x, &k, &zero, y, &m);
  };
  add("512x2048x768 OpenBLAS", Bound::multiply, threads, flops, 0, [=] { blas(rows); });
  add("8x2048x768 OpenBLAS", Bound::multiply, threads, few_flops, 0, [=] { blas(few); });
  add("1x4096x16384 OpenBLAS", Bound::read, threads, bytes, 0, [=, &big] {
    openblas_set_num_threads(threads);
    const int m = static_cast<int>(big_in), n = static_cast<int>(big_out), step = 1;
    const float one = 1, zero = 0;
    sgemv_("T", &m, &n, &one, big.data, &m, line, &step, &zero, line + big_in, &step);
  });
#endif
}

/// The best of a few short runs, before anything else.
template <class Space>
void estimate_bounds(Operands<Space>& o) {
  const auto best = [](double work, const auto& body) {
    double rate = 0;
    for (int run = 0; run < 5; ++run) {
      const hm::train::Stopwatch watch;
      body();
      rate = std::max(rate, work / watch.seconds());
    }
    return rate;
  };
  estimate(Bound::multiply, o.threads) = best(bench::FmaKernel::flops * bench::FmaKernel::items,
                                              [&] { o.space.each(bench::FmaKernel::items, bench::FmaKernel{o.floats(o.sink)}); });
  using Read = bench::ReadKernel<4>;
  const auto read = [&](Index numbers) {
    return best(4.0 * static_cast<double>(numbers),
                [&, numbers] { o.space.each(numbers / Read::piece, Read{o.floats(o.big), o.floats(o.sink)}); });
  };
  estimate(Bound::read, o.threads) = read(big_out * big_in);
  estimate(Bound::cache, o.threads) = read(Read::piece);
}

void print_table() {
  std::map<std::pair<Bound, int>, double> peak;
  std::size_t left_out = 0, all = 0;
  for (Line& line : lines()) {
    all += line.rates.size() + line.disturbed.size();
    left_out += line.disturbed.size();
    if (line.rates.empty() && !line.disturbed.empty()) {  // better than nothing
      line.rates.swap(line.disturbed);
      line.name += " (disturbed)";
    }
    double& best = peak[{line.bound, line.threads}];
    best = std::max(best, line.median());
  }
  std::printf("\n| what | reached (lowest … highest) | of the bound | goal |\n|-|-|-|-|\n");
  for (Line& line : lines()) {
    if (line.rates.empty()) continue;
    char goal[16] = "";
    if (line.goal > 0) std::snprintf(goal, sizeof goal, "%.0f%%", 100 * line.goal);
    const double median = line.median();
    std::printf("| %s | %.1f (%.1f … %.1f) %s | %.1f%% | %s |\n", line.name.c_str(), median, line.rates.front(),
                line.rates.back(), unit(line.bound), 100 * median / peak[{line.bound, line.threads}], goal);
  }
  std::printf("\n%zu of %zu repetitions were disturbed.\n", left_out, all);
}

/// Whether huge pages may be had, and what OpenBLAS takes the processor for.
void print_circumstances() {
  char words[128] = "unknown";
  if (std::FILE* const file = std::fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r"); file != nullptr) {
    if (std::fgets(words, sizeof words, file) != nullptr) words[std::strcspn(words, "\n")] = 0;
    std::fclose(file);
  }
  std::printf("registers of %d bytes; transparent huge pages: %s\n", bench::cpu::register_bytes, words);
#if defined(HYBRIDMOE_BENCH_BLAS)
  std::printf("OpenBLAS runs its kernels for: %s\n", openblas_get_corename());
#endif
}

}  // namespace

int main(int count, char** words) {
  std::vector<char*> arguments(words, words + count);
  char repetitions[] = "--benchmark_repetitions=15", interleaved[] = "--benchmark_enable_random_interleaving=true";
  arguments.insert(arguments.begin() + 1, {repetitions, interleaved});
  int total = static_cast<int>(arguments.size());
  benchmark::Initialize(&total, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(total, arguments.data())) return 1;
  print_circumstances();

  const auto one = std::make_unique<Operands<hm::exec::Inline>>();
  if (!*one) return std::fprintf(stderr, "memory is out\n"), 1;
  one->fill();
  estimate_bounds(*one);
  add_all(*one);
#if defined(HYBRIDMOE_BENCH_KOKKOS)
  const Kokkos::ScopeGuard kokkos;
  const auto many = std::make_unique<Operands<hm::exec::On<Kokkos::DefaultHostExecutionSpace>>>();
  if (!*many) return std::fprintf(stderr, "memory is out\n"), 1;
  if (many->threads > 1) {
    many->fill();
    estimate_bounds(*many);
    add_all(*many);
  }
#endif
  Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  print_table();
}
