// Multi-scale embeddings keep the laws: learned boundaries, and the two that are for comparison.

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
constexpr SegmentLimits small{.phrase = {2, 3}, .sentence = {4, 6}, .paragraph = {9, 15}};
constexpr embedding::SegmentOptions options{.limits = small, .width = 6, .boundary = 5};

using Env = hybridmoe::Environment<10, 80, 9, 3>;
using Wide = hybridmoe::Environment<24, 300, 40, 4>;

template <Index size>
using ReadContext = check::ReadStreams<check::Drive<stream::Context, 2 * size>>;

check::Options lengths(Index longest, Index gradient) {
  check::Options result;
  result.length = longest;
  result.gradient_length = gradient;
  return result;
}

}  // namespace

TEST_CASE("learned segments keep the laws") {
  using Source = embedding::Segments<options>;
  test::laws_everywhere<check::WithSources<ReadContext<6>, 1, Source>, Env>(lengths(60, 45));
}
