// Mamba-2 against its recurrence (mamba2_reference.hpp): values, gradients, and the bits of rows however they come in calls.

#include <cstring>
#include <limits>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/ssm/mamba2.hpp>
#include <ssm/mamba2_reference.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
using hm::Index;
using test::Mamba2Reference;
using test::Numbers;

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// Bytes that hold only NaN, whichever of float and double is read (all bits set).
std::vector<std::byte> poisoned(Index bytes) { return std::vector<std::byte>(hm::to_size(bytes + 64), std::byte{0xFF}); }

std::byte* aligned(std::vector<std::byte>& bytes) {
  return bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64;
}

struct Piece {
  Index slot, start, count;
};

template <hm::ssm::Mamba2Sizes sizes, Index width, class T>
struct Bench {
  using Layer = typename hm::ssm::Mamba2<sizes>::template Layer<hm::Environment<width, 256>>;
  using Parameters = typename Layer::template Parameters<T, hm::Flat>;
  using State = typename Layer::template State<T>;
  using Tape = typename Layer::template Tape<T>;
  Parameters p{};
  Mamba2Reference reference{hm::to_size(width),
                            hm::to_size(sizes.heads),
                            hm::to_size(sizes.head),
                            hm::to_size(sizes.state),
                            hm::to_size(sizes.groups),
                            hm::to_size(sizes.taps),
                            1e-5};
  std::vector<std::byte> states = poisoned(4 * Index{sizeof(State)});

  Bench() {
    std::uint64_t seed = 100;
    Layer::visit(
        [&](const hm::Name& name, hm::Trait, auto& tensor) {
          const std::string text = name.text();
          const bool gain = text == "skip" || text == "norm.weight";
          const double spread =
              text == "input.weight" || text == "output.weight" ? 1.5 / std::sqrt(static_cast<double>(width)) : 0.5;
          Numbers& copy = reference.named(text);
          copy = test::numbers(tensor.size, ++seed, spread, gain ? 1.0 : 0.0);
          for (std::size_t i = 0; i < copy.size(); ++i) tensor[static_cast<Index>(i)] = static_cast<T>(copy[i]);
          for (std::size_t i = 0; i < copy.size(); ++i) copy[i] = static_cast<double>(tensor[static_cast<Index>(i)]);
        },
        hm::Name{}, p);
  }

  /// y of one call on poisoned memory; with `training`, also leaves the tape in `tape_bytes`.
  std::vector<T> call(const std::vector<Piece>& pieces, const std::vector<T>& x, bool training,
                      std::vector<std::byte>* tape_bytes = nullptr, const std::vector<T>* dy = nullptr,
                      std::vector<T>* dx = nullptr, Parameters* gradient = nullptr) {
    hm::BatchPlan plan;
    for (const Piece& piece : pieces) plan.add(piece.slot, piece.start, piece.count);
    const Index* const base = plan.data();
    const hm::Batch batch = plan.view(base);
    const hm::Extent extent = hm::Extent::of(batch, training);
    auto scratch = poisoned(Layer::template workspace_bytes<T, hm::Flat>(extent));
    auto own_tape = poisoned(hm::planned_bytes<Tape>(extent));
    std::vector<std::byte>& tape_memory = tape_bytes == nullptr ? own_tape : *tape_bytes;
    if (tape_bytes != nullptr) tape_memory = own_tape;
    hm::Arena tape_arena{aligned(tape_memory), tape_memory.data() + tape_memory.size()};
    const Tape tape(tape_arena, extent);
    hm::Call<hm::exec::Inline> call;
    call.batch = batch;
    call.training = training;
    call.arena = {aligned(scratch), aligned(scratch) + Layer::template workspace_bytes<T, hm::Flat>(extent)};
    std::vector<T> y(x.size(), static_cast<T>(nan));
    hm::States<State> slots{training ? nullptr : aligned(states), Index{sizeof(State)}};
    Layer::forward(call, p, {x.data()}, {y.data()}, slots, tape);
    if (dy != nullptr) {
      std::memset(aligned(scratch), 0xFF, hm::to_size(call.arena.left()));
      Layer::backward(call, p, {x.data()}, tape, {dy->data()}, {dx->data()}, *gradient);
    }
    return y;
  }
};

template <class T>
std::vector<T> part(const std::vector<T>& rows, Index width, Index from, Index count) {
  return std::vector<T>(rows.begin() + from * width, rows.begin() + (from + count) * width);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

double distance(const auto& got, const Numbers& expected) {
  double most = got.size() == expected.size() ? 0 : nan;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(d <= most)) most = d;
  }
  return most;
}

constexpr hm::ssm::Mamba2Sizes plain{.heads = 4, .head = 16, .state = 16, .groups = 1, .taps = 4, .chunk = 16};
constexpr hm::ssm::Mamba2Sizes odd{.heads = 6, .head = 5, .state = 7, .groups = 3, .taps = 3, .chunk = 8, .rewind = 2};
constexpr hm::ssm::Mamba2Sizes wide{.heads = 2, .head = 48, .state = 24, .groups = 2, .taps = 2, .chunk = 64};

template <hm::ssm::Mamba2Sizes sizes, class T>
void values(double tolerance) {
  constexpr Index width = 12;
  Bench<sizes, width, T> bench;
  for (const Index rows :
       {Index{1}, Index{2}, sizes.chunk - 1, sizes.chunk, sizes.chunk + 1, 2 * sizes.chunk, 3 * sizes.chunk + 5}) {
    const auto x = test::cast<T>(test::numbers(rows * width, 7));
    const Numbers expected = bench.reference.forward(Numbers(x.begin(), x.end()));
    double squares = 0;
    for (const double y : expected) squares += y * y / static_cast<double>(expected.size());
    const double most = tolerance * std::sqrt(squares);
    INFO("rows " << rows);
    CHECK(distance(bench.call({{0, 0, rows}}, x, true), expected) < most);
    CHECK(distance(bench.call({{1, 0, rows}}, x, false), expected) < most);
  }
}

template <hm::ssm::Mamba2Sizes sizes, class T>
void bits() {
  constexpr Index width = 12, chunk = sizes.chunk, rows = 3 * chunk + 5;
  Bench<sizes, width, T> bench;
  const auto x = test::cast<T>(test::numbers(rows * width, 8));
  const auto whole = bench.call({{0, 0, rows}}, x, true);
  std::vector<std::vector<Index>> splits = {{rows},
                                            std::vector<Index>(static_cast<std::size_t>(rows), 1),
                                            {chunk, chunk, chunk, 5},
                                            {chunk - 1, 2, 2 * chunk, 4},
                                            {3, chunk - 3, 7, 2 * chunk - 2},
                                            {1, 2 * chunk + 3, 1, chunk},
                                            {chunk + 2, 1, 1, 1, 2 * chunk},
                                            {5, 3 * chunk}};
  for (const auto& split : splits) {
    bench.states = poisoned(4 * Index{sizeof(typename Bench<sizes, width, T>::State)});
    Index at = 0;
    for (const Index count : split) {
      const auto y = bench.call({{2, at, count}}, part(x, width, at, count), false);
      INFO("split of " << split.size() << ", rows " << at << " to " << at + count);
      REQUIRE(same_bits(y, part(whole, width, at, count)));
      at += count;
    }
    REQUIRE(at == rows);
  }
}

template <hm::ssm::Mamba2Sizes sizes, class T>
void together() {
  constexpr Index width = 12, chunk = sizes.chunk, rows = 2 * chunk + 3;
  Bench<sizes, width, T> bench;
  std::vector<std::vector<T>> x, whole;
  for (std::uint64_t s = 0; s < 3; ++s) {
    x.push_back(test::cast<T>(test::numbers(rows * width, 20 + s)));
    whole.push_back(bench.call({{0, 0, rows}}, x.back(), true));
  }
  // Three sequences at different places, in calls that take different numbers of rows of each; slots in another order.
  const Index slot[3] = {3, 0, 2};
  Index at[3] = {0, 0, 0};
  const std::vector<std::vector<Index>> calls = {
      {chunk - 2, 1, 0}, {1, 0, chunk}, {chunk + 4, 3, 1}, {0, chunk, chunk + 1}, {0, chunk - 1, 1}};
  for (const auto& counts : calls) {
    std::vector<Piece> pieces;
    std::vector<T> in, expected;
    for (std::size_t s = 0; s < 3; ++s) {
      if (counts[s] == 0) continue;
      pieces.push_back({slot[s], at[s], counts[s]});
      const auto some = part(x[s], width, at[s], counts[s]), out = part(whole[s], width, at[s], counts[s]);
      in.insert(in.end(), some.begin(), some.end());
      expected.insert(expected.end(), out.begin(), out.end());
      at[s] += counts[s];
    }
    REQUIRE(same_bits(bench.call(pieces, in, false), expected));
  }
  REQUIRE((at[0] == rows && at[1] == rows && at[2] == rows));
  // The same three as a training batch.
  std::vector<T> all, expected;
  for (std::size_t s = 0; s < 3; ++s) {
    all.insert(all.end(), x[s].begin(), x[s].end());
    expected.insert(expected.end(), whole[s].begin(), whole[s].end());
  }
  REQUIRE(same_bits(bench.call({{0, 0, rows}, {0, 0, rows}, {0, 0, rows}}, all, true), expected));
}

template <hm::ssm::Mamba2Sizes sizes>
void gradients() {
  constexpr Index width = 6;
  using B = Bench<sizes, width, double>;
  B bench;
  const std::vector<Index> lengths = {sizes.chunk, 2 * sizes.chunk + 3, 1};
  std::vector<Piece> pieces;
  Index rows = 0;
  for (const Index n : lengths) {
    pieces.push_back({0, 0, n});
    rows += n;
  }
  Numbers x = test::numbers(rows * width, 30);
  const Numbers dy = test::numbers(rows * width, 31);
  const auto loss = [&](const Mamba2Reference& reference, const Numbers& in) {
    double sum = 0;
    Index at = 0;
    for (const Index n : lengths) {
      const Numbers y = reference.forward(part(in, width, at, n));
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[static_cast<std::size_t>(at * width) + i];
      at += n;
    }
    return sum;
  };
  typename B::Parameters gradient{};
  B::Layer::visit(
      [](const hm::Name&, hm::Trait, auto& tensor) {
        for (Index i = 0; i < tensor.size; ++i) tensor[i] = 3;  // gradients are added
      },
      hm::Name{}, gradient);
  Numbers dx(x.size(), 2.0);
  std::vector<std::byte> tape;
  bench.call(pieces, x, true, &tape, &dy, &dx, &gradient);

  constexpr double h = 1e-5;
  const auto slope = [&](double& place) {
    const double kept = place;
    place = kept + h;
    const double up = loss(bench.reference, x);
    place = kept - h;
    const double down = loss(bench.reference, x);
    place = kept;
    return (up - down) / (2 * h);
  };
  double scale = 1;
  for (std::size_t i = 0; i < x.size(); i += 7) {
    const double expected = slope(x[i]);
    INFO("x[" << i << "]: " << dx[i] - 2 << " against " << expected);
    CHECK(std::abs(dx[i] - 2 - expected) < 1e-6 * (scale + std::abs(expected)));
  }
  B::Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& tensor) {
        Numbers& values = bench.reference.named(name.text());
        const std::size_t stride = values.size() > 100 ? values.size() / 37 : 1;
        for (std::size_t i = 0; i < values.size(); i += stride) {
          const double expected = slope(values[i]), got = tensor[static_cast<Index>(i)] - 3;
          INFO(name.text() << "[" << i << "]: " << got << " against " << expected);
          CHECK(std::abs(got - expected) < 1e-6 * (scale + std::abs(expected)));
        }
      },
      hm::Name{}, gradient);
}

}  // namespace

TEST_CASE("Mamba-2 equals its recurrence, in training and with a state") {
  values<plain, double>(1e-12);
  values<odd, double>(1e-12);
  values<wide, double>(1e-12);
  values<plain, float>(1e-5);
  values<odd, float>(1e-5);
  values<wide, float>(1e-5);
}

TEST_CASE("Mamba-2's rows have the same bits in any split into calls") {
  bits<plain, float>();
  bits<odd, float>();
  bits<wide, float>();
  bits<plain, double>();
  bits<odd, double>();
}

TEST_CASE("Mamba-2's rows have the same bits among other sequences") {
  together<plain, float>();
  together<odd, float>();
  together<odd, double>();
}

TEST_CASE("Mamba-2's gradients equal differences of the recurrence") {
  gradients<plain>();
  gradients<odd>();
}

TEST_CASE("a later token of Mamba-2 leaves earlier rows alone, even when it is not finite") {
  constexpr Index width = 12, rows = 37;
  Bench<plain, width, float> bench;
  auto x = test::cast<float>(test::numbers(rows * width, 40));
  const auto before = bench.call({{0, 0, rows}}, x, true);
  for (const float value : {3.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const Index at : {Index{0}, Index{14}, Index{16}, Index{36}}) {
      auto changed = x;
      changed[static_cast<std::size_t>(at * width + 3)] = value;
      for (const bool training : {true, false}) {
        const auto after = bench.call({{0, 0, rows}}, changed, training);
        CHECK(same_bits(part(after, width, 0, at), part(before, width, 0, at)));
        CHECK(!same_bits(part(after, width, at, 1), part(before, width, at, 1)));
      }
    }
  }
}

TEST_CASE("a sequence of Mamba-2 may go back within its chunk as far as it keeps inputs") {
  constexpr Index width = 12;
  Bench<odd, width, float> bench;
  const auto x = test::cast<float>(test::numbers(14 * width, 50)), other = test::cast<float>(test::numbers(2 * width, 51));
  const auto whole = bench.call({{0, 0, 14}}, x, true);
  bench.call({{1, 0, 11}}, part(x, width, 0, 11), false);
  bench.call({{1, 11, 2}}, other, false);  // two tokens that are taken back
  CHECK(same_bits(bench.call({{1, 11, 3}}, part(x, width, 11, 3), false), part(whole, width, 11, 3)));
}

TEST_CASE("Mamba-2 counts as published") {
  // Mamba-2 130M: width 768, 24 heads of 64, state 128: d(2·di + 2·N + H) + (K+1)(di + 2N) + 3H + di + di·d.
  using Layer = hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 24, .head = 64, .state = 128}>::Layer<hm::Environment<768, 2048>>;
  STATIC_REQUIRE(Layer::active_parameters() ==
                 hm::Spread::always(768 * (2 * 1536 + 256 + 24) + 5 * (1536 + 256) + 3 * 24 + 1536 + 1536 * 768));
  STATIC_REQUIRE(Layer::recurrent_elements == 24 * 64 * 128 + 3 * (1536 + 256));
  STATIC_REQUIRE(hm::state_bytes<Layer::State<float>> == 4 * (24 * 64 * 128 + 3 * 1792 + 64 * (1536 + 128 + 48)));
  constexpr double products = 2.0 * 768 * (2 * 1536 + 256 + 24 + 1536);
  constexpr double scan = 24 * (4.0 * 64 * 128 + 65.0 * 64) + 65.0 * 128 + 8.0 * 1792;
  STATIC_REQUIRE(Layer::flops_per_token(1).forward == products + scan);
  STATIC_REQUIRE(Layer::flops_per_token(1).training == 3 * (products + scan));
}
