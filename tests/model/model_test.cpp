// Whole models: against a reference written another way, gradients against differences, one set of bits however rows are
// grouped, and accounting against counting.

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/gelu.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/norm/layer_norm.hpp>
#include <hybridmoe/ssm/mamba2.hpp>
#include <model/reference.hpp>
#include <model/running.hpp>

namespace hm = hybridmoe;
using hm::Flat;
using hm::Index;
using hm::Packed;

/// Three kinds of state, experts beside the mixer in a parallel block, a block without a channel mixer, a tied head.
struct Hybrid
    : hm::LanguageModel<
          hm::LanguageSizes{.vocab = 37, .width = 24, .context = 96, .chunk = 16}, hm::Pattern<"GLLS", hm::layers<6>>,
          hm::Slot<'G',
                   hm::Block<hm::attention::Full<hm::Heads{4, 2, 10}, hm::attention::NormedQueryKey<>>, hm::channel::SwiGlu<20>>>,
          hm::Slot<'L', hm::Block<
                            hm::attention::Local<hm::Heads{2, 1, 8}, 9>,
                            hm::channel::Moe<hm::Experts{.count = 4, .active = 2, .hidden = 12},
                                             hm::router::TopK<hm::router::TopKOptions{.balance = 0.05f}>, hm::channel::SwiGlu<8>>,
                            hm::block::Parallel>>,
          hm::Slot<'S', hm::Block<
                            hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 4, .head = 8, .state = 6, .groups = 2, .chunk = 8}>>>> {
};

/// A head and positions of its own, biases, LayerNorm, norms without weights, a pattern that is not periodic.
using Weightless = hm::norm::Rms<hm::norm::Epsilon<1, 100'000>, hm::norm::Gain::none>;
struct Plain
    : hm::LanguageModel<
          hm::LanguageSizes{.vocab = 29, .width = 20, .context = 40, .tied = false, .learned_positions = true},
          hm::Pattern<"GWG">,
          hm::Slot<'W', hm::Block<hm::attention::Local<hm::Heads{2, 2, 6}, 5,
                                                       hm::position::Rotary<100, 4, hm::position::Pairs::adjacent>>,
                                  hm::channel::SwiGlu<16>, hm::block::Norm<Weightless>>>,
          hm::Slot<'G',
                   hm::Block<hm::attention::Full<hm::Heads{2, 2, 10}, hm::position::Nothing, hm::attention::Bias<true, true>>,
                             hm::channel::Gelu<24>, hm::block::Norm<hm::norm::LayerNorm<>>>>,
          hm::FinalNorm<Weightless>> {};

namespace {

test::Mamba2Reference scan_reference() {
  return {.width = 24, .heads = 4, .head = 8, .state = 6, .groups = 2, .taps = 4, .epsilon = 1e-5};
}

test::ModelReference hybrid_reference(test::Mamba2Reference& scan) {
  test::LayerReference g, l, s;
  g.attention = {.width = 24, .heads = 4, .kv = 2, .size = 10, .base = 10000, .turned = 10, .normed = true, .gain = true};
  g.channel = test::LayerReference::swiglu;
  l.attention = {.width = 24, .heads = 2, .kv = 1, .size = 8, .window = 9, .base = 10000, .turned = 8};
  l.channel = test::LayerReference::experts;
  l.expert_count = 4;
  l.active = 2;
  l.balance = 0.05f;
  l.shared = l.parallel = true;
  s.scan = &scan;
  return {.vocab = 37, .width = 24, .tied = true, .positions = false, .layers = {g, l, l, s, g, l}, .tensors = {}};
}

test::ModelReference plain_reference() {
  test::LayerReference g, w;
  g.attention = {.width = 20, .heads = 2, .kv = 2, .size = 10, .input_bias = true, .output_bias = true};
  g.channel = test::LayerReference::gelu;
  g.centred = true;
  w.attention = {.width = 20, .heads = 2, .kv = 2, .size = 6, .window = 5, .base = 100, .turned = 4, .adjacent = true};
  w.channel = test::LayerReference::swiglu;
  w.weightless = true;
  return {
      .vocab = 29, .width = 20, .tied = false, .positions = true, .layers = {g, w, g}, .tensors = {}, .final_weightless = true};
}

template <class D>
std::map<std::string, std::pair<Index, Index>> tensors_of() {  // name → {offset, size}
  std::map<std::string, std::pair<Index, Index>> result;
  std::vector<double> buffer(hm::to_size(D::template buffer_elements<double, Flat>()));
  D::template visit<double, Flat>(
      [&](const hm::Name& name, const hm::Trait&, auto& tensor) {
        result[name.text()] = {tensor.data - buffer.data(), std::remove_reference_t<decltype(tensor)>::size};
      },
      hm::Name{}, buffer.data());
  return result;
}

template <class D>
void check_forward(test::ModelReference reference) {
  const std::vector<double> parameters = test::lively_parameters<D, double>(3);
  for (const auto& [name, place] : tensors_of<D>())
    reference.tensors[name].assign(parameters.begin() + place.first, parameters.begin() + place.first + place.second);
  test::TrainingRun<D, double> run({37, 1, 12}, 11);
  run.run(parameters);
  double total = 0, worst = 0, spread = 0;
  std::ptrdiff_t row = 0;
  for (const Index length : run.lengths) {
    const test::Numbers logits = reference.forward({run.tokens.begin() + row, run.tokens.begin() + row + length});
    for (Index r = 0; r < length; ++r, ++row) {
      const double* const expected = logits.data() + r * D::vocab;
      for (Index v = 0; v < D::vocab; ++v) {
        const double off = std::fabs(run.logits[hm::to_size(row * D::vocab + v)] - expected[v]);
        worst = off <= worst ? worst : off;  // fmax would pass over a NaN
        spread = std::fmax(spread, std::fabs(expected[v]));
      }
      const std::int32_t target = run.targets[static_cast<std::size_t>(row)];
      if (target >= 0) total += test::ModelReference::cross_entropy(expected, static_cast<std::size_t>(D::vocab), target);
    }
  }
  INFO("logits up to " << spread << ", largest difference " << worst);
  CHECK(spread > 1);
  CHECK(worst < 1e-11 * spread);
  CHECK(std::fabs(run.loss - total / static_cast<double>(run.counted())) < 1e-11);

  // Auxiliary losses are over all rows of a call: a call of one sequence compares them.
  test::TrainingRun<D, double> alone({37}, 12);
  alone.run(parameters);
  reference.forward(alone.tokens);
  CHECK(std::fabs(alone.auxiliary - reference.auxiliary) < 1e-12);
}

/// The gradient of mean cross-entropy + auxiliary losses against differences of order four, for every tensor along a random
/// direction and for some of its elements.
template <class D>
void check_gradient(const test::How& how) {
  std::vector<double> parameters = test::lively_parameters<D, double>(4);
  test::TrainingRun<D, double> run({11, 1, 5}, 21);
  run.run(parameters, how);
  const std::vector<double> gradient = run.gradient;
  test::How forward = how;
  forward.gradient = false;
  const auto value = [&] {
    run.run(parameters, forward);
    return run.loss + how.auxiliary * run.auxiliary;
  };
  int compared = 0, skipped = 0;
  std::uint64_t seed = 1;
  for (const auto& [name, place] : tensors_of<D>()) {
    const auto [offset, size] = place;
    for (int sample = 0; sample < 3; ++sample) {
      std::vector<double> along = test::numbers(size, ++seed);
      const double kept = std::fabs(test::numbers(1, ++seed, 1e9)[0]);
      if (sample > 0)
        for (Index i = 0; i < size; ++i) along[hm::to_size(i)] = i == static_cast<Index>(kept) % size ? 1 : 0;
      double length = 0, analytic = 0, typical = 0;
      for (const double a : along) length += a * a;
      for (Index i = 0; i < size; ++i) {
        along[hm::to_size(i)] /= std::sqrt(length);
        analytic += along[hm::to_size(i)] * gradient[hm::to_size(offset + i)];
        typical += gradient[hm::to_size(offset + i)] * gradient[hm::to_size(offset + i)] / static_cast<double>(size);
      }
      const std::vector<double> saved = parameters;
      const auto moved = [&, size = size, offset = offset](double distance) {
        for (Index i = 0; i < size; ++i)
          parameters[hm::to_size(offset + i)] = saved[hm::to_size(offset + i)] + distance * along[hm::to_size(i)];
        return value();
      };
      constexpr double step = 1e-3;
      const double one = moved(step) - moved(-step);
      const double coarse = (8 * one - (moved(2 * step) - moved(-2 * step))) / (12 * step);
      const double fine = (8 * (moved(step / 2) - moved(-step / 2)) - one) / (6 * step);
      parameters = saved;
      const double allowed = 1e-6 * (std::fabs(fine) + std::sqrt(typical)) + 1e-11;
      INFO(name << ", direction " << sample << ": backward " << analytic << ", differences " << fine);
      if (std::fabs(coarse - fine) > allowed) {  // a choice of experts flips in between
        ++skipped;
        continue;
      }
      ++compared;
      CHECK(std::fabs(analytic - fine) <= allowed);
    }
  }
  CAPTURE(compared, skipped);
  CHECK(skipped * 5 < compared);
}

}  // namespace

TEST_CASE("a hybrid model computes what its definition says") {
  test::Mamba2Reference scan = scan_reference();
  check_forward<Hybrid>(hybrid_reference(scan));
}
TEST_CASE("a model with biases, learned positions and a head of its own computes what its definition says") {
  check_forward<Plain>(plain_reference());
}

TEST_CASE("gradients of whole models are derivatives") {
  check_gradient<Hybrid>({});
  check_gradient<Plain>({});
}
TEST_CASE("gradients under dropout are derivatives for a fixed mask") {
  check_gradient<Hybrid>({.dropout = 0.3f});
  check_gradient<Plain>({.dropout = 0.5f});
}
TEST_CASE("auxiliary losses can be left out of the gradient") { check_gradient<Hybrid>({.auxiliary = 0}); }

namespace {

template <class D, class T>
void check_recompute(float dropout) {
  const std::vector<T> parameters = test::lively_parameters<D, T>(5);
  test::TrainingRun<D, T> kept({33, 7, 1}, 31), again = kept;
  kept.run(parameters, {.dropout = dropout});
  again.run(parameters, {.recompute = true, .dropout = dropout});
  CHECK(kept.loss == again.loss);
  CHECK(test::same_bits(kept.gradient.data(), again.gradient.data(), hm::to_index(kept.gradient.size())));
  CHECK(again.bytes_used < kept.bytes_used);
  for (const auto* run : {&kept, &again}) {
    const hm::Extent extent{run->rows(), 3, true};
    CHECK(run->bytes_used == D::template training_bytes<T>(extent, run == &again));
  }
  CHECK(kept.bytes_used == hm::Account<D>::template training_bytes<T>(kept.rows(), 3));
}

}  // namespace

TEST_CASE("recomputing activations changes no bit and takes less memory, and both take what is declared") {
  check_recompute<Hybrid, double>(0);
  check_recompute<Hybrid, float>(0.2f);
  check_recompute<Plain, double>(0.2f);
}

TEST_CASE("dropout is drawn anew for another key, and evaluation has none") {
  const std::vector<double> parameters = test::lively_parameters<Plain, double>(5);
  test::TrainingRun<Plain, double> plain({20}, 31), dropped = plain, more = plain;
  plain.run(parameters, {.gradient = false});
  dropped.run(parameters, {.dropout = 0.2f, .gradient = false});
  more.run(parameters, {.dropout = 0.4f, .gradient = false});
  CHECK(plain.loss != dropped.loss);
  CHECK(dropped.loss != more.loss);
}

namespace {

/// Every way to group the rows of some sequences into calls gives the logits of a training call of the sequence alone.
template <class D, class T, class Storage>
void check_serving(const std::vector<T>& flat) {
  const std::vector<Index> lengths{hm::smaller(D::context, 90), 1, 23, 17};
  std::vector<test::TrainingRun<D, T>> expected;
  for (const Index length : lengths) {
    expected.emplace_back(std::vector<Index>{length}, 41 + static_cast<std::uint64_t>(length));
    expected.back().run(flat, {.gradient = false});
  }
  // All of them in one training call.
  test::TrainingRun<D, T> together(lengths, 1);
  together.tokens.clear();
  for (const auto& run : expected) together.tokens.insert(together.tokens.end(), run.tokens.begin(), run.tokens.end());
  together.run(flat, {.gradient = false});
  Index first = 0;
  for (const auto& run : expected) {
    CHECK(test::same_bits(together.hidden.data() + first * D::width, run.hidden.data(), run.rows() * D::width));
    CHECK(test::same_bits(together.logits.data() + first * D::vocab, run.logits.data(), run.rows() * D::vocab));
    first += run.rows();
  }

  std::vector<T> parameters;
  if constexpr (std::is_same_v<Storage, Packed>)
    parameters = test::packed<D, T>(flat);
  else
    parameters = flat;
  // piece > 0: that many tokens at a time; 0: any number. together: several sequences share a call.
  const auto serve = [&](Index piece, bool share, std::uint64_t seed) {
    INFO("pieces of " << piece << (share ? ", sequences together" : ", one sequence at a time"));
    test::Serving<D, T, Storage> serving(parameters, 6);
    const Index slots[] = {4, 1, 5, 2};
    std::vector<Index> at(lengths.size(), 0);
    for (std::uint64_t round = 0;; ++round) {
      std::vector<test::Chunk<T>> call;
      std::vector<std::size_t> who;
      for (std::size_t s = 0; s < lengths.size(); ++s) {
        if (at[s] == lengths[s] || (!share && !call.empty())) continue;
        const double die = std::fabs(test::numbers(1, seed * 1000 + round * 10 + s, 100)[0]);
        if (share && static_cast<Index>(die) % 4 == 0) continue;  // rests in this call
        const Index count = hm::smaller(piece > 0 ? piece : 1 + static_cast<Index>(die) % D::chunk, lengths[s] - at[s]);
        const auto begin = expected[s].tokens.begin() + at[s];
        call.push_back({slots[s], at[s], {begin, begin + count}, {}});
        who.push_back(s);
      }
      if (call.empty()) {
        if (at == lengths) return;
        continue;
      }
      if (round % 2 == 1) {  // the order of sequences in a call is free
        std::reverse(call.begin(), call.end());
        std::reverse(who.begin(), who.end());
      }
      const std::vector<T> logits = serving.feed(call);
      Index row = 0;
      for (std::size_t c = 0; c < call.size(); ++c) {
        const auto count = hm::to_index(call[c].tokens.size());
        INFO("sequence of " << lengths[who[c]] << " from position " << at[who[c]]);
        REQUIRE(test::same_bits(logits.data() + row * D::vocab, expected[who[c]].logits.data() + at[who[c]] * D::vocab,
                                count * D::vocab));
        at[who[c]] += count;
        row += count;
      }
    }
  };
  serve(1, false, 1);                                                   // decoding
  serve(D::chunk, false, 1);                                            // prefill in the longest pieces
  serve(5, false, 1);                                                   // chunked prefill
  serve(1, true, 1);                                                    // batched decoding
  for (std::uint64_t seed = 2; seed < 6; ++seed) serve(0, true, seed);  // anything
}

}  // namespace

TEST_CASE("training, prefill, serving and decoding of a hybrid model give one set of bits, packed or flat") {
  check_serving<Hybrid, float, Packed>(test::lively_parameters<Hybrid, float>(6));
  check_serving<Hybrid, double, Packed>(test::lively_parameters<Hybrid, double>(6));
  check_serving<Hybrid, double, Flat>(test::lively_parameters<Hybrid, double>(6));
}
TEST_CASE("training, prefill, serving and decoding of a plain model give one set of bits, packed or flat") {
  check_serving<Plain, double, Packed>(test::lively_parameters<Plain, double>(7));
}

TEST_CASE("logits are those of the wanted rows, in the order asked for") {
  const std::vector<double> flat = test::lively_parameters<Plain, double>(8);
  test::Serving<Plain, double, Flat> serving(flat, 1);
  const std::vector<std::int32_t> tokens = test::random_tokens(9, Plain::vocab, 3);
  const std::vector<double> all = serving.feed({{0, 0, tokens}});
  hm::BatchPlan plan;
  plan.add(0, 0, 9);
  const std::vector<Index> arrays(plan.data(), plan.data() + plan.count()), wanted{7, 2};
  test::Poisoned memory(Plain::workspace_bytes<double, Flat>({9, 1, false}, 2)), state(Plain::state_stride<double>());
  hm::Call<hm::exec::Inline> call;
  call.batch = plan.view(arrays.data());
  call.arena = {memory.data(), memory.end()};
  std::vector<double> logits(2 * Plain::vocab);
  Plain::forward<Flat>(call, flat.data(), tokens.data(), state.data(), 0, wanted.data(), 2, logits.data());
  CHECK(test::same_bits(logits.data(), all.data() + 7 * Plain::vocab, Plain::vocab));
  CHECK(test::same_bits(logits.data() + Plain::vocab, all.data() + 2 * Plain::vocab, Plain::vocab));
  CHECK(memory.guarded());
}

// Accounting. The numbers of a layer, counted by hand.
namespace hand {
constexpr Index attention(Index width, Index heads, Index kv, Index size) { return width * size * (2 * heads + 2 * kv); }
constexpr Index g = 24 + attention(24, 4, 2, 10) + 2 * 10 + 24 + 3 * 24 * 20;
constexpr Index l_without_experts = 24 + attention(24, 2, 1, 8) + 4 * 24 + 3 * 24 * 8;
constexpr Index expert = 3 * 24 * 12;
constexpr Index l = l_without_experts + 4 * expert;
constexpr Index inner = 4 * 8, channels = inner + 2 * 2 * 6, projected = inner + channels + 4;
constexpr Index s = 24 + 24 * projected + channels * 4 + channels + 3 * 4 + inner + inner * 24;
constexpr Index outer = 37 * 24 + 24;
constexpr Index all = outer + 2 * g + 3 * l + s;
constexpr Index used = outer + 2 * g + 3 * (l_without_experts + 2 * expert) + s;
}  // namespace hand

TEST_CASE("accounting of a model is what counting gives") {
  using A = hm::Account<Hybrid>;
  static_assert(A::parameters() == hand::all);
  static_assert(A::active_parameters() == hm::Spread::always(hand::used));
  static_assert(A::layer_parameters(0) == hand::g && A::layer_parameters(1) == hand::l && A::layer_parameters(2) == hand::s);
  static_assert(A::layer_count == 6);
  // Keys and values of two full layers, and of three with a window of 9, which is as much as their sequences need.
  constexpr Index scan_state = 4 * 8 * 6 + 3 * hand::channels;
  static_assert(A::cache_bytes<float>(50) == 4 * (2 * 50 * 2 * 2 * 10 + 3 * 9 * 2 * 8 + scan_state));
  static_assert(A::cache_bytes<float>(5) == 4 * (2 * 5 * 2 * 2 * 10 + 3 * 5 * 2 * 8 + scan_state));
  // A token's place among 32: full layers hold all of the context, rings one tile more than window and longest piece need.
  constexpr Index full = 2 * 2 * 3 * 32 * 10, ring = 2 * 1 * 2 * 32 * 8;
  using Scan = hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{
      .heads = 4, .head = 8, .state = 6, .groups = 2, .chunk = 8}>::Layer<Hybrid::Env>::State<float>;
  static_assert(A::state_bytes<float>() == 2 * 4 * full + 3 * 4 * ring + hm::round_up(sizeof(Scan), 64));
  static_assert(sizeof(Scan) >= 4 * scan_state);

  static_assert(hm::Account<Plain>::parameters() ==
                2 * 29 * 20 + 40 * 20 + 2 * (4 * 20 + hand::attention(20, 2, 2, 10) + 4 * 20 + 2 * 20 * 24 + 24 + 20) +
                    hand::attention(20, 2, 2, 6) + 3 * 20 * 16);

  // Products take two operations per weight that a token meets; keys and values two each per element; a scan its matrices. What
  // is not a product (norms, activations, rotations) is a small part of the rest.
  const double products =
      2.0 * static_cast<double>(hand::used - 24 - 2 * (2 * 24 + 20) - 3 * 24 - (24 + 5 * hand::channels + 12 + hand::inner));
  const double scores = 2 * 2 * 2.0 * 40 * 0.5 * (50 + 1) + 3 * 2 * 2.0 * 16 * (9 - 9.0 * 8 / (2 * 50));
  const double scan = 2.0 * 4 * hand::channels + 4 * 4.0 * 8 * 6;
  const hm::Flops flops = A::flops_per_token(50);
  CAPTURE(flops.forward, products, scores, scan);
  CHECK(flops.forward >= products + scores + scan);
  CHECK(flops.forward <= 1.1 * (products + scores + scan));
  CHECK(flops.training > 2.9 * flops.forward);
  CHECK(flops.training < 3.3 * flops.forward);
}

TEST_CASE("the list of tensors covers the buffer once, in both storages") {
  const auto check = []<class D>(D*) {
    std::vector<float> flat(hm::to_size(D::template buffer_elements<float, Flat>())),
        panels(hm::to_size(D::template buffer_elements<float, Packed>()));
    std::vector<int> seen(flat.size()), packed_seen(panels.size());
    std::set<std::string> names;
    D::template visit<float, Flat, Packed>(
        [&](const hm::Name& name, const hm::Trait&, auto& a, auto& b) {
          CHECK(names.insert(name.text()).second);
          for (Index i = 0; i < std::remove_reference_t<decltype(a)>::size; ++i) ++seen[hm::to_size(a.data + i - flat.data())];
          for (Index i = 0; i < std::remove_reference_t<decltype(b)>::size; ++i)
            ++packed_seen[hm::to_size(b.data + i - panels.data())];
        },
        hm::Name{}, flat.data(), panels.data());
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    CHECK(std::all_of(packed_seen.begin(), packed_seen.end(), [](int n) { return n == 1; }));
  };
  check(static_cast<Hybrid*>(nullptr));
  check(static_cast<Plain*>(nullptr));
}

TEST_CASE("packing puts column n of panel n / 32 where the kernels look for it, and pads with zeros") {
  hm::Model<Plain, float> model{hm::Seed{2}};
  const auto packed = hm::pack(model);
  const auto places = tensors_of<Plain>();
  const float* const flat = model.parameters() + places.at("layers.0.mixer.query.weight").first;
  const float* panels = nullptr;
  Plain::visit<float, Packed>(
      [&](const hm::Name& name, const hm::Trait&, auto& tensor) {
        if (name.text() == "layers.0.mixer.query.weight") panels = tensor.data;
      },
      hm::Name{}, packed.parameters());
  for (Index n = 0; n < 32; ++n)
    for (Index k = 0; k < 20; ++k) REQUIRE(panels[k * 32 + n] == (n < 20 ? flat[n * 20 + k] : 0.0f));
}

TEST_CASE("equal seeds give equal parameters, by tensor, whatever else a model contains") {
  const hm::Model<Plain, float> a{hm::Seed{9}}, b{hm::Seed{9}}, c{hm::Seed{10}};
  CHECK(test::same_bits(a.parameters(), b.parameters(), a.elements));
  CHECK_FALSE(test::same_bits(a.parameters(), c.parameters(), a.elements));
  // Weights start with a deviation of 0.02, those that write to the stream with 0.02/√(2·layers).
  const auto deviation = [&](const std::string& name) {
    const auto [offset, size] = tensors_of<Plain>().at(name);
    double squares = 0;
    for (Index i = 0; i < size; ++i) squares += std::pow(static_cast<double>(a.parameters()[offset + i]), 2);
    return std::sqrt(squares / static_cast<double>(size));
  };
  CHECK(std::fabs(deviation("embedding.weight") - 0.02) < 0.002);
  CHECK(std::fabs(deviation("layers.2.channel.down.weight") - 0.02 / std::sqrt(6.0)) < 0.001);
  CHECK(deviation("layers.0.mixer.query.bias") == 0);
}

// The same description under another name is the same model; any other number makes another.
struct Renamed : hm::LanguageModel<hm::LanguageSizes{.vocab = 5, .width = 8, .context = 16}, hm::Pattern<"G">,
                                   hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{1, 1, 8}>>>> {};
struct Twin : hm::LanguageModel<hm::LanguageSizes{.vocab = 5, .width = 8, .context = 16}, hm::Pattern<"G">,
                                hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{1, 1, 8}>>>> {};
struct Longer : hm::LanguageModel<hm::LanguageSizes{.vocab = 5, .width = 8, .context = 17}, hm::Pattern<"G">,
                                  hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{1, 1, 8}>>>> {};
struct OtherHeads : hm::LanguageModel<hm::LanguageSizes{.vocab = 5, .width = 8, .context = 16}, hm::Pattern<"G">,
                                      hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{2, 2, 4}>>>> {};
static_assert(hm::fingerprint<Renamed>() == hm::fingerprint<Twin>());
static_assert(hm::fingerprint<Renamed>() != hm::fingerprint<Longer>());
static_assert(hm::fingerprint<Renamed>() != hm::fingerprint<OtherHeads>());

TEST_CASE("describe lists every kind of layer and adds up") {
  const std::string text = hm::describe<Hybrid>();
  INFO(text);
  CHECK(text.find("pattern \"GLLS\", 6 layers, width 24, vocabulary 37, context 96\n") == 0);
  std::istringstream lines(text);
  std::string line;
  std::map<std::string, std::vector<double>> rows;  // letter or "total" → count, parameters, active, FLOPs, bytes
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string word, key;
    std::vector<double> values;
    while (words >> word) {
      char* end = nullptr;
      const double value = std::strtod(word.c_str(), &end);
      if (*end == 0)
        values.push_back(value);
      else if (!values.empty() && (word == "k" || word == "M"))
        values.back() *= word == "k" ? 1e3 : 1e6;
      else
        key = word;
    }
    if (values.size() == 5) rows[key] = values;
  }
  REQUIRE(rows.size() == 5);
  const auto near = [](double got, double expected) { return std::fabs(got - expected) <= 0.006 * expected; };
  const auto check = [&](const char* key, double count, Index parameters, Index active) {
    CAPTURE(key, rows[key]);
    CHECK(rows[key][0] == count);
    CHECK(near(rows[key][1], static_cast<double>(parameters)));
    CHECK(near(rows[key][2], static_cast<double>(active)));
  };
  check("G", 2, 2 * hand::g, 2 * hand::g);
  check("L", 3, 3 * hand::l, 3 * (hand::l_without_experts + 2 * hand::expert));
  check("S", 1, hand::s, hand::s);
  check("head", 1, hand::outer, hand::outer);
  check("total", 6, hand::all, hand::used);
  for (std::size_t column = 1; column < 5; ++column)
    CHECK(near(rows["G"][column] + rows["L"][column] + rows["S"][column] + rows["head"][column], rows["total"][column]));
  CHECK(near(rows["total"][3], hm::Account<Hybrid>::flops_per_token(96).forward));
  CHECK(near(rows["total"][4], static_cast<double>(hm::Account<Hybrid>::state_bytes<float>())));
}
