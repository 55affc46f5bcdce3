// The laws of the dynamic router in a mixture of experts: with every stream, without any, its switches, its placebos.

#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/check/driven.hpp>
#include <hybridmoe/router/placebo.hpp>
#include <support/laws.hpp>

namespace channel = hybridmoe::channel;
namespace check = hybridmoe::check;
namespace router = hybridmoe::router;
namespace stream = hybridmoe::stream;
using hybridmoe::Experts;
using Env = hybridmoe::Environment<24, 64, 16>;
using Odd = hybridmoe::Environment<13, 50, 7>;

namespace {

/// The shared expert is for tokens without routed ones, which the laws want to see change something too.
template <class Router, hybridmoe::Index context>
using Streamed =
    check::Driven<channel::Moe<Experts{.count = 7, .active = {0, 4}, .hidden = 11}, Router, channel::SwiGlu<8>>,
                  check::Drive<stream::Complexity, 1>, check::Drive<stream::Decisions, 9>, check::Drive<stream::Context, context>,
                  check::Drive<stream::Budget, 1>, check::Drive<stream::Target, 1>>;

constexpr router::DynamicOptions everything{
    .target = 2.5f, .semantic = 9, .context = 6, .offset = true, .z = 0.1f, .temperature = 0.6f, .expert_flops = 6.0 * 24 * 11};

}  // namespace

TEST_CASE("The dynamic router with every stream keeps the laws") {
  test::laws_everywhere<Streamed<router::Dynamic<everything>, 6>, Env>({.samples = 6});
}
// Seeds for which the token that law 5 looks at has an expert: one without meets no part of the router.
TEST_CASE("The dynamic router alone, beside a shared expert, keeps the laws") {
  using Plain = router::Dynamic<router::DynamicOptions{.target = 1, .semantic = 0}>;
  test::laws_everywhere<channel::Moe<Experts{.count = 5, .active = {0, 3}, .hidden = 9}, Plain, channel::SwiGlu<8>>, Odd>(
      {.seed = 3});
}
constexpr router::DynamicOptions small{.target = 2.0f, .semantic = 5};
TEST_CASE("A fixed number of experts keeps the laws") {
  constexpr router::DynamicOptions fixed{.target = 2.0f, .semantic = 5, .adaptive = false};
  test::laws_everywhere<Streamed<router::Dynamic<fixed>, 1>, Odd>({.seed = 3});
}
TEST_CASE("A random number of experts keeps the laws") {
  test::laws_everywhere<Streamed<router::RandomCount<small>, 1>, Odd>({.seed = 4, .gradient_length = 14});
}
TEST_CASE("Random experts keep the laws") { test::laws_everywhere<Streamed<router::RandomExperts<small>, 1>, Odd>({.seed = 3}); }
