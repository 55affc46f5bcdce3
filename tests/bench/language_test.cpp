// The generated language: equal frequencies of letters in all strata, entropies as stated, and what the letters before tell.

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include <catch2/catch_test_macros.hpp>

#include "../../bench/hybridmoe/reader.hpp"

using language::Index;
using language::Language;
using language::Stratum;
using language::Text;
using language::to_index;
using language::to_size;

namespace {

constexpr Stratum all[] = {Stratum::easy, Stratum::hard, Stratum::noise};

/// Entropy of the next letter given the `back` before it, from counts (Miller and Madow's correction), within spans.
double counted_entropy(const Text& text, Index span, Index back) {
  std::map<std::vector<std::int32_t>, std::map<std::int32_t, double>> counts;
  double total = 0;
  for (Index t = 0; t < to_index(text.token.size()); ++t) {
    if (t % span < 8) continue;  // beyond every rule's first letters
    const auto at = text.token.begin() + t;
    ++counts[std::vector<std::int32_t>(at - back, at)][*at];
    ++total;
  }
  double sum = 0;
  for (const auto& [context, next] : counts) {
    double n = 0;
    for (const auto& [letter, count] : next) n += count;
    double h = (static_cast<double>(next.size()) - 1) / (2 * n);
    for (const auto& [letter, count] : next) h -= count / n * std::log(count / n);
    sum += n / total * h;
  }
  return sum;
}

}  // namespace

TEST_CASE("every stratum uses every letter equally often, within the error of sampling") {
  for (const language::Options options : {language::Options{}, {.alphabet = 16, .span = 64, .operands = 3, .lag = 4}}) {
    const Language language(options, 5);
    for (const Stratum stratum : all) {
      const Index spans = 3000;
      const Text text = language.text(stratum, spans * options.span, 1);
      // Spans are independent: the error of a letter's frequency follows from its spread over spans.
      for (Index letter = 0; letter < options.alphabet; ++letter) {
        double sum = 0, square = 0;
        for (Index s = 0; s < spans; ++s) {
          const auto begin = text.token.begin() + s * options.span;
          const double n =
              static_cast<double>(std::count(begin, begin + options.span, static_cast<std::int32_t>(options.first + letter)));
          sum += n / static_cast<double>(spans);
          square += n * n / static_cast<double>(spans);
        }
        const double expected = static_cast<double>(options.span) / static_cast<double>(options.alphabet);
        const double error = std::sqrt((square - sum * sum) / static_cast<double>(spans));
        INFO("stratum " << int(stratum) << ", letter " << letter << ": " << sum << " of " << expected << " ± " << error);
        CHECK(std::fabs(sum - expected) < 4.5 * error);
        CHECK(error < 0.05 * expected);
      }
    }
  }
}

TEST_CASE("entropies and probabilities are true") {
  for (const language::Options options :
       {language::Options{}, {.alphabet = 16, .span = 64, .operands = 3, .lag = 4, .slip = 0.2}}) {
    const Language language(options, 6);
    const double a = static_cast<double>(options.alphabet);
    for (const Stratum stratum : all) {
      const Text text = language.text(stratum, 200'000, 2);
      double entropy = 0, surprise = 0, square = 0;
      Index followed = 0, ruled = 0;
      for (Index t = 0; t < to_index(text.token.size()); ++t) {
        const double s = -std::log(text.probability[to_size(t)]);
        entropy += text.entropy[to_size(t)];
        surprise += s;
        square += std::pow(s - text.entropy[to_size(t)], 2);
        const Index demanded = language.rule(stratum, text.token, t, t / options.span * options.span);
        if (demanded < 0) continue;
        ++ruled;
        followed += text.token[to_size(t)] - options.first == demanded;
      }
      // The mean surprise of whoever knows the rules is the entropy.
      CHECK(std::fabs(surprise - entropy) < 4.5 * std::sqrt(square) + 1e-9 * surprise);
      if (stratum == Stratum::noise) {
        CHECK(ruled == 0);
        CHECK(std::fabs(entropy / 200'000 - std::log(a)) < 1e-9);
        continue;
      }
      const double r = 1 - options.slip + options.slip / a, n = static_cast<double>(ruled);
      CHECK(std::fabs(static_cast<double>(followed) - r * n) < 4.5 * std::sqrt(n * r * (1 - r)));
      const double h = -r * std::log(r) - (a - 1) * options.slip / a * std::log(options.slip / a);
      CHECK(std::fabs(language.entropy() - h) < 1e-12);
      const double firsts = 200'000 - n;
      CHECK(std::fabs(entropy - firsts * std::log(a) - n * h) < 1e-6);
    }
  }
}

TEST_CASE("easy text follows from one letter; hard text from two and not from one; noise from none") {
  const language::Options options{.alphabet = 16};
  const Language language(options, 7);
  const double uniform = std::log(16.0), h = language.entropy();
  const auto counted = [&](Stratum stratum, Index back) {
    return counted_entropy(language.text(stratum, 400'000, 3), options.span, back);
  };
  CHECK(std::fabs(counted(Stratum::easy, 1) - h) < 0.01);
  CHECK(std::fabs(counted(Stratum::hard, 1) - uniform) < 0.01);
  CHECK(std::fabs(counted(Stratum::hard, 2) - h) < 0.02);
  CHECK(std::fabs(counted(Stratum::noise, 1) - uniform) < 0.01);
  CHECK(std::fabs(counted(Stratum::noise, 2) - uniform) < 0.02);
  for (const Stratum stratum : all) CHECK(std::fabs(counted(stratum, 0) - uniform) < 0.001);
}

TEST_CASE("three operands tell nothing by two") {
  const language::Options options{.alphabet = 12, .operands = 3};
  const Language language(options, 8);
  const Text text = language.text(Stratum::hard, 400'000, 3);
  CHECK(std::fabs(counted_entropy(text, options.span, 2) - std::log(12.0)) < 0.02);
  CHECK(std::fabs(counted_entropy(text, options.span, 3) - language.entropy()) < 0.03);
}

TEST_CASE("a text is a function of its language and number; its strata take turns") {
  const Language language({}, 9);
  const Text text = language.text(3 * 128 * 40, 4), shorter = language.text(1000, 4), other = language.text(1000, 5);
  CHECK(std::equal(shorter.token.begin(), shorter.token.end(), text.token.begin()));
  CHECK(other.token != shorter.token);
  CHECK(Language({}, 9).text(1000, 4).token == shorter.token);
  CHECK(Language({}, 10).text(1000, 4).token != shorter.token);
  int orders = 0;
  std::map<std::tuple<Stratum, Stratum, Stratum>, int> seen;
  for (std::size_t group = 0; group < 40; ++group) {
    std::vector<Stratum> turn;
    for (std::size_t s = 0; s < 3; ++s) {
      const auto begin = text.stratum.begin() + static_cast<std::ptrdiff_t>((3 * group + s) * 128);
      CHECK(std::all_of(begin, begin + 128, [&](Stratum v) { return v == *begin; }));
      turn.push_back(*begin);
    }
    orders += ++seen[{turn[0], turn[1], turn[2]}] == 1;
    std::sort(turn.begin(), turn.end());
    CHECK(turn == std::vector<Stratum>{Stratum::easy, Stratum::hard, Stratum::noise});
  }
  CHECK(orders == 6);
  CHECK(std::all_of(text.token.begin(), text.token.end(), [](std::int32_t id) { return 'a' <= id && id <= 'z'; }));
}

TEST_CASE("a reader loses what summing over all ways the strata may have gone says") {
  const Language source({.alphabet = 5, .span = 4, .slip = 0.2}, 7);
  const Text text = source.text(40, 3);
  const double change = 0.15, kept = 1 - 0.2 + 0.2 / 5, other = 0.2 / 5;
  language::Reader reader(source, change);
  // p(letters begin … end) by summing over the 3^n ways; the first letters of a window follow from nothing.
  const auto probability = [&](Index begin, Index end) {
    Index ways = 1;
    for (Index t = begin; t < end; ++t) ways *= 3;
    double sum = 0;
    for (Index way = 0; way < ways; ++way) {
      double p = 1.0 / 3;
      for (Index t = begin, digits = way, before = -1; t < end; ++t, digits /= 3) {
        const Index now = digits % 3;
        if (before >= 0) p *= now == before ? 1 - change : change / 2;
        before = now;
        const Index letter = text.token[to_size(t)] - 'a', needed = now == 0 ? 1 : 2;
        const auto stratum = static_cast<Stratum>(now);
        if (stratum == Stratum::noise || t - begin < needed)
          p *= 0.2;
        else
          p *= letter == source.rule(stratum, text.token, t, t - needed) ? kept : other;
      }
      sum += p;
    }
    return sum;
  };
  for (const Index begin : {0, 13, 30}) {
    reader.forget();
    double before = 1;
    for (Index t = begin; t < begin + 7; ++t) {
      const double now = probability(begin, t + 1);
      CHECK(std::fabs(reader.read(text.token, t) + std::log(now / before)) < 1e-12);
      before = now;
    }
  }
}
