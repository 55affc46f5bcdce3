// The laws of the complexity estimator, on every space.

#include <control/support.hpp>
#include <hybridmoe/control/complexity.hpp>
#include <support/laws.hpp>

namespace check = hybridmoe::check;
namespace control = hybridmoe::control;
using hybridmoe::Index;
// Rings of 7 + 3 and of 7 positions: they wrap several times, and calls are longer than they are.
using Env = hybridmoe::Environment<12, 60, 16, 3>;

namespace {

/// Rounded features, whose derivatives by what they are made of are 0, as backward says.
constexpr control::ComplexityOptions small{
    .window = 8, .recent = 4, .projected = 5, .rank = 6, .residues = 10, .hashes = 16, .classes = 8, .steps = 64, .joining = 3};
constexpr control::ComplexityOptions every_token{.window = 8, .recent = 8, .projected = 3, .rank = 4, .hashes = 256, .steps = 64};

using Read = check::ReadStreams<check::Drive<hybridmoe::stream::Complexity, 1>>;

check::Options long_sequences(std::uint64_t seed) {
  check::Options options;
  options.seed = seed;
  options.length = 50;
  options.gradient_length = 30;
  return options;
}

}  // namespace

TEST_CASE("the complexity estimator keeps the laws with hashed classes, joining the stack's input") {
  test::laws_everywhere<check::WithSources<Read, 2, control::Complexity<small, test::FewClasses>>, Env>(long_sequences(4));
}
TEST_CASE("the complexity estimator keeps the laws with every token a class, shuffled in time") {
  using Shuffled = control::Complexity<every_token, test::FewClasses, control::Shuffled<3, 9>>;
  test::laws_everywhere<check::WithSources<Read, 2, Shuffled>, Env>(long_sequences(4));
}
