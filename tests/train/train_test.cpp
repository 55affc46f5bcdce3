// Training: the optimizer against its formulas, the order of data, broken numbers, and what may not change a bit.

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <set>

#include <hybridmoe/train/fit.hpp>
#include <model/running.hpp>
#include <support/allocations.hpp>
#include <support/impossible_memory.hpp>
#include <train/support.hpp>

namespace hm = hybridmoe;
namespace train = hybridmoe::train;
using hm::Index;
using test::Dense;
using test::dense_text;
using test::Small;
using test::small_text;
using test::state_of;
using test::trainer_of;
using DenseModel = hm::Model<Dense, double>;
using SmallModel = hm::Model<Small, float>;

namespace {

constexpr train::Options small_options{
    .batch = 3, .length = 64, .schedule = {.peak = 3e-3, .warmup = 3, .steps = 50}, .dropout = 0.1f, .seed = 5};

}  // namespace

TEST_CASE("schedules have their published values") {
  const train::Schedule cosine{.shape = train::Shape::cosine, .peak = 2, .warmup = 4, .steps = 12, .last = 0.1};
  for (const auto& [step, rate] :
       {std::pair{0, 0.5}, {1, 1.0}, {3, 2.0}, {4, 2.0}, {8, 1.1}, {12, 0.2}, {13, 0.2}, {1'000'000, 0.2}}) {
    CAPTURE(step);
    CHECK(std::fabs(cosine.rate(step) - rate) < 1e-12);
  }
  CHECK(std::fabs(cosine.rate(6) - (0.2 + 1.8 * 0.5 * (1 + std::sqrt(0.5)))) < 1e-12);
  const train::Schedule stable{
      .shape = train::Shape::warmup_stable_decay, .peak = 1, .warmup = 2, .steps = 20, .last = 0.2, .decay = 5};
  for (const auto& [step, rate] :
       {std::pair{0, 0.5}, {1, 1.0}, {2, 1.0}, {14, 1.0}, {15, 1.0}, {16, 0.84}, {19, 0.36}, {20, 0.2}, {99, 0.2}}) {
    CAPTURE(step);
    CHECK(std::fabs(stable.rate(step) - rate) < 1e-12);
  }
  const train::Schedule constant{.shape = train::Shape::constant, .peak = 3, .warmup = 0, .steps = 5};
  for (const Index step : {0, 4, 5, 100}) CHECK(constant.rate(step) == 3);
  // Odd settings stay within bounds: no warmup, all warmup, decay longer than the run, none at all.
  for (const train::Shape shape : {train::Shape::constant, train::Shape::cosine, train::Shape::warmup_stable_decay})
    for (const Index warmup : {0, 1, 10, 30})
      for (const Index decay : {0, 5, 50})
        for (Index step = 0; step < 40; ++step) {
          const double rate =
              train::Schedule{.shape = shape, .peak = 1, .warmup = warmup, .steps = 10, .last = 0.5, .decay = decay}.rate(step);
          CHECK(rate > 0);
          CHECK(rate <= 1);
          if (step >= warmup) CHECK(rate >= 0.5);
        }
}

TEST_CASE("AdamW's first step moves every parameter by the rate, against its gradient's sign") {
  std::vector<double> p{1, -2, 3, 0}, m(4), v(4);
  const std::vector<double> gradient{1e-3, -5, 1e6, 0};
  constexpr double rate = 0.01, decay = 0.1;
  hm::exec::Inline{}.each(1, train::AdamWKernel<double>{4, gradient.data(), p.data(), m.data(), v.data(), 0.9, 0.95, 1e-8, rate,
                                                        decay, 1, 1 / (1 - 0.9), 1 / (1 - 0.95)});
  const double expected[] = {1 - rate * (1 / (1 + 1e-5) + decay), -2 + rate * (1 + 2 * decay), 3 - rate * (1 + 3 * decay), 0};
  for (std::size_t i = 0; i < 4; ++i) CHECK(std::fabs(p[i] - expected[i]) < 1e-8 * rate);
  CHECK(std::fabs(m[1] + 0.5) < 1e-15);
  CHECK(std::fabs(v[1] - 1.25) < 1e-14);
}

namespace {

/// Training by hand: the windows' gradient from one call, then the optimizer's formulas tensor by tensor.
class ByHand {
 public:
  ByHand(std::vector<double> parameters, const train::Text& text, const train::Options& options)
      : p(std::move(parameters)), m(p.size()), v(p.size()), text_(text), o_(options) {}
  std::vector<double> p, m, v;
  double loss = 0, norm = 0;

  void step(Index number) {
    const Index windows = o_.batch * o_.accumulate;
    test::TrainingRun<Dense, double> run(std::vector<Index>(hm::to_size(windows), o_.length), 1);
    for (Index w = 0; w < windows; ++w) {
      const Index at = text_.training_window(hm::random::key_of(o_.seed), number * windows + w, o_.length);
      std::copy_n(text_.tokens() + at, o_.length, run.tokens.begin() + w * o_.length);
      std::copy_n(text_.tokens() + at + 1, o_.length, run.targets.begin() + w * o_.length);
    }
    run.run(p);
    loss = run.loss;
    double squares = 0;
    for (const double g : run.gradient) squares += g * g;
    norm = std::sqrt(squares);
    const double scale = o_.clip > 0 && norm > o_.clip ? o_.clip / norm : 1;
    const auto t = static_cast<double>(number + 1);
    Dense::visit<double, hm::Flat>(
        [&](const hm::Name& name, const hm::Trait& trait, const auto& tensor) {
          const train::Group group = o_.groups(name.text(), trait);
          const auto first_element = static_cast<std::size_t>(tensor.data - p.data());
          for (std::size_t i = first_element; i < first_element + hm::to_size(tensor.size); ++i) {
            const double g = run.gradient[i] * scale;
            m[i] = o_.optimizer.beta1 * m[i] + (1 - o_.optimizer.beta1) * g;
            v[i] = o_.optimizer.beta2 * v[i] + (1 - o_.optimizer.beta2) * g * g;
            const double first = m[i] / (1 - std::pow(o_.optimizer.beta1, t)),
                         second = v[i] / (1 - std::pow(o_.optimizer.beta2, t));
            const double rate = o_.schedule.rate(number) * group.rate;
            p[i] = p[i] * (1 - rate * o_.optimizer.weight_decay * group.decay) -
                   rate * first / (std::sqrt(second) + o_.optimizer.epsilon);
          }
        },
        hm::Name{}, static_cast<const double*>(p.data()));
  }

 private:
  const train::Text& text_;
  train::Options o_;
};

/// The embedding at half the rate without decay, positions frozen, the rest as usual.
train::Group unusual_groups(const std::string& name, const hm::Trait& trait) {
  if (name == "embedding.weight") return {0.5, 0};
  if (name == "position.weight") return {0, 1};
  return train::by_trait(name, trait);
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double difference = std::fabs(a[i] - b[i]);
    worst = difference <= worst ? worst : difference;  // a NaN stays
  }
  return worst;
}

}  // namespace

TEST_CASE("by default traits say how fast tensors learn and which decay") {
  CHECK(train::by_trait("x", hm::Trait::weight()) == train::Group{1, 1});
  CHECK(train::by_trait("x", hm::Trait::gain().at_speed(10)) == train::Group{10, 0});
}

TEST_CASE("training steps are the formulas: gradient of the windows, clipping, AdamW with groups, schedule") {
  const train::Text text = dense_text();
  for (const train::GroupRule rule : {&train::by_trait, &unusual_groups})
    for (const double clip : {0.0, 0.3}) {
      const train::Options options{.batch = 3,
                                   .length = 20,
                                   .accumulate = 2,
                                   .optimizer = {.beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-6, .weight_decay = 0.3},
                                   .schedule = {.peak = 2e-2, .warmup = 2, .steps = 6},
                                   .groups = rule,
                                   .clip = clip,
                                   .seed = 11};
      DenseModel model{hm::Seed{1}};
      std::vector<double> start(hm::to_size(model.elements));
      model.download(start.data());
      auto trainer = trainer_of(model, text, options);
      ByHand hand(start, text, options);
      for (Index step = 0; step < 6; ++step) {
        const auto report = trainer->step();
        REQUIRE(report);
        hand.step(step);
        CAPTURE(clip, step);
        CHECK(report->step == step);
        CHECK(report->rate == options.schedule.rate(step));
        CHECK(std::fabs(report->loss - hand.loss) < 1e-12);
        CHECK(std::fabs(report->gradient_norm - hand.norm) < 1e-12 * hand.norm);
        if (clip > 0) CHECK(hand.norm > clip);  // or clipping is not tested
        const std::vector<double> state = state_of(*trainer);
        CHECK(largest_difference(state, hand.p) < 1e-12);
        CHECK(largest_difference({state.begin() + model.elements, state.end()}, hand.m) < 1e-12);
        CHECK(largest_difference({state.begin() + 2 * model.elements, state.end()}, hand.v) < 1e-12);
      }
      CHECK(largest_difference(start, hand.p) > 0.01);
      constexpr Index first = Dense::vocab * Dense::width, last = first + Dense::context * Dense::width;
      const bool frozen = std::equal(start.begin() + first, start.begin() + last, hand.p.begin() + first);
      CHECK(frozen == (rule == &unusual_groups));
    }
}

TEST_CASE("k micro-batches are one big batch") {
  const train::Text text = dense_text();
  const auto train_with = [&](Index batch, Index accumulate) {
    DenseModel model{hm::Seed{2}};
    // More rows than the head takes at a time.
    auto trainer =
        trainer_of(model, text,
                   {.batch = batch, .length = 40, .accumulate = accumulate, .schedule = {.peak = 1e-2, .warmup = 2, .steps = 9}});
    std::vector<double> losses;
    for (int i = 0; i < 5; ++i) losses.push_back(trainer->step()->loss);
    return std::pair{losses, state_of(*trainer)};
  };
  const auto whole = train_with(16, 1), parts = train_with(4, 4);
  for (std::size_t i = 0; i < 5; ++i) CHECK(std::fabs(whole.first[i] - parts.first[i]) < 1e-6 * whole.first[i]);
  CHECK(largest_difference(whole.second, parts.second) < 1e-9);
}

TEST_CASE("recomputed activations train to the same bits, and a step allocates nothing") {
  const train::Text text = small_text();
  std::vector<float> states[2];
  for (const bool recompute : {false, true}) {
    SmallModel model{hm::Seed{3}};
    train::Options options = small_options;
    options.recompute = recompute;
    options.accumulate = 2;
    auto trainer = trainer_of(model, text, options);
    const auto before = test::allocations();
    for (int i = 0; i < 4; ++i)
      if (!trainer->step()) break;
    CHECK(test::allocations() == before);
    CHECK(trainer->steps_done() == 4);
    states[recompute] = state_of(*trainer);
  }
  CHECK(states[0] == states[1]);
}

TEST_CASE("dropout zeroes the rate's share, scales the rest, and repeats nothing") {
  constexpr Index rows = 300, width = 200;  // beyond one group of columns, and not a multiple of it
  const std::vector<float> branch(rows * width, 1.0f), residual(rows * width, 2.0f);
  const auto mask = [&](float rate, hm::random::Key key, std::uint64_t stream) {
    std::vector<float> y(rows * width);
    hm::ops::add_dropped<width>(hm::exec::Inline{}, rows, residual.data(), branch.data(), y.data(), {key, stream, rate});
    for (float& value : y) value -= 2;
    return y;
  };
  for (const float rate : {0.1f, 0.5f, 0.9f}) {
    const std::vector<float> first = mask(rate, {1, 2}, 3);
    const auto dropped = [&](const std::vector<float>& m) { return static_cast<double>(std::count(m.begin(), m.end(), 0.0f)); };
    const double count = rows * width, p = static_cast<double>(rate), deviation = std::sqrt(p * (1 - p) * count);
    CHECK(std::fabs(dropped(first) - p * count) < 4 * deviation);
    for (const float value : first) REQUIRE((value == 0 || std::fabs(static_cast<double>(value) * (1 - p) - 1) < 1e-4));
    // Another key, another stream, the next row, the next column: two masks agree as often as independent ones would.
    const auto agreements = [&](const std::vector<float>& other, Index shift) {
      double equal = 0;
      for (Index i = 0; i + shift < rows * width; ++i)
        equal += (first[hm::to_size(i + shift)] == 0) == (other[hm::to_size(i)] == 0);
      return equal;
    };
    const double expected = p * p + (1 - p) * (1 - p), spread = 5 * std::sqrt(expected * (1 - expected) * count);
    CHECK(std::fabs(agreements(mask(rate, {2, 2}, 3), 0) - expected * count) < spread);
    CHECK(std::fabs(agreements(mask(rate, {1, 3}, 3), 0) - expected * count) < spread);
    CHECK(std::fabs(agreements(mask(rate, {1, 2}, 4), 0) - expected * count) < spread);
    CHECK(std::fabs(agreements(mask(rate, {1, 2}, 3ull << 32 | 3), 0) - expected * count) < spread);
    for (const Index shift : {1, 8, 16, 128, 200, 1600})
      CHECK(std::fabs(agreements(first, shift) - expected * (count - static_cast<double>(shift))) < spread);
    CHECK(first == mask(rate, {1, 2}, 3));
  }
  const std::vector<float> all = mask(0, {1, 2}, 3);
  CHECK(std::all_of(all.begin(), all.end(), [](float value) { return value == 1; }));
}

TEST_CASE("a permutation meets every number once") {
  for (std::uint64_t n = 1; n < 140; ++n)
    for (const std::uint32_t key : {1u, 99u}) {
      const train::Permutation order(n, {key, 5});
      std::vector<bool> met(n);
      for (std::uint64_t i = 0; i < n; ++i) {
        REQUIRE(order(i) < n);
        REQUIRE_FALSE(met[order(i)]);
        met[order(i)] = true;
      }
    }
  // A large one moves its numbers about: a random order has about one fixed point and half of the pairs in order.
  constexpr std::uint64_t n = 100'000;
  const train::Permutation order(n, {3, 4});
  std::set<std::uint64_t> met;
  int fixed = 0, ascending = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    met.insert(order(i));
    fixed += order(i) == i;
    ascending += i + 1 < n && order(i) < order(i + 1);
  }
  CHECK(met.size() == n);
  CHECK(*met.rbegin() == n - 1);
  CHECK(fixed < 8);
  CHECK(std::abs(ascending - 50'000) < 1000);
}

TEST_CASE("an epoch meets every window of the training part once, shifted and in another order each time") {
  for (const Index size : {Index{37}, Index{100}, Index{1001}, Index{12'345}})
    for (const Index length : {Index{1}, Index{7}, Index{16}}) {
      const train::Text text = train::Text::bytes(std::string(hm::to_size(size), 'x'), 0.5).value();
      REQUIRE(text.examine(length));
      const hm::random::Key key = hm::random::key_of(4);
      const Index windows = std::max<Index>(1, (text.split() - length) / length);
      std::set<Index> offsets;
      std::vector<Index> first_order;
      for (Index epoch = 0; epoch < 5; ++epoch) {
        std::vector<Index> starts;
        for (Index w = 0; w < windows; ++w) starts.push_back(text.training_window(key, epoch * windows + w, length));
        if (epoch == 0) first_order = starts;
        if (epoch == 1 && windows > 5) CHECK(starts != first_order);
        std::sort(starts.begin(), starts.end());
        CAPTURE(size, length, epoch);
        REQUIRE(starts.front() >= 0);
        REQUIRE(starts.back() + length + 1 <= text.split());  // the last target too
        for (std::size_t i = 1; i < starts.size(); ++i) REQUIRE(starts[i] - starts[i - 1] == length);
        offsets.insert(starts.front());
        // No more is left out than a window and a half before and behind.
        CHECK(windows * length > text.split() - 1 - 2 * length);
      }
      if (length > 1 && windows > 1) CHECK(offsets.size() > 1);
    }
  const train::Text text = dense_text();
  std::vector<Index> one, other;
  for (Index w = 0; w < 20; ++w) {
    one.push_back(text.training_window(hm::random::key_of(1), w, 16));
    other.push_back(text.training_window(hm::random::key_of(2), w, 16));
  }
  CHECK(one != other);
}

TEST_CASE("evaluation is the mean over the windows of the held-out part, and disturbs nothing") {
  const train::Text text = dense_text();
  constexpr Index length = 22;
  const train::Options options{
      .batch = 4, .length = length, .schedule = {.peak = 1e-2, .warmup = 1, .steps = 9}, .dropout = 0.3f};
  DenseModel model{hm::Seed{4}}, silent{hm::Seed{4}};
  auto trainer = trainer_of(model, text, options), other = trainer_of(silent, text, options);
  REQUIRE(trainer->step());
  REQUIRE(other->step());
  std::vector<double> parameters(hm::to_size(model.elements));
  model.download(parameters.data());
  const Index windows = (text.size() - text.split() - 1) / length;
  REQUIRE(windows % 4 != 0);  // the last batch is not full
  const auto expected = [&](Index count) {
    test::TrainingRun<Dense, double> run(std::vector<Index>(hm::to_size(count), length), 1);
    for (Index w = 0; w < count; ++w) {
      std::copy_n(text.tokens() + text.split() + w * length, length, run.tokens.begin() + w * length);
      std::copy_n(text.tokens() + text.split() + w * length + 1, length, run.targets.begin() + w * length);
    }
    run.run(parameters, {.gradient = false});
    return run.loss;
  };
  CHECK(std::fabs(trainer->evaluate() - expected(windows)) < 1e-12);
  CHECK(std::fabs(trainer->evaluate(3) - expected(3)) < 1e-12);
  CHECK(std::fabs(trainer->evaluate(6) - expected(6)) < 1e-12);
  CHECK(trainer->evaluate(1'000'000) == trainer->evaluate());
  CHECK(state_of(*trainer) == state_of(*other));
  CHECK(trainer->step()->loss == other->step()->loss);
  CHECK(state_of(*trainer) == state_of(*other));
}

TEST_CASE("a NaN in any tensor is reported with step and layer, and undone by mending it") {
  const train::Text text = small_text();
  SmallModel model{hm::Seed{6}}, undisturbed{hm::Seed{6}};
  auto trainer = trainer_of(model, text, small_options), other = trainer_of(undisturbed, text, small_options);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(trainer->step());
    REQUIRE(other->step());
  }
  Small::visit<float, hm::Flat>(
      [&](const hm::Name& name, const hm::Trait&, auto& tensor) {
        const std::string text_of_name = name.text();
        for (const float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
          // An infinite decay, bias or router score need not break anything.
          if (broken > 0 && (tensor.rank < 2 || text_of_name.find("router") != std::string::npos)) continue;
          std::vector<float> whole(tensor.data, tensor.data + tensor.size);
          std::fill(tensor.data, tensor.data + tensor.size, broken);
          const std::vector<float> before = state_of(*trainer);
          const auto report = trainer->step();
          INFO(text_of_name << " = " << broken);
          REQUIRE_FALSE(report);
          CHECK(report.error().code == hm::Code::not_finite);
          const std::string where = report.error().where;
          CAPTURE(where);
          CHECK(where.find("step 2") != std::string::npos);
          if (text_of_name == "embedding.weight")
            CHECK(where.find("embedding") != std::string::npos);
          else if (text_of_name.starts_with("layers."))
            CHECK(where.find(text_of_name.substr(0, 8) + " of kind " + "GLLSG"[text_of_name[7] - '0']) != std::string::npos);
          const std::vector<float> after = state_of(*trainer);
          CHECK(test::same_bits(before.data(), after.data(), hm::to_index(before.size())));
          CHECK(trainer->steps_done() == 2);
          std::copy(whole.begin(), whole.end(), tensor.data);
        }
      },
      hm::Name{}, model.parameters());
  for (int i = 0; i < 2; ++i) CHECK(trainer->step()->loss == other->step()->loss);
  CHECK(state_of(*trainer) == state_of(*other));
  // Or a batch is passed over.
  trainer->skip();
  other->skip();
  CHECK(trainer->step()->step == 5);
}

TEST_CASE("gradients that overflow are reported, with the first tensor that has them, and so is a norm that does") {
  const train::Text text = dense_text();
  struct Case {
    double gain, head;
    const char* where;
  };
  // Logits as usual, and a gradient of the norm's gain whose square, or which itself, is beyond all numbers.
  for (const Case& c :
       {Case{1e-300, 1e300, "step 0, the gradient's norm"}, {1e-308, 8.5e307, "step 0, gradient of final_norm.weight"}}) {
    DenseModel model{hm::Seed{6}};
    auto trainer = trainer_of(model, text, {.batch = 1, .length = 1});
    Dense::visit<double, hm::Flat>(
        [&](const hm::Name& name, const hm::Trait&, auto& tensor) {
          if (name.text() == "final_norm.weight") std::fill_n(tensor.data, tensor.size, c.gain);
          if (name.text() == "head.weight")
            for (Index i = 0; i < tensor.size; ++i) tensor.data[i] = i / Dense::width % 2 == 0 ? c.head : -c.head;
        },
        hm::Name{}, model.parameters());
    const std::vector<double> before = state_of(*trainer);
    const auto report = trainer->step();
    REQUIRE_FALSE(report);
    CHECK(report.error().code == hm::Code::not_finite);
    CHECK(report.error().where == c.where);
    CHECK(state_of(*trainer) == before);
  }
}

TEST_CASE("a trainer that cannot be is refused") {
  const train::Text text = dense_text();
  DenseModel model{hm::Seed{1}};
  const auto refused = [&](const train::Text& content, const train::Options& options) {
    const auto trainer = train::Trainer<DenseModel>::create(model, content, options);
    return !trainer && trainer.error().code == hm::Code::bad_argument;
  };
  CHECK(refused(text, {.batch = 0, .length = 8}));
  CHECK(refused(text, {.batch = 1, .length = 8, .accumulate = 0}));
  CHECK(refused(text, {.batch = 1, .length = 0}));
  CHECK(refused(text, {.batch = 1, .length = 41}));
  CHECK(refused(text, {.batch = 1, .length = 8, .dropout = 1}));
  CHECK(refused(text, {.batch = 1, .length = 8, .dropout = -0.1f}));
  CHECK(refused(text, {.batch = 1, .length = 8, .dropout = std::numeric_limits<float>::quiet_NaN()}));
  // Numbers with which an update would silently make the parameters NaN, or clipping do nothing.
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double beta : {-0.1, 1.0, nan}) {
    CHECK(refused(text, {.batch = 1, .length = 8, .optimizer = {.beta1 = beta}}));
    CHECK(refused(text, {.batch = 1, .length = 8, .optimizer = {.beta2 = beta}}));
  }
  for (const double epsilon : {0.0, -1e-8, nan})
    CHECK(refused(text, {.batch = 1, .length = 8, .optimizer = {.epsilon = epsilon}}));
  for (const double bad : {-0.1, nan}) {
    CHECK(refused(text, {.batch = 1, .length = 8, .optimizer = {.weight_decay = bad}}));
    CHECK(refused(text, {.batch = 1, .length = 8, .schedule = {.peak = bad}}));
    CHECK(refused(text, {.batch = 1, .length = 8, .schedule = {.last = bad}}));
    CHECK(refused(text, {.batch = 1, .length = 8, .clip = bad}));
  }
  CHECK(refused(train::Text::bytes(std::string(30, '\1')).value(), {.batch = 1, .length = 8}));   // three bytes to validate on
  CHECK(refused(train::Text::bytes(std::string(1000, 'A')).value(), {.batch = 1, .length = 8}));  // 65 is beyond the vocabulary
  CHECK(refused(train::Text::bytes("").value(), {.batch = 1, .length = 8}));
  // More memory than there are addresses, and than an Index can count.
  for (const int bits : {38, 45, 55, 62}) {
    const auto trainer = train::Trainer<DenseModel>::create(model, text, {.batch = Index{1} << bits, .length = 8});
    REQUIRE_FALSE(trainer);
    CHECK(trainer.error().code == hm::Code::out_of_memory);
  }
  CHECK_FALSE(train::Text::bytes("abc", 0));
  CHECK_FALSE(train::Text::bytes("abc", 1));
}

TEST_CASE("a model learns a tiny text by heart") {
  std::string content;
  for (int i = 0; i < 40; ++i) content += "The quick brown fox jumps over the lazy dog while nobody looks; ";
  const train::Text text = train::Text::bytes(content).value();
  SmallModel model{hm::Seed{8}};
  auto trainer = trainer_of(model, text, {.batch = 4, .length = 64, .schedule = {.peak = 5e-3, .warmup = 5, .steps = 80}});
  CHECK(std::fabs(trainer->evaluate() - std::log(256.0)) < 0.2);  // at first every byte is equally likely
  const auto report = train::fit(*trainer, {.progress = false});
  REQUIRE(report);
  CHECK(trainer->steps_done() == 80);
  CHECK(report->tokens == 80 * 4 * 64);
  CHECK(trainer->evaluate() < 0.1);
}

TEST_CASE("the batch spends everything; twins beside it are drawn by the shares that are promised") {
  const train::Budgets budgets{.sampled = true, .twins = 0.5, .least = 0.25, .at_least = 0.5};
  double uniform = 0, targets = 0;
  int drawn = 0, spend_all = 0, first_place = 0;
  constexpr int draws = 1000;
  for (std::uint64_t micro = 0; micro < draws; ++micro) {
    const train::BudgetDraw draw(budgets, hm::random::key_of(3), micro, 8);
    REQUIRE(draw.twins() == 4);
    for (Index s = 0; s < 8; ++s) REQUIRE((draw.window(s) == s && draw.of(s).budget == 1 && draw.of(s).target == 1));
    int at_least = 0;
    for (Index twin = 0; twin < 4; ++twin) {
      const train::Condition c = draw.of(8 + twin);
      REQUIRE(draw.window(8 + twin) == twin);
      REQUIRE((c.budget >= 0.25 && c.budget < 1));
      REQUIRE((c.budget == 0.25) == draw.at_least(twin));
      if (draw.at_least(twin)) {
        REQUIRE(c.target == 1);
        ++at_least;
        first_place += twin == 0;
        continue;
      }
      ++drawn;
      uniform += c.budget;
      if (c.target == 1)
        ++spend_all;
      else
        targets += c.target;
    }
    REQUIRE(at_least == 2);
  }
  CHECK(std::abs(first_place - draws / 2) < 80);     // a deviation is 16
  CHECK(std::fabs(uniform / drawn - 0.625) < 0.02);  // of 2000 draws: 0.005
  CHECK(std::abs(spend_all - 1600) < 90);            // 18
  CHECK(std::fabs(targets / (drawn - spend_all) - 0.5) < 0.06);
  // One at least, no more than the batch; none where budgets are not drawn.
  CHECK(train::BudgetDraw::twins_of({.sampled = true, .twins = 0}, 8) == 1);
  CHECK(train::BudgetDraw::twins_of({.sampled = true, .twins = 0.3}, 4) == 1);
  CHECK(train::BudgetDraw::twins_of({.sampled = true, .twins = 1}, 3) == 3);
  const train::BudgetDraw fixed({.fixed = {0.5, 0.75}}, hm::random::key_of(3), 0, 8);
  CHECK(fixed.twins() == 0);
  for (Index s = 0; s < 8; ++s) CHECK((fixed.of(s).budget == 0.5 && fixed.of(s).target == 0.75));
}

TEST_CASE("draws that lean come from above their lowest budget by the power that is asked for, evenly from a step's parts") {
  const train::Budgets budgets{.sampled = true, .at_least = 0.25, .above = 0.2, .lean = 2, .evenly = true};
  double sum = 0;
  for (std::uint64_t micro = 0; micro < 1000; ++micro) {
    const train::BudgetDraw draw(budgets, hm::random::key_of(4), micro, 8);
    Index place = 0;
    for (Index twin = 0; twin < 8; ++twin) {
      const double budget = draw.of(8 + twin).budget;
      if (draw.at_least(twin)) {
        REQUIRE(budget == 0);
        continue;
      }
      const double v = std::sqrt((budget - 0.2) / 0.8) * 6;  // of six parts
      REQUIRE((static_cast<double>(place) - 1e-9 <= v && v <= static_cast<double>(place) + 1 + 1e-9));
      sum += budget;
      ++place;
    }
    REQUIRE(place == 6);
  }
  CHECK(std::fabs(sum / 6000 - (0.2 + 0.8 / 3)) < 0.003);  // a deviation is 0.0005
  // `least` counts where it is the higher; a single draw has all of [0, 1) for its part.
  const train::BudgetDraw one({.sampled = true, .twins = 0, .least = 0.5, .at_least = 0, .above = 0.2, .evenly = true},
                              hm::random::key_of(4), 0, 8);
  CHECK((one.twins() == 1 && one.of(8).budget >= 0.5 && one.of(8).budget < 1));
}

TEST_CASE("the progress line holds any loss, and tells the time left of a run that goes on") {
  const train::Progress progress(2e6, 1e9);
  CHECK(progress.line(10, 100, 1.25, 5000, 20) == "step 10/100  loss 1.2500  250 tokens/s  50% of peak  180 s left");
  // Ten steps took the 20 seconds, not 910, and 90 are left.
  CHECK(progress.line(910, 1000, 1.25, 5000, 20, 900).ends_with("  180 s left"));
  CHECK(progress.line(1, 2, 1e300, 5000, 20) == "step 1/2  loss 1e+300  250 tokens/s  50% of peak  20 s left");
  CHECK(train::Progress(1).line(0, 5, 2, 0, 0) == "step 0/5  loss 2.0000  0 tokens/s  0 s left");
}

TEST_CASE("an interrupt ends training between two steps; a time ends it about then") {
  const train::Text text = dense_text();
  DenseModel model{hm::Seed{8}};
  auto trainer = trainer_of(model, text, {.batch = 1, .length = 8, .schedule = {.steps = 1000}});
  {
    const train::Interrupt interrupt;
    CHECK_FALSE(interrupt.requested());
    std::raise(SIGINT);
    CHECK(interrupt.requested());
    const auto report = train::fit(*trainer, {.interrupt = &interrupt});
    REQUIRE(report);
    CHECK(report->interrupted);
    CHECK(trainer->steps_done() == 0);
  }
  const auto report = train::fit(*trainer, {.seconds = 0.5});
  REQUIRE(report);
  CHECK_FALSE(report->interrupted);
  CHECK(trainer->steps_done() == trainer->options().schedule.steps);
  CHECK(report->seconds > 0.1);
  CHECK(report->fraction_of_peak > 0);
  CHECK(report->curve.text().find("training") != std::string::npos);
  CHECK(report->curve.svg().find("</svg>") != std::string::npos);
}
