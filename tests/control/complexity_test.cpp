// The complexity estimator against its definition; that its features are constants to the gradient; exact rewind.

#include <algorithm>
#include <cmath>

#include <control/reference.hpp>
#include <control/support.hpp>
#include <hybridmoe/control/complexity.hpp>
#include <support/numbers.hpp>

namespace check = hybridmoe::check;
namespace control = hybridmoe::control;
using hybridmoe::Index;

namespace {

using Read = check::ReadStreams<check::Drive<hybridmoe::stream::Complexity, 1>>;
constexpr control::ComplexityOptions hashed{
    .window = 8, .recent = 4, .projected = 5, .rank = 6, .residues = 10, .hashes = 16, .classes = 8};

// Rings of 7 + 3 positions and of 63 + 8.
using Small = check::WithSources<Read, 2, control::Complexity<hashed, test::FewClasses>>;
constexpr control::ComplexityOptions joining{
    .window = 8, .recent = 4, .projected = 5, .rank = 6, .residues = 10, .hashes = 16, .classes = 8, .joining = 3};
using Joining = check::WithSources<Read, 2, control::Complexity<joining, test::FewClasses>>;
using SmallEnv = hybridmoe::Environment<12, 60, 16, 3>;
constexpr test::ComplexityReference small_reference{
    .width = 12, .window = 8, .recent = 4, .projected = 5, .rank = 6, .hashes = 16, .classes = 8, .residues = 10};
using Whole = check::WithSources<Read, 2, control::Complexity<control::ComplexityOptions{}, test::FewClasses>>;
using WholeEnv = hybridmoe::Environment<12, 200, 24, 8>;

/// A source by its tensors' names, in training calls.
template <class Description, class Env>
struct Subject {
  check::SubjectOf<Description, Env, double, hybridmoe::Flat, hybridmoe::exec::Inline> subject{hybridmoe::exec::Inline{}};
  std::vector<double> parameters = subject.random_parameters(5);
  check::Training<double> run;

  Index offset(const std::string& name) const {
    for (const check::TensorFacts& t : subject.facts.tensors)
      if (t.name == name) return t.offset;
    FAIL("there is no tensor " << name);
    return 0;
  }
  Index size(const std::string& name) const {
    for (const check::TensorFacts& t : subject.facts.tensors)
      if (t.name == name) return t.size;
    return 0;
  }
  double* tensor(const std::string& name) { return parameters.data() + offset(name); }
  void fill(const std::string& name, double value) {
    for (Index i = 0; i < size(name); ++i) tensor(name)[i] = value;
  }
  void train(const std::vector<Index>& lengths) {
    subject.set_parameters(parameters);
    hybridmoe::BatchPlan plan = check::whole_sequences(lengths);
    subject.train(plan, run);
  }
  /// c of every row: the inner layer adds −c to column 0.
  std::vector<double> complexity() const {
    std::vector<double> c;
    for (std::size_t i = 0; i < run.x.size(); i += static_cast<std::size_t>(Env::width)) c.push_back(run.x[i] - run.y[i]);
    return c;
  }
};

/// What check::WithSources makes of rows.
std::vector<int> tokens_of(const std::vector<double>& x, std::size_t width) {
  std::vector<int> token;
  for (std::size_t i = 0; i < x.size(); i += width) {
    const double u = 0.75 / (1 + std::exp(-2 * x[i])) + 0.25 / (1 + std::exp(-2 * x[i + 1]));
    token.push_back(std::min(39, static_cast<int>(u * 40)));
  }
  return token;
}

template <class Description, class Env>
void matches_its_definition(test::ComplexityReference reference, const std::vector<Index>& lengths) {
  Subject<Description, Env> s;
  reference.width = static_cast<std::size_t>(Env::width);
  Index rows = 0;
  for (const Index length : lengths) rows += length;
  s.run.x = test::numbers(rows * Env::width, 9);
  const auto tensor = [&](const std::string& name) -> const double* { return s.tensor(name); };
  s.fill("complexity.variance", 0.2);
  // Pairs that tell much, so that the gain of context varies.
  for (Index i = 0; i < s.size("complexity.predictor.pair.weight"); ++i) s.tensor("complexity.predictor.pair.weight")[i] *= 4;
  std::vector<std::vector<double>> features;
  Index first = 0;
  for (const Index length : lengths) {
    const std::vector<double> x(s.run.x.begin() + first * Env::width, s.run.x.begin() + (first + length) * Env::width);
    for (const std::vector<double>& f : reference.features<test::FewClasses>(tokens_of(x, reference.width), x, tensor))
      features.push_back(f);
    first += length;
  }

  s.train(lengths);
  const std::vector<double> c = s.complexity();
  double worst = 0, least = 1, most = 0;
  for (std::size_t i = 0; i < c.size(); ++i) {
    const double off = std::fabs(c[i] - test::ComplexityReference::squash(features[i], tensor));
    worst = off <= worst ? worst : off;  // fmax would pass over a NaN
    least = std::fmin(least, c[i]);
    most = std::fmax(most, c[i]);
  }
  INFO("c between " << least << " and " << most << ", largest difference " << worst);
  CHECK(worst < 1e-12);
  CHECK((0 < least && least + 0.05 < most && most < 1));

  // Every feature alone: c = σ(φ).
  const char* const names[] = {"entropy", "surprisal", "gain", "variance", "depth", "since"};
  for (std::size_t f = 0; f < 6; ++f) {
    s.fill("complexity.weight", 0);
    s.fill("complexity.bias", 0);
    s.fill("complexity.mean", 0);
    s.fill("complexity.variance", 1 - 1e-3);
    s.tensor("complexity.weight")[f] = 1;
    s.train(lengths);
    const std::vector<double> alone = s.complexity();
    double off = 0, low = 10, high = 0;
    for (std::size_t i = 0; i < alone.size(); ++i) {
      off = std::fmax(off, std::fabs(std::log(alone[i] / (1 - alone[i])) - features[i][f]));
      low = std::fmin(low, features[i][f]);
      high = std::fmax(high, features[i][f]);
    }
    INFO(names[f] << " between " << low << " and " << high << ", largest difference " << off);
    CHECK(off < 1e-12);
    CHECK(high - low > 0.1);
  }
}

}  // namespace

TEST_CASE("the estimator's features and its number are what their definitions say") {
  matches_its_definition<Small, SmallEnv>(
      {.window = 8, .recent = 4, .projected = 5, .rank = 6, .hashes = 16, .classes = 8, .residues = 10}, {50, 1, 9});
  matches_its_definition<Whole, WholeEnv>({.classes = 40}, {150, 2, 64});
}

TEST_CASE("the estimator as it is shipped keeps laws 1 and 2") {
  check::Options options;
  options.length = 50;
  test::forward_laws<Small, SmallEnv, double>(options);
  test::forward_laws<Small, SmallEnv, float>(options);
  test::forward_laws<Joining, SmallEnv, double>(options);
  options.length = 150;
  test::forward_laws<Whole, WholeEnv, float>(options);
}

TEST_CASE("taking tokens back leaves no trace in the estimator") {
  test::rewinds_exactly<Small, SmallEnv, double>(55);
  test::rewinds_exactly<Joining, SmallEnv, float>(55);
  test::rewinds_exactly<Whole, WholeEnv, float>(150);
  using Shuffled = control::Complexity<hashed, test::FewClasses, control::Shuffled<3, 9>>;
  test::rewinds_exactly<check::WithSources<Read, 2, Shuffled>, SmallEnv, float>(55);
}

TEST_CASE("features are constants: gradients reach w and b, the predictor's loss its own tensors, and nothing else") {
  const std::vector<Index> lengths{50, 1, 9};
  Subject<Small, SmallEnv> s;
  s.fill("complexity.variance", 0.2);
  s.run.x = test::numbers(60 * SmallEnv::width, 9);
  const std::vector<double> dy = test::numbers(60 * SmallEnv::width, 11);
  const auto step = [&](bool outputs, double auxiliary) {
    s.run.auxiliary = auxiliary;
    s.run.dy = outputs ? dy : std::vector<double>(dy.size(), 0.0);
    s.run.dx.assign(dy.size(), 0.0);
    s.run.gradient.assign(s.parameters.size(), 0.0);
    s.train(lengths);
  };
  const auto gradient = [&](const std::string& name) {
    const auto begin = s.run.gradient.begin() + s.offset(name);
    return std::vector<double>(begin, begin + s.size(name));
  };
  const auto zero = [](const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double v) { return v == 0; });
  };
  const std::vector<std::string> predictor{"complexity.predictor.first.weight", "complexity.predictor.second.weight",
                                           "complexity.predictor.pair.weight", "complexity.predictor.output.weight",
                                           "complexity.predictor.output.bias"};
  /// Central differences of a function of one element.
  const auto difference = [&](const std::string& name, Index i, const auto& value) {
    double& element = s.tensor(name)[i];
    const double kept = element, h = 1e-4;
    element = kept + h;
    s.train(lengths);
    const double up = value();
    element = kept - h;
    s.train(lengths);
    const double down = value();
    element = kept;
    return (up - down) / (2 * h);
  };
  const auto output = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < dy.size(); ++i) sum += dy[i] * s.run.y[i];
    return sum;
  };
  const auto loss = [&] { return s.run.loss; };

  step(true, 0);
  CHECK(s.run.dx == dy);  // through the inner layer's sum alone
  for (const std::string& name : predictor) CHECK(zero(gradient(name)));
  CHECK(zero(gradient("complexity.projection.weight")));
  CHECK(zero(gradient("complexity.mean")));
  CHECK(zero(gradient("complexity.variance")));
  const std::vector<double> d_weight = gradient("complexity.weight"), d_bias = gradient("complexity.bias");
  s.run.dy.clear();
  for (Index i = 0; i < 6; ++i)
    CHECK(std::fabs(difference("complexity.weight", i, output) - d_weight[hybridmoe::to_size(i)]) < 1e-7);
  CHECK(std::fabs(difference("complexity.bias", 0, output) - d_bias[0]) < 1e-7);

  step(false, 2);
  CHECK(zero(s.run.dx));
  CHECK(zero(gradient("complexity.weight")));
  CHECK(zero(gradient("complexity.projection.weight")));
  std::vector<std::vector<double>> found;
  for (const std::string& name : predictor) found.push_back(gradient(name));
  const std::vector<double> d_mean = gradient("complexity.mean"), d_variance = gradient("complexity.variance");
  s.run.dy.clear();
  for (std::size_t n = 0; n < predictor.size(); ++n) {
    CHECK(!zero(found[n]));
    for (Index i = 0; i < s.size(predictor[n]); i += 7)
      CHECK(std::fabs(2 * difference(predictor[n], i, loss) - found[n][hybridmoe::to_size(i)]) < 1e-9);
  }

  // The loss is a tenth of both mean cross-entropies, and the errors are distances from the call's own mean and variance.
  const test::ComplexityReference& reference = small_reference;
  const auto tensor = [&](const std::string& name) -> const double* { return s.tensor(name); };
  std::vector<std::vector<double>> features;
  double entropy = 0;
  Index first = 0;
  for (const Index length : lengths) {
    const std::vector<double> x(s.run.x.begin() + first * 12, s.run.x.begin() + (first + length) * 12);
    const std::vector<int> token = tokens_of(x, 12);
    for (const std::vector<double>& f : reference.features<test::FewClasses>(token, x, tensor)) features.push_back(f);
    for (const int order : {1, 2})
      for (const double v : reference.surprisal(token, tensor, order)) entropy += v * std::log(8.0) / 60;
    first += length;
  }
  s.train(lengths);
  CHECK(std::fabs(s.run.loss - static_cast<double>(0.1f) * entropy) < 1e-12);
  for (std::size_t i = 0; i < 6; ++i) {
    const double mean = s.tensor("complexity.mean")[i], variance = s.tensor("complexity.variance")[i];
    double off = 0, square = 0;
    for (const std::vector<double>& f : features) {
      off += (mean - f[i]) / 60;
      square += (variance - (f[i] - mean) * (f[i] - mean)) / 60;
    }
    CHECK(std::fabs(d_mean[i] - 2 * off) < 1e-12);
    CHECK(std::fabs(d_variance[i] - 2 * square) < 1e-12);
  }
}

TEST_CASE("an estimator that readers do not teach has no gradient from them, and moves at its speed") {
  constexpr control::ComplexityOptions own{
      .window = 8, .recent = 4, .projected = 5, .rank = 6, .residues = 10, .hashes = 16, .classes = 8, .speed = 4, .uses = false};
  using Untaught = check::WithSources<Read, 2, control::Complexity<own, test::FewClasses>>;
  Subject<Small, SmallEnv> taught;
  Subject<Untaught, SmallEnv> untaught;
  taught.run.x = untaught.run.x = test::numbers(60 * SmallEnv::width, 9);
  taught.run.dy = untaught.run.dy = test::numbers(60 * SmallEnv::width, 11);
  for (auto* const run : {&taught.run, &untaught.run}) run->dx.assign(run->dy.size(), 0.0);
  taught.run.gradient.assign(taught.parameters.size(), 0.0);
  untaught.run.gradient.assign(untaught.parameters.size(), 0.0);
  untaught.parameters = taught.parameters;
  taught.train({50, 1, 9});
  untaught.train({50, 1, 9});
  const std::vector<double> a = taught.complexity(), b = untaught.complexity();
  for (std::size_t i = 0; i < a.size(); ++i) {  // odds to the power of the speed
    const double up = std::pow(a[i], 4), down = std::pow(1 - a[i], 4);
    CHECK(std::fabs(b[i] - up / (up + down)) < 1e-12);
  }
  for (const std::string name : {"complexity.weight", "complexity.bias"})
    for (Index i = 0; i < taught.size(name); ++i) {
      CHECK(taught.run.gradient[hybridmoe::to_size(taught.offset(name) + i)] != 0);
      CHECK(untaught.run.gradient[hybridmoe::to_size(untaught.offset(name) + i)] == 0);
    }
}

TEST_CASE("what joins the stack's input are the standardised features and the last tokens' surprisals and gains") {
  const test::ComplexityReference& reference = small_reference;
  Subject<Joining, SmallEnv> s;
  const std::vector<Index> lengths{50, 1, 2, 7};
  s.run.x = test::numbers(60 * 12, 9);
  s.run.dy = test::numbers(60 * 12, 11);
  s.run.dx.assign(s.run.dy.size(), 0.0);
  s.run.gradient.assign(s.parameters.size(), 0.0);
  s.fill("complexity.variance", 0.2);
  const auto tensor = [&](const std::string& name) -> const double* { return s.tensor(name); };

  std::vector<std::vector<double>> joined;
  std::vector<double> c;
  Index first = 0;
  for (const Index length : lengths) {
    const std::vector<double> x(s.run.x.begin() + first * 12, s.run.x.begin() + (first + length) * 12);
    const std::vector<int> token = tokens_of(x, 12);
    const std::vector<double> two = reference.surprisal(token, tensor, 2), one = reference.surprisal(token, tensor, 1);
    const std::vector<std::vector<double>> features = reference.features<test::FewClasses>(token, x, tensor);
    for (std::size_t t = 0; t < token.size(); ++t) {
      std::vector<double> row;
      for (std::size_t i = 0; i < 6; ++i) row.push_back((features[t][i] - tensor("complexity.mean")[i]) / std::sqrt(0.2 + 1e-3));
      for (std::size_t back = 0; back < 3; ++back) {
        row.push_back(t < back ? 0.0 : two[t - back] - tensor("complexity.mean")[1]);
        row.push_back(t < back ? 0.0 : one[t - back] - two[t - back] - tensor("complexity.mean")[2]);
      }
      joined.push_back(row);
      c.push_back(test::ComplexityReference::squash(features[t], tensor));
    }
    first += length;
  }
  s.train(lengths);

  CHECK(s.size("complexity.join.weight") == 12 * 12);
  const double* const weight = s.tensor("complexity.join.weight");
  double worst = 0, of_gradient = 0, largest = 0;
  for (std::size_t column = 0; column < 12; ++column) {
    const double k = static_cast<double>(static_cast<int>(column) * 61 % 101 - 50) / 50;  // of check::MixStreamKernel
    for (std::size_t t = 0; t < 60; ++t) {
      double expected = s.run.x[t * 12 + column] + k * c[t];
      for (std::size_t i = 0; i < 12; ++i) expected += weight[column * 12 + i] * joined[t][i];
      worst = std::fmax(worst, std::fabs(s.run.y[t * 12 + column] - expected));
    }
    for (std::size_t i = 0; i < 12; ++i) {
      double expected = 0;
      for (std::size_t t = 0; t < 60; ++t) expected += s.run.dy[t * 12 + column] * joined[t][i];
      const double got = s.run.gradient[hybridmoe::to_size(s.offset("complexity.join.weight")) + column * 12 + i];
      of_gradient = std::fmax(of_gradient, std::fabs(got - expected));
      largest = std::fmax(largest, std::fabs(weight[column * 12 + i]));
    }
  }
  CHECK(worst < 1e-12);
  CHECK(of_gradient < 1e-12);
  CHECK(largest > 0.01);
  CHECK(s.run.dx == s.run.dy);  // what joins is constant
}

TEST_CASE("a shuffled or delayed estimator shows complexities of earlier rows") {
  using Late = check::WithSources<Read, 2, control::Complexity<hashed, test::FewClasses, control::Delayed<5>>>;
  Subject<Small, SmallEnv> own;
  Subject<Late, SmallEnv> late;
  own.run.x = late.run.x = test::numbers(60 * SmallEnv::width, 9);
  own.train({50, 1, 9});
  late.train({50, 1, 9});
  const std::vector<double> a = own.complexity(), b = late.complexity();
  for (const auto& [first, length] : std::vector<std::pair<int, int>>{{0, 50}, {50, 1}, {51, 9}})
    for (int t = 0; t < length; ++t)
      CHECK(std::fabs(b[static_cast<std::size_t>(first + t)] - a[static_cast<std::size_t>(first + std::max(0, t - 5))]) < 1e-15);

  using Shuffled = control::Shuffled<4, 10>;
  std::vector<int> chosen(11, 0);
  for (Index t = 0; t < 10000; ++t) {
    const Index back = t - Shuffled::source(t);
    REQUIRE((back >= (t < 10 ? (t == 0 ? 0 : 1) : 4) && back <= (t < 10 ? t : 10)));
    if (t >= 10) ++chosen[hybridmoe::to_size(back)];
  }
  for (std::size_t back = 4; back <= 10; ++back) CHECK(std::abs(chosen[back] - 9990 / 7) < 150);
}

TEST_CASE("syntax of bytes: nesting, quotations, ends of sentences") {
  using hybridmoe::ops::Syntax;
  const std::string text = "a(b[c]{\"d\" e}))) f.\nx\"y\"";
  const std::vector<int> depth{0, 1, 1, 2, 2, 1, 2, 3, 3, 2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0};
  Syntax now;
  for (std::size_t i = 0; i < text.size(); ++i) {
    now = Syntax::of(now.packed());
    now.take<control::ByteClasses>(text[i]);
    INFO("after " << text.substr(0, i + 1));
    CHECK(now.depth == depth[i]);
  }
  CHECK(now.since == 4);
  for (int i = 0; i < 100; ++i) now.take<control::ByteClasses>('(');
  CHECK((now.depth == 15 && now.since == 63 && Syntax::of(now.packed()).depth == 15 && Syntax::of(now.packed()).since == 63));
}

TEST_CASE("logarithms of constant expressions are those of the standard library") {
  for (Index n = 1; n < 70000; n += n < 300 ? 1 : 997) {
    const double expected = std::log(static_cast<double>(n));
    CHECK(std::fabs(hybridmoe::ops::natural_log(n) - expected) <= 5e-16 * std::fmax(1.0, expected));
  }
}
