// Multi-scale embeddings against their definition (segments_reference.hpp); that limits hold whatever the weights; that a
// segment is seen by the rows after it and by no other; and that tokens can be taken back.

#include <embedding/segments_reference.hpp>
#include <embedding/support.hpp>
#include <hybridmoe/check/with_sources.hpp>
#include <hybridmoe/embedding/segments.hpp>

namespace check = hybridmoe::check;
namespace embedding = hybridmoe::embedding;
namespace hm = hybridmoe;
namespace ops = hybridmoe::ops;
namespace stream = hybridmoe::stream;
using hm::Index;
using hm::SegmentLimits;

namespace {

constexpr SegmentLimits small{.phrase = {2, 4}, .sentence = {5, 10}, .paragraph = {11, 24}};
constexpr embedding::SegmentOptions few{.limits = small, .width = 6, .boundary = 5};
constexpr embedding::SegmentOptions usual{.boundary = 7};

template <Index size>
using ReadContext = check::ReadStreams<check::Drive<stream::Context, 2 * size>>;
template <Index size, embedding::SegmentOptions options, class... Options>
using Driven = check::Driven<check::WithSources<ReadContext<size>, 1, embedding::Segments<options, Options...>>,
                             check::Drive<stream::Decisions, 9>>;

/// y = x + mixed context against the reference's; the reference tells which kinds of cuts there were.
template <class Description, class Env>
test::SegmentReference::Answer matches(test::SegmentReference reference, Index length, std::uint64_t seed) {
  check::SubjectOf<Description, Env, double, hm::Flat, hm::exec::Inline> subject(hm::exec::Inline{});
  const std::vector<double> parameters = subject.random_parameters(seed);
  subject.set_parameters(parameters);
  hm::BatchPlan plan = check::whole_sequences({length, 1});
  check::Training<double> run;
  run.x = test::numbers(plan.rows() * Env::width, seed + 1);
  subject.train(plan, run);
  reference.width = hm::to_size(Env::width);
  reference.tensor = test::finder(subject, parameters);
  const std::vector<double> e(run.x.begin(), run.x.begin() + length * Env::width);
  test::SegmentReference::Answer answer = reference.run(e, test::driven_emphasis(e, reference.width, reference.tensor("drive")));
  std::vector<double> expected = answer.x;
  const std::size_t columns = 2 * reference.size;
  for (std::size_t t = 0; t < hm::to_size(length); ++t)
    for (std::size_t j = 0; j < columns; ++j)
      for (std::size_t c = 0; c < reference.width; ++c) {
        const std::size_t step = (j * 37 + c * 61 + j * c * 7) % 101;
        expected[t * reference.width + c] += answer.context[t * columns + j] * ((static_cast<double>(step) - 50) / 50);
      }
  CHECK(test::distance(run.y.data(), expected) < 1e-12);
  return answer;
}

/// A source run by hand in training, so that its tape can be looked at.
template <class Source, class Env>
struct Bench {
  using Layer = typename Source::template Layer<hm::SourceEnvironment<Env, 1, 8>>;
  using Parameters = typename Layer::template Parameters<double, hm::Flat>;
  using Tape = typename Layer::template Tape<double>;
  std::unique_ptr<Parameters> p = std::make_unique<Parameters>();
  hm::BatchPlan plan;
  std::vector<std::byte> memory, scratch;
  std::vector<double> x;

  void start(std::uint64_t seed) { check::spread_start<Layer, double>(seed, *p); }
  template <class Look>
  void run(const std::vector<Index>& lengths, std::uint64_t seed, const Look& look) {
    plan = check::whole_sequences(lengths);
    const Index* const arrays = plan.data();
    const hm::Extent extent{plan.rows(), plan.sequences(), true};
    memory.assign(hm::to_size(hm::planned_bytes<Tape>(extent) + 64), std::byte{0xff});
    scratch.assign(hm::to_size(Layer::template workspace_bytes<double, hm::Flat>(extent) + 64), std::byte{0xff});
    const auto arena_of = [](std::vector<std::byte>& bytes) {
      std::byte* const at = bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64;
      return hm::Arena{at, bytes.data() + bytes.size()};
    };
    hm::Arena arena = arena_of(memory);
    const Tape tape(arena, extent);
    x = test::numbers(plan.rows() * Env::width, seed);
    const std::vector<double> e = x;
    hm::Call<hm::exec::Inline> call;
    call.batch = plan.view(arrays);
    call.training = true;
    call.arena = arena_of(scratch);
    Layer::forward(call, *p, {nullptr, {e.data()}}, {x.data()}, {}, tape);
    look(call.batch, tape);
  }
};

/// Lengths within limits, nested, gapless, and seen from the row after their end on.
template <class Source, class Env>
void keeps_limits(Index length, int trials) {
  Bench<Source, Env> bench;
  constexpr SegmentLimits limits = Source::limits;
  constexpr Index size = Bench<Source, Env>::Layer::size;
  Index shortest[3] = {1000, 1000, 1000}, longest[3] = {}, wrong = 0;
  double sum[3] = {}, count[3] = {};
  hm::check::Dice dice(3, "limits");
  for (int trial = 0; trial < trials; ++trial) {
    bench.start(static_cast<std::uint64_t>(trial));
    if constexpr (Source::Cuts::learned) {  // from boundaries never wanted to always wanted
      bench.p->sharpness[0] = 4 * dice.normal();
      for (Index s = 0; s < 3; ++s) bench.p->bias[s] = 3 * dice.normal();
    }
    bench.run({length, 7, length / 2}, static_cast<std::uint64_t>(trial) + 100, [&](const hm::Batch& batch, const auto& tape) {
      const auto& segments = tape.segments;
      for (Index s = 0; s < 3; ++s)
        for (Index q = 0; q < batch.sequences; ++q) {
          Index begin = 0, child = 0;
          for (Index i = segments.first_of(s, 3)[q]; i < segments.first_of(s, 3)[q + 1]; ++i) {
            const Index n = segments.length[i], end = segments.end[i];
            wrong += n < limits.at(s).least || n > limits.at(s).most;
            wrong += end + 1 != begin + n || segments.sequence[i] != q || segments.row[i] != batch.begin[q] + end + 1;
            wrong += segments.number[i] != i - segments.first_of(s, 3)[q];
            if (s > 0) {  // it ends where one of the scale below ends, and has several of them
              const Index first = segments.first_of(s - 1, 3)[q];
              wrong += segments.children[i] < 2 || segments.child[i] != child;
              child += segments.children[i];
              wrong += segments.end[first + child - 1] != end;
            }
            begin = end + 1;
            shortest[s] = hm::smaller(shortest[s], n);
            longest[s] = hm::larger(longest[s], n);
            sum[s] += static_cast<double>(n);
            ++count[s];
          }
        }
      for (Index row = 0; row < batch.rows; ++row)
        for (Index s = 0; s < 3; ++s) {
          const Index q = batch.row_sequence[row], first = segments.first_of(s, 3)[q];
          Index seen = 0;
          while (first + seen < segments.first_of(s, 3)[q + 1] && segments.end[first + seen] < batch.row_position[row]) ++seen;
          wrong += segments.count[row].closed[s] != seen;
          if (s == 2) continue;
          for (Index c = 0; c < size; ++c)
            wrong += tape.context[(row * 2 + s) * size + c] != (seen == 0 ? 0.0 : segments.vector[(first + seen - 1) * size + c]);
        }
    });
  }
  CHECK(wrong == 0);
  for (Index s = 0; s < 3; ++s) {
    INFO("scale " << s << ": lengths from " << shortest[s] << " to " << longest[s] << ", mean " << sum[s] / count[s]);
    CHECK(count[s] > 0);
    if constexpr (Source::Cuts::learned) {
      CHECK(shortest[s] == limits.at(s).least);
      CHECK(longest[s] > (limits.at(s).aim() + limits.at(s).most) / 2);
    } else {
      CHECK(std::fabs(sum[s] / count[s] - static_cast<double>(limits.at(s).aim())) <
            0.15 * static_cast<double>(limits.at(s).aim()));
    }
  }
}

}  // namespace

TEST_CASE("segments, their vectors and what rows take of them are as defined") {
  test::SegmentReference reference{.size = 6, .pair = 5, .least = {2, 5, 11}, .most = {4, 10, 24}};
  const auto answer = matches<Driven<6, few>, hm::Environment<10, 80, 9>>(reference, 75, 5);
  CHECK(answer.closed[2].size() >= 3);
  CHECK((answer.forced > 0 && answer.wanted > 5 && answer.declined > 5));
  reference.normed = true;
  matches<Driven<6, few, embedding::NormedHierarchy>, hm::Environment<10, 80, 9>>(reference, 75, 6);
  std::copy_n(std::vector<std::size_t>{3, 7, 17}.begin(), 3, reference.fixed);
  matches<Driven<6, few, embedding::NormedHierarchy, embedding::Fixed>, hm::Environment<10, 80, 9>>(reference, 75, 7);
}

TEST_CASE("segments with the usual limits are as defined") {
  const test::SegmentReference reference{.size = 3, .pair = 7};
  const auto answer = matches<Driven<3, usual>, hm::Environment<12, 700, 64>>(reference, 640, 8);
  CHECK(answer.closed[2].size() >= 3);
}

TEST_CASE("the limits of lengths hold for any weights, and segments are seen once they are closed") {
  using Env = hm::Environment<8, 1000, 64>;
  keeps_limits<embedding::Segments<usual>, Env>(900, 40);
  keeps_limits<embedding::Segments<few>, Env>(200, 60);
  keeps_limits<embedding::Segments<usual, embedding::Fixed>, Env>(900, 1);
  keeps_limits<embedding::Segments<usual, embedding::Random>, Env>(1000, 1);
  keeps_limits<embedding::Segments<few, embedding::Random>, Env>(200, 1);
}

TEST_CASE("limits that cannot be kept are told") {
  STATIC_CHECK(SegmentLimits{}.sound());
  STATIC_CHECK(small.sound());
  STATIC_CHECK_FALSE(SegmentLimits{.phrase = {2, 3}, .sentence = {4, 6}, .paragraph = {9, 12}}.sound());
  STATIC_CHECK_FALSE(SegmentLimits{.phrase = {3, 5}, .sentence = {4, 25}}.sound());
  STATIC_CHECK_FALSE(SegmentLimits{.phrase = {0, 5}}.sound());
}

TEST_CASE("the bias of boundaries brings the mean length to its aim") {
  constexpr SegmentLimits free{.phrase = {2, 6}, .sentence = {12, 30}, .paragraph = {40, 120}};
  using Env = hm::Environment<8, 1000, 64>;
  Bench<embedding::Segments<embedding::SegmentOptions{.limits = free}>, Env> bench;
  bench.start(4);
  double error[3] = {};
  const auto look = [&](const hm::Batch&, const auto& tape) {
    ops::LengthErrorKernel<double, free>{tape.segments, 1.0, error}(0);
  };
  for (std::uint64_t step = 0; step < 400; ++step) {
    for (double& e : error) e = 0;
    bench.run({1000}, step % 10, look);
    for (Index s = 0; s < 3; ++s) bench.p->bias[s] -= 0.05 * error[s];  // what a trainer does for Update::integral
  }
  for (double& e : error) e = 0;
  for (std::uint64_t step = 0; step < 10; ++step) bench.run({1000}, step, look);
  for (const double e : error) CHECK(std::fabs(e / 10) < 0.05);
}

TEST_CASE("tokens taken back leave no trace in segments") {
  using Env = hm::Environment<10, 200, 7, 5>;
  test::rewinds_to_the_bit<Driven<6, few, embedding::NormedHierarchy>, Env>(200, 1);
  test::rewinds_to_the_bit<Driven<6, few, embedding::Random>, Env>(200, 2);
  test::rewinds_to_the_bit<Driven<2, embedding::SegmentOptions{.boundary = 7}>, hm::Environment<8, 450, 40, 9>>(450, 3);
}
