#pragma once
// A language whose entropy is known. Its text is a row of spans, each of one stratum; all strata use the same letters, every
// letter equally often at every place, and easy and hard text are even equally predictable to whoever knows the rules:
//
//   easy    a letter follows from the one before it, x_t = π(x_{t−1}), or is a copy of an earlier one, x_t = x_{t−lag}
//   hard    x_t = P[x_{t−1}](P[x_{t−2}](… x_{t−n})): permutations composed over the last letters; no n − 1 of them tell anything
//   noise   uniform: surprising, with nothing to compute
//
// In easy and hard text a letter slips with probability ε: it is drawn uniformly instead, and what follows goes on from what
// stands there. π (one cycle) and P (a permutation for every letter) belong to the language, drawn from its seed.
// The entropy of a letter, given all before it and the stratum, is then ln A in the first letters of a span and in noise, and
// H_ε = −r ln r − (A − 1)(ε/A) ln(ε/A), r = 1 − ε + ε/A, everywhere else.

#include <cmath>
#include <utility>
#include <vector>

#include <hybridmoe/core/random.hpp>

namespace language {

using hybridmoe::Index;
using hybridmoe::to_index;
using hybridmoe::to_size;
namespace random = hybridmoe::random;

enum class Stratum : std::uint8_t { easy, hard, noise };
inline constexpr int strata = 3;

struct Options {
  Index alphabet = 26;  ///< letters
  Index first = 'a';    ///< id of the first; the others follow
  Index span = 128;     ///< letters of one stratum in a row
  Index operands = 2;   ///< n: letters that hard text follows from
  Index lag = 0;        ///< of copies in easy text; 0: x_t = π(x_{t−1})
  double slip = 0.05;   ///< ε
};

/// Text with what is true of each letter.
struct Text {
  std::vector<std::int32_t> token;
  std::vector<Stratum> stratum;
  std::vector<double> entropy;      ///< in nats, given the letters before and the stratum
  std::vector<double> probability;  ///< of the letter that stands there, given the same
};

class Language {
 public:
  explicit Language(Options options, std::uint64_t seed) : options_(options), key_(random::key_of(seed)) {
    const Index a = options.alphabet;
    // One cycle through all letters: the successor of each letter in a random order.
    const std::vector<Index> order = permutation(random::hash("language.order"), 0);
    successor_.resize(to_size(a));
    for (Index i = 0; i < a; ++i) successor_[to_size(order[to_size(i)])] = order[to_size((i + 1) % a)];
    for (Index i = 0; i < a; ++i) {
      const std::vector<Index> one = permutation(random::hash("language.permutation"), i);
      tables_.insert(tables_.end(), one.begin(), one.end());
    }
  }

  const Options& options() const { return options_; }

  /// Letters at the beginning of a span from which nothing follows yet.
  Index order(Stratum stratum) const {
    return stratum == Stratum::hard ? options_.operands : stratum == Stratum::noise ? 0 : options_.lag > 0 ? options_.lag : 1;
  }

  /// The letter (0 … alphabet − 1) that the rule demands after history[…end − 1]; −1 in noise, and where nothing follows yet.
  template <class Letters>
  Index rule(Stratum stratum, const Letters& history, Index end, Index span_begin) const {
    if (stratum == Stratum::noise || end - span_begin < order(stratum)) return -1;
    const auto letter = [&](Index back) { return static_cast<Index>(history[to_size(end - back)]) - options_.first; };
    if (stratum == Stratum::easy) return options_.lag > 0 ? letter(options_.lag) : successor_[to_size(letter(1))];
    Index value = letter(options_.operands);
    for (Index back = options_.operands - 1; back > 0; --back) value = tables_[to_size(letter(back) * options_.alphabet + value)];
    return value;
  }

  /// H_ε in nats, and r: entropy and probability where a rule speaks.
  double entropy() const {
    const double r = kept(), other = options_.slip / static_cast<double>(options_.alphabet);
    return -r * std::log(r) - (other > 0 ? static_cast<double>(options_.alphabet - 1) * other * std::log(other) : 0.0);
  }
  double kept() const { return 1 - options_.slip + options_.slip / static_cast<double>(options_.alphabet); }

  /// `letters` letters of the text number `number`. Of every three spans one is of each stratum, in random order. A longer text
  /// of the same number begins with the shorter one.
  Text text(Index letters, std::uint64_t number) const {
    return write(letters, number, [&](Index span) {
      Stratum turn[strata] = {Stratum::easy, Stratum::hard, Stratum::noise};
      const random::Block words = random::draw(key_, stream("language.turn", number), static_cast<std::uint64_t>(span / strata));
      std::swap(turn[2], turn[words.word[0] % 3]);
      std::swap(turn[1], turn[words.word[1] % 2]);
      return turn[span % strata];
    });
  }
  /// The same of one stratum alone.
  Text text(Stratum stratum, Index letters, std::uint64_t number) const {
    const std::uint64_t own = random::hash("alone", number + static_cast<std::uint64_t>(stratum) * 0x9E3779B97F4A7C15u);
    return write(letters, own, [&](Index) { return stratum; });
  }

 private:
  static std::uint64_t stream(const char* what, std::uint64_t number) {
    return random::hash(what) ^ number * 0xD1342543DE82EF95u;
  }

  /// A random permutation of the letters (Fisher and Yates).
  std::vector<Index> permutation(std::uint64_t stream, Index number) const {
    std::vector<Index> p(to_size(options_.alphabet));
    for (Index i = 0; i < options_.alphabet; ++i) p[to_size(i)] = i;
    for (Index i = options_.alphabet - 1; i > 0; --i) {
      const random::Block words = random::draw(key_, stream, static_cast<std::uint64_t>(number * options_.alphabet + i));
      std::swap(p[to_size(i)], p[to_size(below(words.word[0], i + 1))]);
    }
    return p;
  }
  /// A word as a number 0 … n − 1.
  static Index below(std::uint32_t word, Index n) {
    return static_cast<Index>((static_cast<std::uint64_t>(word) * static_cast<std::uint64_t>(n)) >> 32);
  }

  template <class Choose>
  Text write(Index letters, std::uint64_t number, const Choose& choose) const {
    Text text;
    const double uniform = 1 / static_cast<double>(options_.alphabet);
    Stratum stratum = Stratum::noise;
    for (Index t = 0; t < letters; ++t) {
      const Index begin = t / options_.span * options_.span;
      if (t == begin) stratum = choose(t / options_.span);
      const random::Block words = random::draw(key_, stream("language.letter", number), static_cast<std::uint64_t>(t));
      const Index demanded = rule(stratum, text.token, t, begin);
      const bool free = demanded < 0 || static_cast<double>(random::uniform(words.word[0])) < options_.slip;
      const Index letter = free ? below(words.word[1], options_.alphabet) : demanded;
      text.token.push_back(static_cast<std::int32_t>(options_.first + letter));
      text.stratum.push_back(stratum);
      text.entropy.push_back(demanded < 0 ? -std::log(uniform) : entropy());
      text.probability.push_back(demanded < 0 ? uniform : letter == demanded ? kept() : options_.slip * uniform);
    }
    return text;
  }

  Options options_;
  random::Key key_;
  std::vector<Index> successor_;  ///< π
  std::vector<Index> tables_;     ///< P: [alphabet][alphabet]
};

}  // namespace language
