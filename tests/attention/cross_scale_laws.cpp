// Attention to closed segments keeps the laws, together with the source that makes them.

#include <hybridmoe/attention/adaptive.hpp>
#include <hybridmoe/attention/cross_scale.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/attention/together.hpp>
#include <hybridmoe/check/with_sources.hpp>
#include <hybridmoe/embedding/segments.hpp>
#include <support/laws.hpp>

namespace attention = hybridmoe::attention;
namespace check = hybridmoe::check;
namespace embedding = hybridmoe::embedding;
namespace stream = hybridmoe::stream;
using hybridmoe::Heads;
using hybridmoe::Index;
using hybridmoe::SegmentLimits;

namespace {

// Beside attention to tokens, since before the first segment closes attention to segments is 0 whatever the token.

/// Small enough that short sequences close many, and more than are seen.
constexpr SegmentLimits small{.phrase = {2, 4}, .sentence = {5, 10}, .paragraph = {11, 24}};
constexpr attention::CrossScaleOptions few{.keys = {7, 3, 2}, .limits = small, .segment = 6};
constexpr embedding::SegmentOptions options{.limits = small, .width = 6, .boundary = 5};
struct Grouped : attention::Together<attention::CrossScale<Heads{4, 2, 5}, few>, attention::Local<Heads{1, 1, 4}, 5>> {};
struct Source : embedding::Segments<options> {};

/// More phrases than a tile of keys holds, with the usual limits; ten heads that share one key.
struct Shared : attention::CrossScale<Heads{10, 1, 3}> {};
struct Default : embedding::Segments<embedding::SegmentOptions{.boundary = 4}> {};
struct Both : attention::Together<attention::Local<Heads{1, 1, 4}, 5>, Shared> {};

/// HybridMoE's letter M: a window of decided size and key tokens, beside segments.
struct WithKeyTokens : attention::Together<attention::KeyTokens<Heads{2, 1, 6}, attention::Window{13, 20, 4},
                                                                attention::Store{5, 3, 8}, attention::NormedQueryKey<>>,
                                           attention::CrossScale<Heads{2, 1, 5}, few>> {};

using Decisions = check::Drive<stream::Decisions, 9>;

check::Options lengths(Index longest, Index gradient) {
  check::Options result;
  result.length = longest;
  result.gradient_length = gradient;
  return result;
}

}  // namespace

TEST_CASE("attention to segments, and segments, under a controller's emphasis keep the laws") {
  using Layer = check::Driven<check::WithSources<Grouped, 1, Source>, Decisions>;
  test::laws_everywhere<Layer, hybridmoe::Environment<10, 80, 9, 3>>(lengths(75, 45));
}
TEST_CASE("attention to segments with the usual limits, beside attention to tokens, keeps the laws") {
  test::laws_everywhere<check::WithSources<Both, 1, Default>, hybridmoe::Environment<8, 320, 40, 4>>(lengths(310, 260));
}
TEST_CASE("a window and key tokens beside attention to segments, under a budget and a target, keep the laws") {
  using Layer = check::Driven<check::WithSources<WithKeyTokens, 1, Source>, Decisions, check::Drive<stream::Budget, 1>,
                              check::Drive<stream::Target, 1>>;
  test::laws_everywhere<Layer, hybridmoe::Environment<10, 80, 9, 3>>(lengths(75, 45));
}
