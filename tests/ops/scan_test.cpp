// The chunked scan and its gradients against the recurrence S_t = e^{ΔA} S_{t−1} + Δ B ⊗ x and its adjoint, token by token in
// double.

#include <limits>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/ops/scan_backward.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
using hm::Index;
using Numbers = std::vector<double>;

namespace {

/// Runs items last to first: what depends on their order shows.
struct Backwards {
  template <class Kernel>
  void each(Index count, const Kernel& kernel) const {
    for (Index i = count - 1; i >= 0; --i) kernel(i);
  }
  static constexpr int concurrency() { return 1; }
};

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class Sizes>
struct Case {
  static constexpr int H = Sizes::heads, P = Sizes::head, N = Sizes::state, G = Sizes::groups, I = Sizes::inner;
  static constexpr int row = I + 2 * Sizes::shared;
  std::vector<Index> lengths;
  Index rows = 0;
  Numbers raw, values, bias, decay_log, skip, dy;  // raw: [rows, H], values: [rows, row]
  Numbers y, d_raw, d_values, d_bias, d_decay_log, d_skip;

  /// `pace` shifts the steps, `rate` the decays.
  Case(std::vector<Index> n, double pace, double rate) : lengths(std::move(n)) {
    for (const Index length : lengths) rows += length;
    raw = test::numbers(rows * H, 1, 1.0, pace);
    values = test::numbers(rows * row, 2);
    bias = test::numbers(H, 3, 0.5);
    decay_log = test::numbers(H, 4, 0.7, rate);
    skip = test::numbers(H, 5);
    dy = test::numbers(rows * I, 6);
    y.assign(at(rows * I), 0);
    d_raw.assign(raw.size(), 0);
    d_values.assign(values.size(), 0);
    d_bias.assign(at(H), 0);
    d_decay_log.assign(at(H), 0);
    d_skip.assign(at(H), 0);
    Index first = 0;
    for (const Index length : lengths) {
      for (int h = 0; h < H; ++h) recurrence(first, length, h);
      first += length;
    }
  }

  void recurrence(Index first, Index length, int h) {
    const double rate = -std::exp(decay_log[at(h)]);
    std::vector<Numbers> memory(at(length + 1), Numbers(at(N * P), 0.0));  // memory[t]: before token t
    Numbers step(at(length));
    for (Index t = 0; t < length; ++t) {
      const Index r = first + t;
      const double in = raw[at(r * H + h)] + bias[at(h)];
      step[at(t)] = in > 20 ? in : std::log1p(std::exp(in));
      for (int n = 0; n < N; ++n) {
        for (int p = 0; p < P; ++p) {
          memory[at(t + 1)][at(n * P + p)] =
              std::exp(step[at(t)] * rate) * memory[at(t)][at(n * P + p)] + step[at(t)] * b(r, h, n) * x(r, h, p);
          y[at(r * I + h * P + p)] += memory[at(t + 1)][at(n * P + p)] * c(r, h, n);
        }
      }
      for (int p = 0; p < P; ++p) y[at(r * I + h * P + p)] += skip[at(h)] * x(r, h, p);
    }
    Numbers adjoint(at(N * P), 0.0);  // ∂ by memory[t + 1]
    for (Index t = length - 1; t >= 0; --t) {
      const Index r = first + t;
      const double kept = std::exp(step[at(t)] * rate);
      double d_step = 0;
      for (int p = 0; p < P; ++p) {
        const double g = dy[at(r * I + h * P + p)];
        d_skip[at(h)] += g * x(r, h, p);
        d_values[index_x(r, h, p)] += g * skip[at(h)];
        for (int n = 0; n < N; ++n) {
          const auto cell = at(n * P + p);
          d_values[index_c(r, h, n)] += g * memory[at(t + 1)][cell];
          adjoint[cell] += g * c(r, h, n);
          d_step += adjoint[cell] * (rate * kept * memory[at(t)][cell] + b(r, h, n) * x(r, h, p));
          d_decay_log[at(h)] += adjoint[cell] * step[at(t)] * kept * memory[at(t)][cell] * rate;
          d_values[index_b(r, h, n)] += adjoint[cell] * step[at(t)] * x(r, h, p);
          d_values[index_x(r, h, p)] += adjoint[cell] * step[at(t)] * b(r, h, n);
          adjoint[cell] *= kept;
        }
      }
      const double in = raw[at(r * H + h)] + bias[at(h)];
      d_raw[at(r * H + h)] = d_step * (in > 20 ? 1 : 1 / (1 + std::exp(-in)));
      d_bias[at(h)] += d_raw[at(r * H + h)];
    }
  }
  static std::size_t index_x(Index r, int h, int p) { return at(r * row + h * P + p); }
  static std::size_t index_b(Index r, int h, int n) { return at(r * row + I + h / (H / G) * N + n); }
  static std::size_t index_c(Index r, int h, int n) { return at(r * row + I + G * N + h / (H / G) * N + n); }
  double x(Index r, int h, int p) const { return values[index_x(r, h, p)]; }
  double b(Index r, int h, int n) const { return values[index_b(r, h, n)]; }
  double c(Index r, int h, int n) const { return values[index_c(r, h, n)]; }
};

/// Difference relative to the spread of what is expected; NaN if any value is.
template <class T>
double error(const std::vector<T>& got, const Numbers& expected, double begin = 0) {
  double squares = 1e-300, most = 0;
  for (const double e : expected) squares += e * e / static_cast<double>(expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - begin - expected[i]);
    if (!(d <= most)) most = d;
  }
  return most / std::sqrt(squares);
}

/// Memory full of NaN.
struct Poisoned {
  std::vector<double> memory;
  explicit Poisoned(Index bytes) : memory(at(bytes / 8 + 16), std::numeric_limits<double>::quiet_NaN()) {}
  hm::Arena arena() {
    std::byte* const begin = reinterpret_cast<std::byte*>(memory.data());
    return {begin + (64 - reinterpret_cast<std::uintptr_t>(begin) % 64) % 64, begin + memory.size() * 8};
  }
};

template <class Space, class T, class Sizes>
void check(const Case<Sizes>& c, double tolerance, double gradient_tolerance, double begin = 1) {
  hm::BatchPlan plan;
  for (const Index n : c.lengths) plan.add(0, 0, n);
  const Index* const base = plan.data();
  const hm::Batch batch = plan.view(base);
  const hm::Extent extent = hm::Extent::of(batch, true);
  const auto raw = test::cast<T>(c.raw), values = test::cast<T>(c.values), bias = test::cast<T>(c.bias),
             decay = test::cast<T>(c.decay_log), skip = test::cast<T>(c.skip), dy = test::cast<T>(c.dy);
  const hm::ops::ScanInput<T> input{raw.data(), c.H, values.data(), c.row, bias.data(), decay.data(), skip.data()};
  Poisoned tape_memory(hm::planned_bytes<hm::ops::ScanTape<T, Sizes>>(extent));
  Poisoned scratch(hm::planned_bytes<hm::ops::ScanScratch<T, Sizes>>(extent)),
      scratch_back(hm::planned_bytes<hm::ops::ScanBackwardScratch<T, Sizes>>(extent));
  hm::Arena tape_arena = tape_memory.arena();
  const hm::ops::ScanTape<T, Sizes> tape(tape_arena, extent);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  std::vector<T> y(c.y.size(), nan);
  hm::ops::Scan<Space, T, Sizes>::forward(Space{}, scratch.arena(), batch, input, nullptr, 0, tape, y.data());
  CHECK(error(y, c.y) < tolerance);

  std::vector<T> d_raw(raw.size(), nan), d_values(values.size(), nan), d_bias(bias.size(), static_cast<T>(begin));
  std::vector<T> d_decay = d_bias, d_skip = d_bias;
  const hm::ops::ScanGradient<T> gradient{d_raw.data(),   c.H,          d_values.data(), c.row, d_bias.data(),
                                          d_decay.data(), d_skip.data()};
  hm::ops::scan_backward(Space{}, scratch_back.arena(), batch, input, tape, dy.data(), gradient);
  CHECK(error(d_raw, c.d_raw) < gradient_tolerance);
  CHECK(error(d_values, c.d_values) < gradient_tolerance);
  CHECK(error(d_bias, c.d_bias, begin) < gradient_tolerance);
  CHECK(error(d_decay, c.d_decay_log, begin) < gradient_tolerance);
  CHECK(error(d_skip, c.d_skip, begin) < gradient_tolerance);
}

}  // namespace

TEST_CASE("the chunked scan and its gradients equal the recurrence and its adjoint") {
  using Plain = hm::ops::ScanSizes<4, 16, 8, 1, 16>;
  using Odd = hm::ops::ScanSizes<6, 3, 5, 2, 8>;
  using Long = hm::ops::ScanSizes<2, 8, 16, 2, 64>;
  const std::vector<Index> lengths = {1, 16, 7, 50, 64, 130, 65};
  for (const double pace : {-4.0, -1.0, 1.0}) {
    INFO("pace " << pace);
    check<hm::exec::Inline, double>(Case<Plain>(lengths, pace, 0), 1e-12, 1e-11);
    check<Backwards, double>(Case<Odd>(lengths, pace, 1), 1e-12, 1e-11);
    check<hm::exec::Inline, double>(Case<Long>(lengths, pace, 0.5), 1e-12, 1e-11);
    check<hm::exec::Inline, float>(Case<Plain>(lengths, pace, 0), 1e-5, 1e-4);
    check<Backwards, float>(Case<Long>(lengths, pace, 0.5), 1e-5, 1e-4);
  }
}

TEST_CASE("steps above softplus' threshold and decays that forget at once stay exact") {
  using Sizes = hm::ops::ScanSizes<3, 4, 4, 1, 16>;
  check<hm::exec::Inline, double>(Case<Sizes>({40, 16, 3}, 19.0, 2), 1e-12, 1e-11, 0);  // about e^{−150} from token to token
  check<hm::exec::Inline, float>(Case<Sizes>({40, 16, 3}, 19.0, 2), 1e-5, 1e-4, 0);
  check<hm::exec::Inline, double>(Case<Sizes>({40, 16, 3}, -12.0, -6), 1e-12, 1e-11, 0);  // nearly nothing forgotten
  check<hm::exec::Inline, float>(Case<Sizes>({40, 16, 3}, -12.0, -6), 1e-5, 1e-4, 0);
}

TEST_CASE("softplus keeps its relative precision") {
  double most = 0, most_float = 0;
  for (double x = -80; x < 40; x += 0.00137) {
    const float f = static_cast<float>(x);
    const double expected = x > 20 ? x : std::log1p(std::exp(x)),
                 for_float = f > 20 ? f : std::log1p(std::exp(static_cast<double>(f)));
    most = std::max(most, std::abs(hm::ops::softplus(x) / expected - 1));
    most_float = std::max(most_float, std::abs(static_cast<double>(hm::ops::softplus(f)) / for_float - 1));
  }
  CHECK(most < 1e-15);
  CHECK(most_float < 4e-7);
  CHECK(hm::ops::softplus(20.5f) == 20.5f);
  CHECK(std::isnan(hm::ops::softplus(std::numeric_limits<float>::quiet_NaN())));
  CHECK(hm::ops::softplus(-std::numeric_limits<float>::infinity()) == 0.0f);
}
