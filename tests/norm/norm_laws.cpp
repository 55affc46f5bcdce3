// The laws of the norms, on every space.

#include <hybridmoe/norm/layer_norm.hpp>
#include <hybridmoe/norm/rms_norm.hpp>
#include <support/laws.hpp>

namespace norm = hybridmoe::norm;
using Env = hybridmoe::Environment<40, 64, 16>;
using Odd = hybridmoe::Environment<33, 50, 7>;

TEST_CASE("RMSNorm keeps the laws") { test::laws_everywhere<norm::Rms<>, Env>(); }
TEST_CASE("RMSNorm with gain 1 + weight keeps the laws") {
  test::laws_everywhere<norm::Rms<norm::Epsilon<1, 1'000'000>, norm::Gain::one_plus_weight>, Odd>();
}
TEST_CASE("RMSNorm without weight keeps the laws") {
  test::laws_everywhere<norm::Rms<norm::Epsilon<1, 100'000>, norm::Gain::none>, Env>();
}
TEST_CASE("LayerNorm keeps the laws") { test::laws_everywhere<norm::LayerNorm<>, Odd>(); }
TEST_CASE("LayerNorm without bias keeps the laws") {
  test::laws_everywhere<norm::LayerNorm<norm::Epsilon<1, 100'000>, norm::Shift::weight>, Env>();
}
