// Multi-scale embeddings keep the laws: learned boundaries, with and without emphasis and normalisation, and the boundaries
// that are for comparison.

#include <hybridmoe/check/with_sources.hpp>
#include <hybridmoe/embedding/segments.hpp>
#include <support/laws.hpp>

namespace check = hybridmoe::check;
namespace embedding = hybridmoe::embedding;
namespace stream = hybridmoe::stream;
using hybridmoe::Index;
using hybridmoe::SegmentLimits;

namespace {

/// Small enough that short sequences close many.
constexpr SegmentLimits small{.phrase = {2, 4}, .sentence = {5, 10}, .paragraph = {11, 24}};
constexpr embedding::SegmentOptions options{.limits = small, .width = 6, .boundary = 5};

using Env = hybridmoe::Environment<10, 80, 9, 3>;

struct Learned : embedding::Segments<options> {};
struct Normed : embedding::Segments<options, embedding::NormedHierarchy> {};
struct Fixed : embedding::Segments<options, embedding::Fixed> {};
struct Random : embedding::Segments<options, embedding::Random, embedding::NormedHierarchy> {};
struct Default : embedding::Segments<embedding::SegmentOptions{.boundary = 4}> {};

template <Index size>
using ReadContext = check::ReadStreams<check::Drive<stream::Context, 2 * size>>;
using Decisions = check::Drive<stream::Decisions, 9>;

check::Options lengths(Index longest, Index gradient) {
  check::Options result;
  result.length = longest;
  result.gradient_length = gradient;
  return result;
}

}  // namespace

TEST_CASE("learned segments keep the laws") {
  test::laws_everywhere<check::WithSources<ReadContext<6>, 1, Learned>, Env>(lengths(60, 45));
}
TEST_CASE("segments with emphasis, normalised across scales, keep the laws") {
  test::laws_everywhere<check::Driven<check::WithSources<ReadContext<6>, 1, Normed>, Decisions>, Env>(lengths(60, 45));
}
TEST_CASE("segments of fixed length keep the laws") {
  test::laws_everywhere<check::WithSources<ReadContext<6>, 1, Fixed>, Env>(lengths(60, 45));
}
TEST_CASE("segments of random length keep the laws") {
  test::laws_everywhere<check::WithSources<ReadContext<6>, 1, Random>, Env>(lengths(60, 45));
}
TEST_CASE("segments with the usual limits keep the laws") {
  test::laws_everywhere<check::WithSources<ReadContext<2>, 1, Default>, hybridmoe::Environment<8, 320, 40, 4>>(lengths(310, 260));
}
