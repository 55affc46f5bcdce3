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

// Integer windows by complexity and position; random key tokens; a warmed scorer, whose loss has a target without gradient.
struct Ruled : check::Driven<attention::AdaptiveLocal<Heads{2, 2, 6}, Window{8, 24, 2},
                                                      attention::window::Proposal<10, 12, 30, 16, 4>, position::Nothing>,
                             Drive<stream::Complexity, 1>, Drive<stream::Budget, 1>> {};
struct Chance : check::Driven<attention::KeyTokens<Heads{2, 1, 8}, Window{20, 20, 4}, attention::Store{40, 5, 16},
                                                   attention::scorer::Random<3>, attention::window::Fixed<>>,
                              Drive<stream::Budget, 1>> {};
struct Warmed : attention::TriModal<Heads{2, 1, 8}, Window{20, 40, 4}, attention::Store{10, 5, 16}, attention::scorer::Warm<4>,
                                    attention::scorer::Learned<9>> {};

TEST_CASE("a window of real-valued size keeps the laws") {
  test::laws_everywhere<Windows, hybridmoe::Environment<14, 130, 9>>(sequences_of(110, 60));
}
TEST_CASE("a window and key tokens keep the laws") {
  test::laws_everywhere<Tokens, hybridmoe::Environment<14, 130, 19, 11>>(sequences_of(110, 70));
}
TEST_CASE("a window, key tokens and all tokens by decided weights keep the laws") {
  test::laws_everywhere<Anything, hybridmoe::Environment<12, 130, 9>>(sequences_of(110, 60));
}
TEST_CASE("windows by the proposal's rule keep the laws") {
  test::laws_everywhere<Ruled, hybridmoe::Environment<12, 90, 9>>(sequences_of(75, 40));
}
TEST_CASE("random key tokens keep the laws") {
  test::laws_everywhere<Chance, hybridmoe::Environment<10, 130, 40>>(sequences_of(110, 70));
}
TEST_CASE("a layer that warms its scorer keeps the laws, its loss aside") {
  check::Options options = sequences_of(110, 70);
  options.auxiliary = 0;
  test::laws_everywhere<Warmed, hybridmoe::Environment<10, 130, 7>>(options);
}
