// The laws of the MLPs, on every space.

#include <hybridmoe/channel/gelu.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <support/laws.hpp>

namespace channel = hybridmoe::channel;
using Env = hybridmoe::Environment<24, 64, 16>;
using Odd = hybridmoe::Environment<13, 50, 7>;

TEST_CASE("SwiGLU keeps the laws, gate and up as one product") { test::laws_everywhere<channel::SwiGlu<64>, Env>(); }
TEST_CASE("SwiGLU keeps the laws, gate and up apart") { test::laws_everywhere<channel::SwiGlu<20, true>, Odd>(); }
TEST_CASE("GELU MLP keeps the laws in its tanh form") { test::laws_everywhere<channel::Gelu<48>, Env>(); }
TEST_CASE("GELU MLP keeps the laws in its exact form") {
  test::laws_everywhere<channel::Gelu<40, channel::GeluForm::erf, false>, Odd>();
}
TEST_CASE("squared-ReLU MLP keeps the laws") { test::laws_everywhere<channel::SquaredRelu<36>, Env>(); }
