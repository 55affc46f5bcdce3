// The laws of the adaptive norm, alone and with its streams, on every space.

#include <hybridmoe/check/driven.hpp>
#include <hybridmoe/norm/adaptive.hpp>
#include <support/laws.hpp>

namespace check = hybridmoe::check;
namespace norm = hybridmoe::norm;
namespace stream = hybridmoe::stream;
using Env = hybridmoe::Environment<40, 64, 16>;
using Odd = hybridmoe::Environment<33, 50, 7>;

TEST_CASE("the adaptive norm keeps the laws") { test::laws_everywhere<norm::Adaptive<>, Env>(); }
TEST_CASE("the adaptive norm with complexity, decisions and budgets keeps the laws") {
  using Driven =
      check::Driven<norm::Adaptive<norm::GainStart::by_depth, norm::Epsilon<1, 10>>, check::Drive<stream::Complexity, 1>,
                    check::Drive<stream::Decisions, hybridmoe::Decision::fields + hybridmoe::Decision::scales>,
                    check::Drive<stream::Budget, 1>>;
  test::laws_everywhere<Driven, Odd>();
}
