// Choosing tokens, and sequences in flight: against other ways to do the same.

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/generate/generate.hpp>
#include <hybridmoe/generate/stepper.hpp>
#include <hybridmoe/ssm/mamba2.hpp>
#include <support/allocations.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
namespace generate = hybridmoe::generate;
using generate::Sampler;
using generate::Sampling;
using hm::Index;
using Tokens = std::vector<std::int32_t>;

namespace {

constexpr double none = -std::numeric_limits<double>::infinity();
constexpr double missing = std::numeric_limits<double>::quiet_NaN();

/// The distribution that the options describe, the slow way: sort, cut, divide.
std::map<std::int32_t, double> distribution(const std::vector<double>& logits, const Tokens& history, const Sampling& o) {
  const std::set<std::int32_t> seen(history.begin(), history.end());
  std::vector<std::pair<double, std::int32_t>> sorted;  // {−logit, token}: equal logits in the order of tokens
  for (std::size_t v = 0; v < logits.size(); ++v) {
    double z = logits[v];
    if (!std::isfinite(z)) continue;
    if (seen.count(static_cast<std::int32_t>(v)) != 0) z = z > 0 ? z / o.repetition_penalty : z * o.repetition_penalty;
    sorted.push_back({-z, static_cast<std::int32_t>(v)});
  }
  std::sort(sorted.begin(), sorted.end());
  if (o.temperature == 0) return {{sorted[0].second, 1.0}};
  if (o.top_k > 0 && sorted.size() > static_cast<std::size_t>(o.top_k)) sorted.resize(static_cast<std::size_t>(o.top_k));
  const auto normalised = [&] {
    std::vector<double> p;
    double sum = 0;
    for (const auto& entry : sorted) sum += p.emplace_back(std::exp((sorted[0].first - entry.first) / o.temperature));
    for (double& value : p) value /= sum;
    return p;
  };
  std::vector<double> p = normalised();
  std::size_t keep = 0;
  for (double mass = 0; keep < p.size() && mass < o.top_p - 1e-12;) mass += p[keep++];
  sorted.resize(keep);
  p = normalised();
  while (p.back() < o.min_p * p.front()) {
    p.pop_back();
    sorted.pop_back();
  }
  p = normalised();
  std::map<std::int32_t, double> result;
  for (std::size_t i = 0; i < p.size(); ++i) result[sorted[i].second] = p[i];
  return result;
}

/// Draws many times and holds the frequencies against the distribution.
void check_frequencies(const std::vector<double>& logits, const Tokens& history, const Sampling& options) {
  REQUIRE(options.examine());
  const auto expected = distribution(logits, history, options);
  Sampler sampler(hm::to_index(logits.size()));
  std::map<std::int32_t, double> drawn;
  constexpr int draws = 20'000;
  for (int i = 0; i < draws; ++i) {
    const auto token = sampler(std::span<const double>(logits), history, options, 3, static_cast<std::uint64_t>(i));
    REQUIRE(token);
    drawn[*token] += 1;
  }
  double chi_square = 0;
  for (const auto& [token, count] : drawn) {
    INFO("token " << token << " was drawn " << count << " times and should not be");
    CHECK(expected.count(token) == 1);
  }
  for (const auto& [token, probability] : expected)
    chi_square += std::pow(drawn[token] - draws * probability, 2) / (draws * probability);
  // For k tokens: k − 1 on the average, with a deviation of √(2(k−1)). Draws are fixed, so this never fails by chance.
  const auto free = static_cast<double>(expected.size() - 1);
  INFO(expected.size() << " tokens, chi-square " << chi_square);
  CHECK(chi_square <= free + 4 * std::sqrt(2 * free) + 1e-9);
}

}  // namespace

TEST_CASE("sampling follows the distribution that the options describe") {
  std::vector<double> logits = test::numbers(12, 5, 1.5);
  logits[4] = logits[7];  // a tie
  const Tokens history{1, 7, 7, 11};
  check_frequencies(logits, {}, {});
  check_frequencies(logits, {}, {.temperature = 0.5});
  check_frequencies(logits, {}, {.temperature = 3, .seed = 9});
  check_frequencies(logits, {}, {.top_k = 5});
  check_frequencies(logits, {}, {.top_k = 1});
  check_frequencies(logits, {}, {.top_k = 100});
  check_frequencies(logits, {}, {.top_p = 0.6});
  check_frequencies(logits, {}, {.top_p = 1e-9});
  check_frequencies(logits, {}, {.min_p = 0.2});
  check_frequencies(logits, {}, {.min_p = 1});
  check_frequencies(logits, history, {.repetition_penalty = 1.7});
  check_frequencies(logits, history, {.repetition_penalty = 0.6});
  check_frequencies(logits, history,
                    {.temperature = 0.8, .top_k = 9, .top_p = 0.9, .min_p = 0.05, .repetition_penalty = 1.3, .seed = 2});
  check_frequencies({1, 1, 1, 1}, {}, {.top_k = 2});  // ties go to the lower ids
  check_frequencies({0, 1000, 999, -1000}, {}, {});   // no overflow
}

TEST_CASE("top-p keeps the token that reaches p, and the boundary itself suffices") {
  // Probabilities 1/2, 1/4, 1/4.
  const std::vector<double> logits{std::log(2.0), 0, 0};
  CHECK(distribution(logits, {}, {.top_p = 0.5}).size() == 1);
  check_frequencies(logits, {}, {.top_p = 0.49});
  check_frequencies(logits, {}, {.top_p = 0.51});
  check_frequencies(logits, {}, {.top_p = 0.74});
  check_frequencies(logits, {}, {.top_p = 0.76});
}

TEST_CASE("logits that are not finite are never chosen") {
  check_frequencies({missing, 1, none, 0.5, -none}, {}, {});
  check_frequencies({missing, 1, none, 0.5, -none}, {0, 1, 2}, {.temperature = 2, .repetition_penalty = 1.5});
  Sampler sampler(3);
  const std::vector<double> broken{missing, none, missing}, one{missing, 2, none};
  for (const double temperature : {0.0, 1.0}) {
    const auto refused = sampler(std::span<const double>(broken), {}, {.temperature = temperature}, 0, 0);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == hm::Code::not_finite);
    const Tokens all{0, 1, 2};
    for (const double penalty : {0.5, 1.5}) {
      const auto penalised =
          sampler(std::span<const double>(broken), all, {.temperature = temperature, .repetition_penalty = penalty}, 0, 0);
      REQUIRE_FALSE(penalised);
      CHECK(penalised.error().code == hm::Code::not_finite);
    }
    CHECK(*sampler(std::span<const double>(one), {}, {.temperature = temperature}, 0, 0) == 1);
  }
}

TEST_CASE("greedy choice takes the largest logit, the lower token of a tie") {
  Sampler sampler(4);
  const std::vector<float> logits{1, 3, 3, 2}, negative{-3, -1, -1, -2};
  CHECK(*sampler(std::span<const float>(logits), {}, {.temperature = 0}, 0, 0) == 1);
  CHECK(*sampler(std::span<const float>(negative), {}, {.temperature = 0}, 0, 0) == 1);
  // The penalty divides a positive logit and multiplies a negative one: both fall behind the other of the tie.
  const Tokens history{1};
  CHECK(*sampler(std::span<const float>(logits), history, {.temperature = 0, .repetition_penalty = 1.01}, 0, 0) == 2);
  CHECK(*sampler(std::span<const float>(negative), history, {.temperature = 0, .repetition_penalty = 1.01}, 0, 0) == 2);
}

TEST_CASE("a choice is a function of seed, sequence and position") {
  const std::vector<double> logits = test::numbers(50, 6, 0.5);
  Sampler first(50), second(50);
  const auto draw = [&](Sampler& sampler, std::uint64_t seed, std::uint64_t sequence, std::uint64_t position) {
    return *sampler(std::span<const double>(logits), {}, {.seed = seed}, sequence, position);
  };
  Tokens base, again, seed, sequence;
  for (std::uint64_t i = 0; i < 50; ++i) {
    base.push_back(draw(first, 1, 2, i));
    seed.push_back(draw(first, 2, 2, i));
    sequence.push_back(draw(first, 1, 3, i));
  }
  for (std::uint64_t i = 50; i-- > 0;) again.insert(again.begin(), draw(second, 1, 2, i));
  CHECK(base == again);
  CHECK(base != seed);
  CHECK(base != sequence);
}

TEST_CASE("unusable sampling options are refused") {
  for (const Sampling& bad :
       {Sampling{.temperature = -1}, Sampling{.temperature = missing}, Sampling{.temperature = -none}, Sampling{.top_k = -1},
        Sampling{.top_p = 0}, Sampling{.top_p = 1.5}, Sampling{.top_p = missing}, Sampling{.min_p = -0.1}, Sampling{.min_p = 2},
        Sampling{.min_p = missing}, Sampling{.repetition_penalty = 0}, Sampling{.repetition_penalty = missing},
        Sampling{.repetition_penalty = -none}}) {
    const hm::Status outcome = bad.examine();
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().code == hm::Code::bad_argument);
  }
}

constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 8};
struct Talker
    : hm::LanguageModel<
          hm::LanguageSizes{.vocab = 61, .width = 32, .context = 48, .chunk = 8}, hm::Pattern<"GLSL">,
          hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<48>>>,
          hm::Slot<'L', hm::Block<hm::attention::Local<heads, 7>,
                                  hm::channel::Moe<hm::Experts{.count = 4, .active = 2, .hidden = 16}>>>,
          hm::Slot<'S', hm::Block<hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 4, .head = 8, .state = 8, .chunk = 8}>>>> {};
using Model = hm::Model<Talker, float, hm::exec::Inline, hm::Packed>;
using Session = generate::Session<Model>;

namespace {

/// Parameters that make a lively talker: random starts times ten.
const Model& talker() {
  static const Model model = [] {
    hm::Model<Talker, float> flat{hm::Seed{5}};
    for (Index i = 0; i < flat.elements; ++i) flat.parameters()[i] *= 6;
    return hm::pack(flat);
  }();
  return model;
}

Tokens text(Index count, std::uint64_t seed) {
  Tokens tokens;
  for (const double n : test::numbers(count, seed, 1000)) tokens.push_back(static_cast<std::int32_t>(std::fabs(n)) % 61);
  return tokens;
}

std::vector<float> copy(std::span<const float> logits) { return {logits.begin(), logits.end()}; }

/// Logits after a text, fed in one piece to a session of its own.
std::vector<float> alone(std::span<const std::int32_t> tokens) {
  auto session = Session::create(talker());
  REQUIRE(session);
  REQUIRE(session->feed(0, tokens));
  return copy(session->logits(0));
}

}  // namespace

TEST_CASE("sequences of different lengths at once equal one at a time, whatever the rows of a call") {
  const std::vector<Index> lengths{1, 17, 48, 8, 23};
  std::vector<Tokens> texts;
  for (const Index length : lengths) texts.push_back(text(length, 10 + static_cast<std::uint64_t>(length)));
  for (const Index rows : {Index{0}, Index{5}, Index{7}, Index{40}, Index{100'000}}) {
    CAPTURE(rows);
    auto session = Session::create(talker(), {.sequences = 5, .rows = rows});
    REQUIRE(session);
    std::vector<generate::Piece> pieces;
    for (std::size_t s = 0; s < texts.size(); ++s) pieces.push_back({static_cast<Index>(4 - s), texts[s]});
    REQUIRE(session->feed(pieces));
    for (std::size_t s = 0; s < texts.size(); ++s) {
      const auto sequence = static_cast<Index>(4 - s);
      CHECK(copy(session->logits(sequence)) == alone(texts[s]));
      CHECK(Tokens(session->history(sequence).begin(), session->history(sequence).end()) == texts[s]);
    }
  }
}

TEST_CASE("feeding token by token, or some sequences while others rest, gives the same bits") {
  const Tokens first = text(40, 1), second = text(30, 2);
  auto session = Session::create(talker(), {.sequences = 2});
  REQUIRE(session);
  Index a = 0, b = 0;
  for (int round = 0; a < 40 || b < 30; ++round) {
    std::vector<generate::Piece> pieces;
    const Index count_a = hm::smaller(round % 3, 40 - a), count_b = hm::smaller(round % 5, 30 - b);
    if (round % 7 != 0) pieces.push_back({0, {first.data() + a, hm::to_size(count_a)}});  // sometimes empty
    pieces.push_back({1, {second.data() + b, hm::to_size(count_b)}});
    REQUIRE(session->feed(pieces));
    if (round % 7 != 0) a += count_a;
    b += count_b;
    CHECK(session->length(0) == a);
    CHECK(session->length(1) == b);
  }
  CHECK(copy(session->logits(0)) == alone(first));
  CHECK(copy(session->logits(1)) == alone(second));
  // A slot that was used before is as good as a new one.
  session->reset(0);
  CHECK(session->length(0) == 0);
  REQUIRE(session->feed(0, second));
  CHECK(copy(session->logits(0)) == alone(second));
}

TEST_CASE("a fork goes on as its origin would have, and leaves it alone") {
  const Tokens shared = text(21, 3), one = text(9, 4), two = text(12, 5);
  auto session = Session::create(talker(), {.sequences = 3});
  REQUIRE(session);
  REQUIRE(session->feed(2, two));  // overwritten by the fork
  REQUIRE(session->feed(0, shared));
  session->fork(0, 2);
  session->fork(0, 0);
  CHECK(session->length(2) == 21);
  CHECK(copy(session->logits(2)) == copy(session->logits(0)));
  REQUIRE(session->feed(2, two));
  REQUIRE(session->feed(0, one));
  Tokens expected = shared;
  expected.insert(expected.end(), one.begin(), one.end());
  CHECK(copy(session->logits(0)) == alone(expected));
  expected = shared;
  expected.insert(expected.end(), two.begin(), two.end());
  CHECK(copy(session->logits(2)) == alone(expected));
  CHECK(Tokens(session->history(2).begin(), session->history(2).end()) == expected);
}

TEST_CASE("a snapshot is put back as it was taken, and one that cannot be is refused") {
  const Tokens start = text(20, 41), more = text(9, 42);
  auto session = Session::create(talker(), {.sequences = 2});
  REQUIRE(session);
  REQUIRE(session->feed(0, start));
  const generate::Snapshot taken = session->snapshot(0);
  const auto refuses = [&](auto change) {
    generate::Snapshot changed = taken;
    change(changed);
    const hm::Status outcome = session->restore(1, changed);
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().code == hm::Code::bad_argument);
    CHECK(session->length(1) == 0);
  };
  refuses([](generate::Snapshot& s) { s.state.pop_back(); });
  refuses([](generate::Snapshot& s) { s.logits.pop_back(); });
  refuses([](generate::Snapshot& s) { s.history.resize(49); });
  refuses([](generate::Snapshot& s) { s.history[3] = 61; });
  refuses([](generate::Snapshot& s) { s.history[3] = -1; });
  refuses([](generate::Snapshot& s) { s.furthest = 19; });
  refuses([](generate::Snapshot& s) { s.furthest = 49; });
  CHECK_FALSE(session->restore(2, taken));
  REQUIRE(session->restore(1, taken));
  REQUIRE(session->feed(1, more));
  Tokens expected = start;
  expected.insert(expected.end(), more.begin(), more.end());
  CHECK(copy(session->logits(1)) == alone(expected));
}

TEST_CASE("a call that fails changes nothing") {
  const Tokens start = text(44, 6), more = text(3, 7), many = text(5, 8);
  auto session = Session::create(talker(), {.sequences = 3});
  REQUIRE(session);
  REQUIRE(session->feed(0, start));
  REQUIRE(session->feed(1, many));
  const std::vector<float> logits_0 = copy(session->logits(0)), logits_1 = copy(session->logits(1));
  const auto refuses = [&](std::vector<generate::Piece> pieces, hm::Code code) {
    const hm::Status outcome = session->feed(pieces);
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().code == code);
    CHECK(session->length(0) == 44);
    CHECK(session->length(1) == 5);
    CHECK(session->length(2) == 0);
    CHECK(copy(session->logits(0)) == logits_0);
    CHECK(copy(session->logits(1)) == logits_1);
  };
  const Tokens negative{3, -1}, beyond{3, 61};
  refuses({{1, more}, {3, more}}, hm::Code::bad_argument);
  refuses({{1, more}, {-1, more}}, hm::Code::bad_argument);
  refuses({{1, more}, {2, more}, {1, more}}, hm::Code::bad_argument);
  refuses({{1, more}, {2, negative}}, hm::Code::bad_argument);
  refuses({{2, more}, {1, beyond}}, hm::Code::bad_argument);
  refuses({{1, more}, {0, many}}, hm::Code::end_of_context);
  const Tokens too_long = text(49, 9);
  refuses({{2, too_long}}, hm::Code::end_of_context);
  // It goes on as if nothing had happened.
  REQUIRE(session->feed(0, more));
  Tokens expected = start;
  expected.insert(expected.end(), more.begin(), more.end());
  CHECK(copy(session->logits(0)) == alone(expected));
}

TEST_CASE("a sliding sequence is its newer half, fed again") {
  auto session = Session::create(talker(), {.sequences = 2, .end = generate::EndOfContext::slide});
  REQUIRE(session);
  const Tokens all = text(200, 11), other = text(30, 12);
  REQUIRE(session->feed(1, other));
  Tokens kept;
  for (Index at = 0, count = 1; at < 200; at += count, count = 1 + at % 5) {
    count = hm::smaller(count, 200 - at);
    const std::span<const std::int32_t> next{all.data() + at, hm::to_size(count)};
    if (hm::to_index(kept.size()) + count > 48) kept.erase(kept.begin(), kept.end() - 24);
    kept.insert(kept.end(), next.begin(), next.end());
    REQUIRE(session->feed(0, next));
    REQUIRE(Tokens(session->history(0).begin(), session->history(0).end()) == kept);
    if (at % 3 == 0) REQUIRE(copy(session->logits(0)) == alone(kept));
  }
  CHECK(copy(session->logits(1)) == alone(other));
  // What cannot fit beside half of the context is refused.
  const Tokens piece = text(25, 13);
  CHECK(session->feed(0, std::span(piece).first(24)));
  const hm::Status outcome = session->feed(0, std::span(piece));
  REQUIRE_FALSE(outcome);
  CHECK(outcome.error().code == hm::Code::end_of_context);
}

TEST_CASE("a session that cannot be is refused") {
  for (const generate::SessionOptions& bad :
       {generate::SessionOptions{.sequences = 0}, generate::SessionOptions{.sequences = -3},
        generate::SessionOptions{.sequences = 4, .rows = 3}, generate::SessionOptions{.rows = -1}}) {
    const auto session = Session::create(talker(), bad);
    REQUIRE_FALSE(session);
    CHECK(session.error().code == hm::Code::bad_argument);
  }
  for (const Index sequences : {Index{1} << 32, Index{1} << 62}) {
    const auto session = Session::create(talker(), {.sequences = sequences});
    REQUIRE_FALSE(session);
    CHECK(session.error().code == hm::Code::out_of_memory);
  }
}

namespace {

/// What generate() is to do, by hand: feed, choose, feed the choice.
Tokens by_hand(const generate::Request& request, const Sampling& sampling, std::uint64_t sequence) {
  auto session = Session::create(talker());
  Sampler sampler(61);
  Tokens result;
  REQUIRE(session->feed(0, request.prompt));
  while (hm::to_index(result.size()) < request.tokens) {
    result.push_back(*sampler(session->logits(0), session->history(0), sampling, sequence, result.size()));
    if (result.back() == request.stop) break;
    if (hm::to_index(result.size()) < request.tokens) REQUIRE(session->feed(0, std::span<const std::int32_t>(&result.back(), 1)));
  }
  return result;
}

}  // namespace

TEST_CASE("many requests at once are answered as each alone, to the token") {
  const Tokens a = text(3, 20), b = text(17, 21), c = text(1, 22);
  for (const Sampling& sampling : {Sampling{.temperature = 0}, Sampling{.temperature = 1.2, .seed = 4},
                                   Sampling{.top_k = 7, .repetition_penalty = 1.2, .seed = 5}}) {
    const Tokens whole = by_hand({.prompt = b, .tokens = 30}, sampling, 1);
    const std::int32_t stop = whole[whole.size() / 2];  // whenever it comes first
    const std::vector<generate::Request> requests{{a, 20}, {b, 30, stop}, {c, 1}, {a, 0}, {c, 12}};
    auto session = Session::create(talker(), {.sequences = 6});
    REQUIRE(session);
    std::vector<Tokens> written(5);
    REQUIRE(generate::generate(*session, std::span<const generate::Request>(requests), sampling,
                               [&](Index s, std::int32_t token) { return written[hm::to_size(s)].push_back(token), true; }));
    for (std::size_t s = 0; s < 5; ++s)
      CHECK(written[s] == (requests[s].tokens == 0 ? Tokens{} : by_hand(requests[s], sampling, s)));
    CHECK(written[1].back() == stop);
    // The same session again, one request.
    Tokens once;
    REQUIRE(generate::generate(*session, requests[0], sampling, [&](std::int32_t token) { return once.push_back(token), true; }));
    CHECK(once == written[0]);
  }
}

TEST_CASE("a callback ends its sequence and no other") {
  const Tokens prompt = text(5, 30);
  const std::vector<generate::Request> requests{{prompt, 25}, {prompt, 25}};
  auto session = Session::create(talker(), {.sequences = 2});
  REQUIRE(session);
  std::vector<Tokens> written(2);
  REQUIRE(generate::generate(*session, std::span<const generate::Request>(requests), {.temperature = 0},
                             [&](Index s, std::int32_t token) {
                               written[hm::to_size(s)].push_back(token);
                               return s == 1 || written[0].size() < 6;
                             }));
  CHECK(written[0].size() == 6);
  CHECK(written[1].size() == 25);
  CHECK(std::equal(written[0].begin(), written[0].end(), written[1].begin()));
}

TEST_CASE("requests that cannot be are refused before anything is delivered") {
  const Tokens prompt = text(5, 31), outside{1, 70};
  auto session = Session::create(talker(), {.sequences = 2});
  REQUIRE(session);
  const auto refuses = [&](std::vector<generate::Request> requests, const Sampling& sampling) {
    const hm::Status outcome =
        generate::generate(*session, std::span<const generate::Request>(requests), sampling, [](Index, std::int32_t) {
          FAIL("a token was delivered");
          return false;
        });
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().code == hm::Code::bad_argument);
  };
  refuses({{prompt}, {prompt}, {prompt}}, {});
  refuses({{prompt}, {}}, {});
  refuses({{prompt}, {outside}}, {});
  refuses({{prompt}}, {.top_p = -1});
}

TEST_CASE("generation into the end of the context fails there, or slides") {
  const Tokens prompt = text(40, 32);
  Tokens written;
  auto session = Session::create(talker());
  REQUIRE(session);
  const hm::Status outcome = generate::generate(*session, {.prompt = prompt, .tokens = 100}, {.temperature = 0},
                                                [&](std::int32_t t) { return written.push_back(t), true; });
  REQUIRE_FALSE(outcome);
  CHECK(outcome.error().code == hm::Code::end_of_context);
  CHECK(written.size() == 9);  // the last is chosen from the last position and has none itself
  CHECK(session->length(0) == 48);
  auto sliding = Session::create(talker(), {.end = generate::EndOfContext::slide});
  REQUIRE(sliding);
  Tokens longer;
  REQUIRE(generate::generate(*sliding, {.prompt = prompt, .tokens = 100}, {.temperature = 0},
                             [&](std::int32_t t) { return longer.push_back(t), true; }));
  CHECK(longer.size() == 100);
  CHECK(std::equal(written.begin(), written.end(), longer.begin()));
}

TEST_CASE("the stepper in the caller's memory gives the session's bits") {
  using Stepper = generate::Stepper<Talker, float>;
  const Tokens tokens = text(48, 40);
  auto session = Session::create(talker());
  REQUIRE(session);
  for (std::size_t shift : {std::size_t{0}, std::size_t{1}, std::size_t{63}}) {
    std::vector<std::byte> memory(hm::to_size(Stepper::required_bytes()) + 64 + shift, std::byte{0xff});
    std::byte* const begin = memory.data() + shift;
    auto stepper = Stepper::create(talker().parameters(), begin, Stepper::required_bytes());
    REQUIRE(stepper);
    for (int life = 0; life < 2; ++life) {
      session->reset(0);
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        const auto before = test::allocations();
        const auto logits = stepper->step(tokens[i]);
        CHECK(test::allocations() == before);
        REQUIRE(logits);
        CHECK(stepper->position() == static_cast<Index>(i) + 1);
        REQUIRE(session->feed(0, std::span(tokens).subspan(i, 1)));
        REQUIRE(std::vector<float>(*logits, *logits + 61) == copy(session->logits(0)));
      }
      const auto end = stepper->step(1);
      REQUIRE_FALSE(end);
      CHECK(end.error().code == hm::Code::end_of_context);
      CHECK(stepper->position() == 48);
      stepper->reset();
      for (const std::int32_t bad : {-1, 61}) {
        const auto refused = stepper->step(bad);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == hm::Code::bad_argument);
      }
      CHECK(stepper->position() == 0);
    }
    CHECK(std::all_of(begin + Stepper::required_bytes(), memory.data() + memory.size(),
                      [](std::byte b) { return b == std::byte{0xff}; }));
    CHECK(std::all_of(memory.data(), begin, [](std::byte b) { return b == std::byte{0xff}; }));
  }
  std::vector<std::byte> memory(hm::to_size(Stepper::required_bytes()));
  const auto small = Stepper::create(talker().parameters(), memory.data(), Stepper::required_bytes() - 1);
  REQUIRE_FALSE(small);
  CHECK(small.error().code == hm::Code::out_of_memory);
  CHECK(small.error().expected == Stepper::required_bytes());
  CHECK_FALSE(Stepper::create(nullptr, memory.data(), Stepper::required_bytes()));
  CHECK_FALSE(Stepper::create(talker().parameters(), nullptr, Stepper::required_bytes()));
}
