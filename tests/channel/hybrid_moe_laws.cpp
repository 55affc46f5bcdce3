// The laws of the channel mixer of HybridMoE, with every stream and feature, and with each feature left out.

#include <hybridmoe/channel/hybrid_moe.hpp>
#include <hybridmoe/check/driven.hpp>
#include <hybridmoe/router/placebo.hpp>
#include <support/laws.hpp>

namespace channel = hybridmoe::channel;
namespace check = hybridmoe::check;
namespace router = hybridmoe::router;
namespace stream = hybridmoe::stream;
using channel::SharedPlus;
using hybridmoe::Experts;
using Env = hybridmoe::Environment<20, 64, 12>;

namespace {

constexpr Experts experts{.count = 7, .active = {0, 4}, .hidden = 9};
constexpr router::DynamicOptions semantic{.target = 2.5f, .semantic = 7, .context = 6, .z = 0.1f, .temperature = 0.6f};

template <class Layer>
using Streamed =
    check::Driven<Layer, check::Drive<stream::Complexity, 1>, check::Drive<stream::Decisions, 9>,
                  check::Drive<stream::Context, 6>, check::Drive<stream::Budget, 1>, check::Drive<stream::Target, 1>>;

}  // namespace

// The distillation's gradient goes to V alone, so that differences of its loss are not the gradient elsewhere: with it, law 3
// looks at the rest (auxiliary 0); hybrid_moe_test.cpp looks at V.
TEST_CASE("Everything on keeps the laws") {
  using Differentiable =
      channel::HybridMoe<experts, SharedPlus{.hidden = 24, .slices = 3, .modulation = 5, .distil = 0}, router::Dynamic<semantic>>;
  test::laws_everywhere<Streamed<Differentiable>, Env>({.samples = 6});
  using Distilled =
      channel::HybridMoe<experts, SharedPlus{.hidden = 24, .slices = 3, .modulation = 5}, router::Dynamic<semantic>>;
  test::laws_everywhere<Streamed<Distilled>, Env>({.auxiliary = 0});
}
