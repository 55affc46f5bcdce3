#pragma once
// What someone would lose on the language who knows its rules and has only to find out which of them holds: a filter over the
// strata that takes every letter to be the first of a span of another stratum with a fixed probability. Models that learn the
// rules come near its loss; below it is who also counts how long spans are.

#include <array>

#include "language.hpp"

namespace language {

class Reader {
 public:
  /// change: the probability that the next letter belongs to another stratum than this one.
  Reader(const Language& language, double change) : language_(language), change_(change) { forget(); }

  /// As at the beginning of a window: every stratum is as likely.
  void forget() { belief_.fill(1.0 / strata), seen_ = 0; }

  /// −ln p(letter t of `token`), given those before it that were read since forget(); then the beliefs follow.
  template <class Letters>
  double read(const Letters& token, Index t) {
    double p = 0;
    for (int s = 0; s < strata; ++s) p += belief_[to_size(s)] *= likelihood(static_cast<Stratum>(s), token, t);
    for (double& belief : belief_) {
      belief /= p;
      belief = (1 - change_) * belief + change_ * (1 - belief) / (strata - 1);
    }
    ++seen_;
    return -std::log(p);
  }

 private:
  template <class Letters>
  double likelihood(Stratum stratum, const Letters& token, Index t) const {
    const Options& options = language_.options();
    const Index order = language_.order(stratum);
    const double uniform = 1 / static_cast<double>(options.alphabet);
    if (stratum == Stratum::noise || seen_ < order) return uniform;
    const Index demanded = language_.rule(stratum, token, t, t - order);
    return static_cast<Index>(token[to_size(t)]) - options.first == demanded ? language_.kept() : options.slip * uniform;
  }

  const Language& language_;
  double change_;
  std::array<double, strata> belief_;
  Index seen_;
};

}  // namespace language
