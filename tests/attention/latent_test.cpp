// Multi-head latent attention: its formula, its two forms against each other, DeepSeek's layers, rewinding, its costs.

#include <cstring>

#include <attention/latent_reference.hpp>
#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/latent.hpp>
#include <hybridmoe/check/subject_of.hpp>
#include <hybridmoe/io/safetensors_reader.hpp>
#include <io/support.hpp>
#include <support/numbers.hpp>

namespace attention = hybridmoe::attention;
namespace check = hybridmoe::check;
namespace hm = hybridmoe;
namespace position = hybridmoe::position;
using attention::Latent;
using attention::LatentHeads;
using hm::Index;
using Numbers = std::vector<double>;

using Env = hm::Environment<24, 100, 16, 6>;
using Odd = hm::Environment<13, 100, 7>;

constexpr LatentHeads ranked{.heads = 3, .latent = 37, .rotary = 4, .size = 8, .value = 6, .query_rank = 10};
constexpr LatentHeads many{.heads = 33, .latent = 7, .rotary = 2, .size = 3, .value = 2};
constexpr LatentHeads wide{.heads = 2, .latent = 9, .rotary = 6, .size = 10, .value = 37};
using Adjacent = position::Rotary<500, 0, position::Pairs::adjacent>;

// Each in both forms.
template <class Form>
struct Normed : Latent<ranked, Form> {};
template <class Form>
struct Plain : Latent<many, attention::PlainQueryKey, Adjacent, Form> {};
template <class Form>
struct Weightless : Latent<wide, attention::NormedQueryKey<false, 1000>, position::Nothing, Form> {};
template <class Form>
struct Scaled : Latent<ranked, attention::PlainQueryKey, attention::ScoreFactor<3, 2>, Form> {};

namespace {

template <class Mode, class E>
using Subject = check::SubjectOf<Mode, E, double, hm::Flat, hm::exec::Inline>;

double largest(const Numbers& a) {
  double most = 0;
  for (const double v : a) most = std::fmax(most, std::fabs(v));
  return most;
}
double distance(const Numbers& a, const Numbers& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(a[i] - b[i]);
    most = d <= most ? most : d;  // a NaN stays
  }
  return most;
}

test::LatentReference::Tensor tensors_of(const check::LayerFacts& facts, const Numbers& parameters) {
  return [&](const std::string& name) -> const double* {
    for (const check::TensorFacts& t : facts.tensors)
      if (t.name == name) return parameters.data() + t.offset;
    FAIL("the layer has no tensor " << name);
    return nullptr;
  };
}

template <class Mode, class E>
void matches_its_formula(test::LatentReference reference) {
  Subject<Mode, E> subject(hm::exec::Inline{});
  const Numbers parameters = subject.random_parameters(5);
  subject.set_parameters(parameters);
  const std::vector<Index> lengths{83, 1, 33};
  hm::BatchPlan plan = check::whole_sequences(lengths);
  check::Training<double> run;
  run.x = test::numbers(plan.rows() * E::width, 9);
  subject.train(plan, run);
  reference.width = static_cast<std::size_t>(E::width);
  Numbers expected;
  auto at = run.x.begin();
  for (const Index length : lengths) {
    const Numbers y = reference.forward(Numbers(at, at + length * E::width), tensors_of(subject.facts, parameters));
    expected.insert(expected.end(), y.begin(), y.end());
    at += length * E::width;
  }
  INFO("largest output " << largest(expected) << ", largest difference " << distance(run.y, expected));
  CHECK(largest(expected) > 0.1);
  CHECK(distance(run.y, expected) < 1e-12 * largest(expected));
}

/// One set of parameters, in both forms: outputs and gradients.
template <template <class> class Mode, class E>
void forms_agree() {
  Subject<Mode<attention::Absorbed>, E> absorbed(hm::exec::Inline{});
  Subject<Mode<attention::Expanded>, E> expanded(hm::exec::Inline{});
  REQUIRE(absorbed.facts.elements == expanded.facts.elements);
  const Numbers parameters = absorbed.random_parameters(5);
  hm::BatchPlan plan = check::whole_sequences({83, 1, 33});
  check::Training<double> runs[2];
  const auto train = [&](auto& subject, check::Training<double>& run) {
    run.x = test::numbers(plan.rows() * E::width, 9);
    run.dy = test::numbers(plan.rows() * E::width, 10);
    run.dx.assign(run.x.size(), 0.0);
    run.gradient.assign(parameters.size(), 0.0);
    subject.set_parameters(parameters);
    subject.train(plan, run);
  };
  train(absorbed, runs[0]);
  train(expanded, runs[1]);
  CHECK(runs[0].y != runs[1].y);
  CHECK(distance(runs[0].y, runs[1].y) < 1e-12 * largest(runs[0].y));
  CHECK(distance(runs[0].dx, runs[1].dx) < 1e-12 * largest(runs[0].dx));
  CHECK(distance(runs[0].gradient, runs[1].gradient) < 1e-12 * largest(runs[0].gradient));
}

/// Feeds rows first … first+count−1 of x at `position`, in calls of at most `piece`.
template <class S>
Numbers feed(S& subject, Index slot, const Numbers& x, Index width, Index position, Index first, Index count, Index piece) {
  Numbers y;
  for (Index done = 0; done < count; done += piece) {
    const Index part = hm::smaller(piece, count - done);
    hm::BatchPlan plan;
    plan.add(slot, position + done, part);
    const auto from = x.begin() + (first + done) * width;
    const Numbers out = subject.step(plan, Numbers(from, from + part * width));
    y.insert(y.end(), out.begin(), out.end());
  }
  return y;
}

template <class Mode>
void rewinds_exactly() {
  static_assert(hm::rewinds<typename Mode::template Layer<Env>>);
  constexpr Index w = Env::width;
  Subject<Mode, Env> subject(hm::exec::Inline{});
  subject.set_parameters(subject.random_parameters(5));
  const Numbers x = test::numbers(100 * w, 3), other = test::numbers(100 * w, 4);
  subject.begin(2);
  // Positions taken back lie on both sides of the tiles' borders.
  for (const Index kept : {30, 59, 63, 64}) {
    feed(subject, 0, x, w, 0, 0, kept, 16);
    feed(subject, 0, other, w, kept, 0, Env::rewind, 16);
    const Numbers after = feed(subject, 0, x, w, kept, kept, 20, 5);
    feed(subject, 1, x, w, 0, 0, kept, 16);
    const Numbers never = feed(subject, 1, x, w, kept, kept, 20, 16);
    CHECK(std::memcmp(after.data(), never.data(), never.size() * sizeof(double)) == 0);
  }
}

Numbers read(const hm::io::SafetensorsFile& file, const std::string& name) {
  INFO("tensor " << name);
  const auto tensor = file.find(name);
  REQUIRE(tensor);
  Numbers values(hm::to_size(tensor->shape.elements()));
  REQUIRE(file.read(*tensor, values.data()));
  return values;
}

/// y = W x for each row.
Numbers product(const Numbers& x, const Numbers& w, Index in) {
  const Index rows = hm::to_index(x.size()) / in, out = hm::to_index(w.size()) / in;
  Numbers y(hm::to_size(rows * out), 0.0);
  for (Index r = 0; r < rows; ++r)
    for (Index o = 0; o < out; ++o)
      for (Index i = 0; i < in; ++i) y[hm::to_size(r * out + o)] += w[hm::to_size(o * in + i)] * x[hm::to_size(r * in + i)];
  return y;
}
Numbers rms_norm(Numbers x, const Numbers& weight) {
  const std::size_t width = weight.size();
  for (std::size_t r = 0; r < x.size(); r += width) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += x[r + i] * x[r + i];
    const double root = std::sqrt(squares / static_cast<double>(width) + 1e-6);
    for (std::size_t i = 0; i < width; ++i) x[r + i] *= weight[i] / root;
  }
  return x;
}

/// The first layer of a DeepSeek checkpoint, which is dense: the stream after it from the one before it. layer0.safetensors has
/// the layer's tensors and both streams as transformers 5.23.0 computed them in float.
template <class Form, Index width>
void computes_deepseeks_layer(const std::string& folder) {
  using Mode = Latent<LatentHeads{.heads = 3, .latent = 18, .rotary = 6, .size = 10, .value = 8, .query_rank = 14},
                      attention::PlainQueryKey, position::Rotary<10000, 0, position::Pairs::adjacent>, Form>;
  using E = hm::Environment<width, 64, 16>;
  const auto file = hm::io::SafetensorsFile::open(support::golden(folder + "/layer0.safetensors"));
  REQUIRE(file);
  const std::string at = "model.layers.0.", self = at + "self_attn.";
  Subject<Mode, E> subject(hm::exec::Inline{});
  Numbers parameters(hm::to_size(subject.facts.elements));
  const auto set = [&](const std::string& name, const Numbers& values) {
    for (const check::TensorFacts& t : subject.facts.tensors) {
      if (t.name != name) continue;
      REQUIRE(hm::to_index(values.size()) == t.size);
      std::copy(values.begin(), values.end(), parameters.begin() + t.offset);
      return;
    }
    FAIL("the layer has no tensor " << name);
  };
  set("query_down.weight", read(*file, self + "q_a_proj.weight"));
  set("query_down_norm.weight", read(*file, self + "q_a_layernorm.weight"));
  set("query.weight", read(*file, self + "q_b_proj.weight"));
  set("down.weight", read(*file, self + "kv_a_proj_with_mqa.weight"));
  set("down_norm.weight", read(*file, self + "kv_a_layernorm.weight"));
  set("output.weight", read(*file, self + "o_proj.weight"));
  // Theirs has for each head the rows of its key, then those of its value.
  const Numbers up = read(*file, self + "kv_b_proj.weight");
  Numbers key, value;
  for (auto head = up.begin(); head != up.end(); head += 18 * 18) {
    key.insert(key.end(), head, head + 10 * 18);
    value.insert(value.end(), head + 10 * 18, head + 18 * 18);
  }
  set("key.weight", key);
  set("value.weight", value);
  subject.set_parameters(parameters);

  Numbers stream = read(*file, "hidden.embed");
  const Numbers expected = read(*file, "hidden.0");
  hm::BatchPlan plan = check::whole_sequences({24, 24});
  check::Training<double> run;
  run.x = rms_norm(stream, read(*file, at + "input_layernorm.weight"));
  subject.train(plan, run);
  for (std::size_t i = 0; i < stream.size(); ++i) stream[i] += run.y[i];
  const Numbers normed = rms_norm(stream, read(*file, at + "post_attention_layernorm.weight"));
  Numbers gate = product(normed, read(*file, at + "mlp.gate_proj.weight"), width);
  const Numbers raised = product(normed, read(*file, at + "mlp.up_proj.weight"), width);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= raised[i] / (1 + std::exp(-gate[i]));
  const Numbers mlp = product(gate, read(*file, at + "mlp.down_proj.weight"), 44);
  for (std::size_t i = 0; i < stream.size(); ++i) stream[i] += mlp[i];
  INFO("largest value " << largest(expected) << ", largest difference " << distance(stream, expected));
  CHECK(largest(run.y) > 0.1);
  CHECK(distance(stream, expected) < 1e-5);
}

template <class Mode, Index width>
using Bound = typename Mode::template Layer<hm::Environment<width, 4096>>;

// DeepSeek-V3: 61 layers, two bytes an element; parameters d·q + q + q·h·(n+r) + d·(c+r) + c + c·h·(n+v) + h·v·d.
constexpr LatentHeads deepseek{.heads = 128, .latent = 512, .rotary = 64, .size = 128, .value = 128, .query_rank = 1536};
using DeepSeekV3 = Bound<Latent<deepseek, attention::PlainQueryKey>, 7168>;
static_assert(61 * 2 * DeepSeekV3::cache_elements(4096) == 4096 * 70'272);
constexpr Index deepseek_parameters =
    7168 * 1536 + 1536 + 1536 * 128 * (128 + 64) + 7168 * (512 + 64) + 512 + 512 * 128 * (128 + 128) + 128 * 128 * 7168;
static_assert(DeepSeekV3::active_parameters() == hm::Spread::always(deepseek_parameters));
static_assert(Bound<Latent<deepseek, attention::PlainQueryKey, attention::Expanded>, 7168>::active_parameters().most ==
              deepseek_parameters);
// QK-norm adds a number per head and token to the absorbed form's cache, and two gains.
static_assert(Bound<Latent<deepseek>, 7168>::cache_elements(4096) == 4096 * (512 + 64 + 128));
static_assert(Bound<Latent<deepseek, attention::Expanded>, 7168>::cache_elements(4096) == 4096 * (512 + 64));
static_assert(Bound<Latent<deepseek>, 7168>::active_parameters().most == deepseek_parameters + 2 * 128);
// The state is what is declared, a tile's padding aside: no second copy of the latent.
static_assert(hm::state_bytes<DeepSeekV3::State<float>> == Index{4} * 4096 * 576);
// The last token of a context costs most, at every budget.
static_assert(DeepSeekV3::capped_flops(1, 0.0) == DeepSeekV3::flops_per_token(1).forward);
static_assert(DeepSeekV3::capped_flops(4096, 0.0) == DeepSeekV3::capped_flops(1, 0.0) + 2.0 * 4095 * 128 * (512 + 64 + 512));
static_assert(DeepSeekV3::capped_flops(4096, 1.0) == DeepSeekV3::capped_flops(4096, 0.25));

}  // namespace

TEST_CASE("latent attention computes its formula") {
  const test::LatentReference normed{
      .heads = 3, .latent = 37, .rotary = 4, .size = 8, .value = 6, .rank = 10, .base = 10000, .normed = true, .gain = true};
  matches_its_formula<Normed<attention::Absorbed>, Env>(normed);
  matches_its_formula<Normed<attention::Expanded>, Env>(normed);
  const test::LatentReference plain{.heads = 33, .latent = 7, .rotary = 2, .size = 3, .value = 2, .base = 500, .adjacent = true};
  matches_its_formula<Plain<attention::Absorbed>, Odd>(plain);
  matches_its_formula<Plain<attention::Expanded>, Odd>(plain);
  const test::LatentReference weightless{
      .heads = 2, .latent = 9, .rotary = 6, .size = 10, .value = 37, .normed = true, .epsilon = 1e-3};
  matches_its_formula<Weightless<attention::Absorbed>, Odd>(weightless);
  matches_its_formula<Weightless<attention::Expanded>, Odd>(weightless);
  const test::LatentReference scaled{
      .heads = 3, .latent = 37, .rotary = 4, .size = 8, .value = 6, .rank = 10, .base = 10000, .factor = 1.5};
  matches_its_formula<Scaled<attention::Absorbed>, Env>(scaled);
  matches_its_formula<Scaled<attention::Expanded>, Env>(scaled);
}

TEST_CASE("the absorbed and the expanded form agree, forward and backward") {
  forms_agree<Normed, Env>();
  forms_agree<Plain, Odd>();
  forms_agree<Weightless, Odd>();
  forms_agree<Scaled, Env>();
}

TEST_CASE("DeepSeek's latent attention") {
  computes_deepseeks_layer<attention::Absorbed, 36>("deepseek_v2");
  computes_deepseeks_layer<attention::Expanded, 36>("deepseek_v2");
  computes_deepseeks_layer<attention::Absorbed, 32>("deepseek_v3");
  computes_deepseeks_layer<attention::Expanded, 32>("deepseek_v3");
}

TEST_CASE("tokens of latent attention are taken back by lowering the position") {
  rewinds_exactly<Normed<attention::Absorbed>>();
  rewinds_exactly<Normed<attention::Expanded>>();
}
