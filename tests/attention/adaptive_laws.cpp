// Adaptive attention keeps the laws on every space.

#include <hybridmoe/attention/adaptive.hpp>
#include <hybridmoe/check/driven.hpp>
#include <support/laws.hpp>

namespace attention = hybridmoe::attention;
namespace check = hybridmoe::check;
namespace position = hybridmoe::position;
namespace stream = hybridmoe::stream;
using attention::Window;
using check::Drive;
using hybridmoe::Decision;
using hybridmoe::Heads;
using hybridmoe::Index;

namespace {

check::Options sequences_of(Index longest, Index gradient) {
  check::Options options;
  options.length = longest;
  options.gradient_length = gradient;
  return options;
}

}  // namespace

struct Windows : check::Driven<attention::AdaptiveLocal<Heads{4, 2, 10}, Window{5, 40, 4}, attention::Bias<true, false>>,
                               Drive<stream::Decisions, Decision::fields>, Drive<stream::Budget, 1>, Drive<stream::Target, 1>> {};

// Blocks of 8 tokens, of which 3 may enter a store of 5: it overflows in the third block.
struct Tokens
    : check::Driven<
          attention::KeyTokens<Heads{4, 2, 10}, Window{13, 20, 4}, attention::Store{5, 3, 8}, attention::NormedQueryKey<>>,
          Drive<stream::Decisions, Decision::fields>, Drive<stream::Budget, 1>> {};
struct Anything : check::Driven<attention::TriModal<Heads{3, 1, 8}, Window{12, 24, 4}, attention::Store{6, 2, 8}>,
                                Drive<stream::Decisions, Decision::fields>, Drive<stream::Budget, 1>, Drive<stream::Target, 1>> {
};

TEST_CASE("a window of real-valued size keeps the laws") {
  test::laws_everywhere<Windows, hybridmoe::Environment<14, 130, 9>>(sequences_of(110, 60));
}
TEST_CASE("a window and key tokens keep the laws") {
  test::laws_everywhere<Tokens, hybridmoe::Environment<14, 130, 19, 11>>(sequences_of(110, 70));
}
TEST_CASE("a window, key tokens and all tokens by decided weights keep the laws") {
  test::laws_everywhere<Anything, hybridmoe::Environment<12, 130, 9>>(sequences_of(110, 60));
}
