// The laws of the channel mixer of HybridMoE with features left out.

#include <hybridmoe/channel/hybrid_moe.hpp>
#include <hybridmoe/check/driven.hpp>
#include <support/laws.hpp>

namespace channel = hybridmoe::channel;
namespace check = hybridmoe::check;
namespace router = hybridmoe::router;
namespace stream = hybridmoe::stream;
using channel::SharedPlus;
using hybridmoe::Experts;
using Env = hybridmoe::Environment<13, 50, 7>;

namespace {

constexpr Experts experts{.count = 5, .active = {0, 3}, .hidden = 8};

template <class Layer>
using Streamed = check::Driven<Layer, check::Drive<stream::Decisions, 9>, check::Drive<stream::Budget, 1>>;

}  // namespace

TEST_CASE("A plain shared expert without modulation and stand-in keeps the laws") {
  using Plain = router::Dynamic<router::DynamicOptions{.target = 1.5f, .semantic = 0}>;
  constexpr SharedPlus shared{.hidden = 10, .slices = 1, .modulation = 0, .stand_in = false};
  test::laws_everywhere<channel::HybridMoe<experts, shared, Plain>, Env>({.seed = 3});
}
TEST_CASE("An elastic shared expert with a stand-in beside a fixed number of experts keeps the laws") {
  using Fixed = router::Dynamic<router::DynamicOptions{.target = 2, .semantic = 4, .adaptive = false}>;
  constexpr SharedPlus shared{.hidden = 12, .slices = 4, .modulation = 0, .distil = 0};
  test::laws_everywhere<Streamed<channel::HybridMoe<experts, shared, Fixed>>, Env>({.seed = 3});
}
