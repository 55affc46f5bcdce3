// The laws of Mamba-2, on every space.

#include <hybridmoe/ssm/mamba2.hpp>
#include <support/laws.hpp>

namespace ssm = hybridmoe::ssm;
using Env = hybridmoe::Environment<24, 100, 20>;
using Odd = hybridmoe::Environment<13, 90, 7>;

namespace {

/// Sequences over several of the scan's chunks, in calls that end anywhere.
hybridmoe::check::Options long_sequences() {
  hybridmoe::check::Options options;
  options.length = 90;
  options.gradient_length = 39;
  return options;
}

}  // namespace

TEST_CASE("Mamba-2 keeps the laws") {
  test::laws_everywhere<ssm::Mamba2<ssm::Mamba2Sizes{.heads = 4, .head = 16, .state = 16, .chunk = 16}>, Env>(long_sequences());
}
TEST_CASE("Mamba-2 keeps the laws with groups, odd sizes, other taps and a longer memory of inputs") {
  test::laws_everywhere<
      ssm::Mamba2<ssm::Mamba2Sizes{.heads = 6, .head = 5, .state = 7, .groups = 3, .taps = 3, .chunk = 8, .rewind = 4}>, Odd>(
      long_sequences());
}
TEST_CASE("Mamba-2 keeps the laws with chunks longer than calls") {
  test::laws_everywhere<ssm::Mamba2<ssm::Mamba2Sizes{.heads = 2, .head = 32, .state = 8, .groups = 2, .taps = 2, .chunk = 32}>,
                        Odd>(long_sequences());
}
