// The laws of mixtures of experts, on every space.

#include <hybridmoe/channel/gated.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <router/routers.hpp>
#include <support/laws.hpp>

namespace channel = hybridmoe::channel;
namespace router = hybridmoe::router;
using hybridmoe::Experts;
using Env = hybridmoe::Environment<24, 64, 16>;
using Odd = hybridmoe::Environment<13, 50, 7>;
using Balanced = router::TopK<router::TopKOptions{.renormalise = true, .balance = 0.2f, .z = 0.1f}>;
using Probable = router::TopK<router::TopKOptions{.renormalise = false, .balance = 0.2f, .z = 0.1f}>;

TEST_CASE("Two of five experts, renormalised, keep the laws") {
  test::laws_everywhere<channel::Moe<Experts{.count = 5, .active = 2, .hidden = 20}, Balanced>, Env>();
}
TEST_CASE("Three of six experts by their probabilities with a gated shared expert keep the laws") {
  using Shared = channel::Gated<channel::SwiGlu<9>>;
  test::laws_everywhere<channel::Moe<Experts{.count = 6, .active = 3, .hidden = 11}, Probable, Shared>, Odd>();
}
TEST_CASE("One of four experts with a plain shared expert keeps the laws") {
  test::laws_everywhere<channel::Moe<Experts{.count = 4, .active = 1, .hidden = 32}, Probable, channel::SwiGlu<32>>, Env>();
}
TEST_CASE("No to three of four experts, as the router likes, keep the laws") {
  // A seed for which the token that the laws look at has an expert: one without meets no parameter.
  test::laws_everywhere<channel::Moe<Experts{.count = 4, .active = {0, 3}, .hidden = 11}, test::Threshold>, Odd>({.seed = 3});
}
TEST_CASE("A channel mixer scaled by a gate keeps the laws") {
  test::laws_everywhere<channel::Gated<channel::SwiGlu<12>>, Env>();
}
