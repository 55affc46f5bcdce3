// Multi-head latent attention keeps the laws, on every space.

#include <hybridmoe/attention/latent.hpp>
#include <support/laws.hpp>

namespace attention = hybridmoe::attention;
namespace position = hybridmoe::position;
using attention::Latent;
using attention::LatentHeads;
using hybridmoe::Index;

using Env = hybridmoe::Environment<24, 100, 16>;
using Odd = hybridmoe::Environment<13, 120, 7>;

// Both forms, with and without QK-norm and a latent of the queries. The first has more latent elements than a panel of values
// holds, the last more heads than an item of the core takes.
struct AbsorbedNormed : Latent<LatentHeads{.heads = 3, .latent = 37, .rotary = 4, .size = 8, .value = 6, .query_rank = 10}> {};
struct AbsorbedPlain : Latent<LatentHeads{.heads = 33, .latent = 7, .rotary = 2, .size = 3, .value = 2}, attention::PlainQueryKey,
                              position::Rotary<500, 0, position::Pairs::adjacent>> {};
struct ExpandedNormed : Latent<LatentHeads{.heads = 2, .latent = 9, .rotary = 6, .size = 10, .value = 37}, attention::Expanded,
                               attention::NormedQueryKey<false, 1000>, position::Nothing> {};
struct ExpandedPlain : Latent<LatentHeads{.heads = 3, .latent = 12, .rotary = 4, .size = 8, .value = 6, .query_rank = 5},
                              attention::PlainQueryKey, attention::Expanded, attention::ScoreFactor<3, 2>> {};

namespace {

/// Sequences and gradients over more than one tile of keys.
hybridmoe::check::Options sequences_of(Index longest) {
  hybridmoe::check::Options options;
  options.length = longest;
  options.gradient_length = 37;
  return options;
}

}  // namespace

TEST_CASE("absorbed latent attention with QK-norm and a query latent keeps the laws") {
  test::laws_everywhere<AbsorbedNormed, Env>(sequences_of(75));
}
TEST_CASE("absorbed latent attention of many heads keeps the laws") {
  test::laws_everywhere<AbsorbedPlain, Odd>(sequences_of(70));
}
TEST_CASE("expanded latent attention with QK-norm without weights keeps the laws") {
  test::laws_everywhere<ExpandedNormed, Odd>(sequences_of(70));
}
TEST_CASE("expanded latent attention with a query latent keeps the laws") {
  test::laws_everywhere<ExpandedPlain, Env>(sequences_of(75));
}
