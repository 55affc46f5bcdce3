// Softmax attention: its formula, and its laws on every space.

#include <cmath>

#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/check/subject_of.hpp>
#include <support/laws.hpp>
#include <support/numbers.hpp>

namespace attention = hybridmoe::attention;
namespace check = hybridmoe::check;
namespace position = hybridmoe::position;
using hybridmoe::Heads;
using hybridmoe::Index;
using position::Pairs;

using Env = hybridmoe::Environment<24, 100, 16>;
using Odd = hybridmoe::Environment<13, 120, 7>;

// Every option appears in some mode, and full and window attention with each kind of heads.
struct MultiHead : attention::Full<Heads{3, 3, 8}> {};
struct Grouped : attention::Full<Heads{4, 2, 10}, position::Rotary<500, 6>, attention::NormedQueryKey<>, attention::Bias<true, true>> {};
struct MultiQuery : attention::Full<Heads{33, 1, 4}, position::Rotary<10000, 0, Pairs::adjacent>, attention::NormedQueryKey<false>> {};
struct WindowMultiHead : attention::Local<Heads{2, 2, 10}, 40, position::Nothing, attention::NormedQueryKey<true, 1000>> {};
struct WindowGrouped : attention::Local<Heads{4, 2, 10}, 9, position::Rotary<10000, 4, Pairs::adjacent>, attention::Bias<true, false>> {};
struct WindowMultiQuery : attention::Local<Heads{2, 1, 6}, 2, attention::NormedQueryKey<false>, attention::Bias<false, true>> {};

namespace {

/// Gradients over more than one tile of keys.
check::Options sequences_of(Index longest) {
  check::Options options;
  options.length = longest;
  options.gradient_length = 37;
  return options;
}

/// What the reference has to know of a mode, written down again.
struct Facts {
  std::size_t heads, kv, size, window;
  double base = 0;  ///< 0: no rotation
  std::size_t turned = 0;
  bool adjacent = false, normed = false, gain = false, input_bias = false, output_bias = false;
  double epsilon = 1e-6;
};

using Numbers = std::vector<double>;

/// One sequence from position 0, from the definition: every score, every weight, every sum by itself.
class Reference {
 public:
  Reference(const Facts& facts, std::size_t width, const check::LayerFacts& layer, const Numbers& parameters)
      : f_(facts), width_(width), layer_(layer), parameters_(parameters) {}

  Numbers operator()(const Numbers& x) const {
    const std::size_t rows = x.size() / width_;
    const Numbers query = prepared("query", x, f_.heads), key = prepared("key", x, f_.kv);
    const Numbers value = product(x, "value", f_.kv * f_.size, f_.input_bias);
    Numbers mixed(rows * f_.heads * f_.size, 0.0);
    for (std::size_t t = 0; t < rows; ++t)
      for (std::size_t h = 0; h < f_.heads; ++h) {
        const std::size_t group = h / (f_.heads / f_.kv);
        const std::size_t first = t + 1 > f_.window ? t + 1 - f_.window : 0;
        Numbers weight;
        double total = 0;
        for (std::size_t s = first; s <= t; ++s) {
          double score = 0;
          for (std::size_t i = 0; i < f_.size; ++i)
            score += query[(t * f_.heads + h) * f_.size + i] * key[(s * f_.kv + group) * f_.size + i];
          weight.push_back(std::exp(score / std::sqrt(static_cast<double>(f_.size))));
          total += weight.back();
        }
        for (std::size_t s = first; s <= t; ++s)
          for (std::size_t i = 0; i < f_.size; ++i)
            mixed[(t * f_.heads + h) * f_.size + i] += weight[s - first] / total * value[(s * f_.kv + group) * f_.size + i];
      }
    return product(mixed, "output", width_, f_.output_bias);
  }

 private:
  const double* tensor(const std::string& name) const {
    for (const check::TensorFacts& t : layer_.tensors)
      if (t.name == name) return parameters_.data() + t.offset;
    FAIL("the layer has no tensor " << name);
    return nullptr;
  }
  Numbers product(const Numbers& x, const std::string& name, std::size_t out, bool biased) const {
    const double* const w = tensor(name + ".weight");
    const double* const bias = biased ? tensor(name + ".bias") : nullptr;
    const std::size_t in = name == "output" ? f_.heads * f_.size : width_, rows = x.size() / in;
    Numbers y(rows * out);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t o = 0; o < out; ++o) {
        double sum = bias == nullptr ? 0 : bias[o];
        for (std::size_t i = 0; i < in; ++i) sum += w[o * in + i] * x[r * in + i];
        y[r * out + o] = sum;
      }
    return y;
  }
  /// Projected, normed and turned heads.
  Numbers prepared(const std::string& name, const Numbers& x, std::size_t heads) const {
    Numbers y = product(x, name, heads * f_.size, f_.input_bias);
    for (std::size_t v = 0; v < y.size() / f_.size; ++v) {
      double* const head = y.data() + v * f_.size;
      if (f_.normed) {
        double squares = 0;
        for (std::size_t i = 0; i < f_.size; ++i) squares += head[i] * head[i];
        const double root = std::sqrt(squares / static_cast<double>(f_.size) + f_.epsilon);
        for (std::size_t i = 0; i < f_.size; ++i) head[i] *= (f_.gain ? tensor(name + "_norm.weight")[i] : 1.0) / root;
      }
      if (f_.base == 0) continue;
      const auto time = static_cast<double>(v / heads);
      for (std::size_t i = 0; i < f_.turned / 2; ++i) {
        const double angle = time / std::pow(f_.base, 2.0 * static_cast<double>(i) / static_cast<double>(f_.turned));
        double &a = head[f_.adjacent ? 2 * i : i], &b = head[f_.adjacent ? 2 * i + 1 : i + f_.turned / 2];
        const double x0 = a, x1 = b;
        a = x0 * std::cos(angle) - x1 * std::sin(angle);
        b = x0 * std::sin(angle) + x1 * std::cos(angle);
      }
    }
    return y;
  }

  Facts f_;
  std::size_t width_;
  const check::LayerFacts& layer_;
  const Numbers& parameters_;
};

template <class Mode, class E>
void matches_its_formula(const Facts& facts) {
  check::SubjectOf<Mode, E, double, hybridmoe::Flat, hybridmoe::exec::Inline> subject(hybridmoe::exec::Inline{});
  const Numbers parameters = subject.random_parameters(5);
  subject.set_parameters(parameters);
  const std::vector<Index> lengths{83, 1, 33};
  hybridmoe::BatchPlan plan = check::whole_sequences(lengths);
  check::Training<double> run;
  run.x = test::numbers(plan.rows() * E::width, 9);
  subject.train(plan, run);
  const Reference reference(facts, static_cast<std::size_t>(E::width), subject.facts, parameters);
  double worst = 0, size = 0;
  std::ptrdiff_t at = 0;
  for (const Index length : lengths) {
    const Numbers expected = reference(Numbers(run.x.begin() + at, run.x.begin() + at + length * E::width));
    for (const double value : expected) {
      worst = std::fmax(worst, std::fabs(run.y[static_cast<std::size_t>(at++)] - value));
      size = std::fmax(size, std::fabs(value));
    }
  }
  INFO("largest output " << size << ", largest difference " << worst);
  CHECK(size > 0.1);
  CHECK(worst < 1e-12 * size);
}

}  // namespace

TEST_CASE("multi-head attention keeps the laws") { test::laws_everywhere<MultiHead, Env>(sequences_of(45)); }
TEST_CASE("grouped-query attention of heads of 10 with partial rotation, weighted QK-norm and biases keeps the laws") {
  test::laws_everywhere<Grouped, Odd>(sequences_of(70));
}
TEST_CASE("multi-query attention with adjacent pairs and QK-norm without weight keeps the laws") {
  test::laws_everywhere<MultiQuery, Env>(sequences_of(40));
}
// The rings of these two hold 96 and 64 positions: they wrap around.
TEST_CASE("window attention wider than a key tile keeps the laws") { test::laws_everywhere<WindowMultiHead, Odd>(sequences_of(104)); }
TEST_CASE("window attention with grouped queries keeps the laws") { test::laws_everywhere<WindowGrouped, Env>(sequences_of(75)); }
TEST_CASE("a window of two tokens keeps the laws") { test::laws_everywhere<WindowMultiQuery, Odd>(sequences_of(40)); }

TEST_CASE("attention computes its formula") {
  constexpr std::size_t all = 1000;
  matches_its_formula<MultiHead, Env>({.heads = 3, .kv = 3, .size = 8, .window = all, .base = 10000, .turned = 8});
  matches_its_formula<Grouped, Odd>({.heads = 4, .kv = 2, .size = 10, .window = all, .base = 500, .turned = 6, .normed = true, .gain = true,
                                     .input_bias = true, .output_bias = true});
  matches_its_formula<MultiQuery, Env>({.heads = 33, .kv = 1, .size = 4, .window = all, .base = 10000, .turned = 4, .adjacent = true,
                                        .normed = true});
  matches_its_formula<WindowMultiHead, Odd>({.heads = 2, .kv = 2, .size = 10, .window = 40, .normed = true, .gain = true, .epsilon = 1e-3});
  matches_its_formula<WindowGrouped, Env>({.heads = 4, .kv = 2, .size = 10, .window = 9, .base = 10000, .turned = 4, .adjacent = true,
                                           .input_bias = true});
  matches_its_formula<WindowMultiQuery, Odd>({.heads = 2, .kv = 1, .size = 6, .window = 2, .base = 10000, .turned = 6, .normed = true,
                                              .output_bias = true});
}
