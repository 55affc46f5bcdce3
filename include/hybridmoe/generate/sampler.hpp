#pragma once
/// @file sampler.hpp
/// Choosing the next token from logits. Every choice is a function of (seed, sequence, position), so a run can be repeated and
/// sequences do not disturb each other.

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/result.hpp>
#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::generate {

/// Filters apply in this order: repetition penalty, temperature, top-k, top-p, min-p.
struct Sampling {
  double temperature = 1;         ///< 0: greedy, the largest logit, ties to the lower id
  Index top_k = 0;                ///< keep the k largest; 0: all
  double top_p = 1;               ///< keep the smallest set of largest probabilities that reaches p (Holtzman et al. 2020)
  double min_p = 0;               ///< keep probabilities of at least min_p·largest (Nguyen et al. 2024)
  double repetition_penalty = 1;  ///< logits of tokens seen: positive ones divided, negative ones multiplied (Keskar et al. 2019)
  std::uint64_t seed = 0;

  Status examine() const {
    if (!(temperature >= 0 && math::is_finite(temperature)))
      return Error{Code::bad_argument, "Sampling::temperature must be a finite number and not negative"};
    if (top_k < 0) return Error{Code::bad_argument, "Sampling::top_k must not be negative", "sampling", top_k, 0};
    if (!(top_p > 0 && top_p <= 1)) return Error{Code::bad_argument, "Sampling::top_p must lie in (0, 1]"};
    if (!(min_p >= 0 && min_p <= 1)) return Error{Code::bad_argument, "Sampling::min_p must lie in [0, 1]"};
    if (!(repetition_penalty > 0 && math::is_finite(repetition_penalty)))
      return Error{Code::bad_argument, "Sampling::repetition_penalty must be a finite number and positive"};
    return Done{};
  }
};

/// Room for sampling from `vocab` logits; sampling itself allocates nothing.
class Sampler {
 public:
  explicit Sampler(Index vocab) : candidates_(to_size(vocab)), seen_(to_size(vocab)) {}

  /// The next token, or an error if no logit is finite. `history`: the tokens so far (for the repetition penalty). `position`
  /// numbers the choices of a sequence, whatever it counts.
  template <class T>
  Result<std::int32_t> operator()(std::span<const T> logits, std::span<const std::int32_t> history, const Sampling& options,
                                  std::uint64_t sequence, std::uint64_t position) {
    HYBRIDMOE_ASSERT(logits.size() == candidates_.size());
    std::fill(seen_.begin(), seen_.end(), char{0});
    if (options.repetition_penalty != 1)
      for (const std::int32_t token : history)
        if (token >= 0 && to_size(token) < seen_.size()) seen_[to_size(token)] = 1;
    for (std::size_t v = 0; v < logits.size(); ++v) {
      double z = static_cast<double>(logits[v]);
      if (!math::is_finite(z))
        z = math::lowest<double>;  // as it is: a penalty would make it look like a logit
      else if (seen_[v] != 0)
        z = z > 0 ? z / options.repetition_penalty : z * options.repetition_penalty;
      candidates_[v] = {z, static_cast<std::int32_t>(v)};
    }
    const auto better = [](const Candidate& a, const Candidate& b) {
      return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
    };
    auto end = candidates_.end();
    if (options.temperature == 0) {
      const Candidate best = *std::min_element(candidates_.begin(), end, better);
      if (best.logit == math::lowest<double>) return none_finite(position);
      return best.token;
    }
    if (options.top_k > 0 && options.top_k < to_index(candidates_.size())) {
      end = candidates_.begin() + options.top_k;
      std::nth_element(candidates_.begin(), end - 1, candidates_.end(), better);
    }
    std::sort(candidates_.begin(), end, better);
    const double top = candidates_.front().logit;
    if (top == math::lowest<double>) return none_finite(position);
    double total = 0;
    for (auto c = candidates_.begin(); c != end; ++c) total += c->probability = std::exp((c->logit - top) / options.temperature);
    double kept = 0;
    for (auto c = candidates_.begin(); c != end; ++c) {
      if (c != candidates_.begin() && (kept >= options.top_p * total || c->probability == 0 ||
                                       c->probability < options.min_p * candidates_.front().probability)) {
        end = c;
        break;
      }
      kept += c->probability;
    }
    const random::Block words = random::draw(random::key_of(options.seed), sequence, position);
    double target = (static_cast<double>(words.word[0]) + static_cast<double>(words.word[1]) * 0x1p-32) * 0x1p-32 * kept;
    for (auto c = candidates_.begin(); c != end; ++c) {
      target -= c->probability;
      if (target < 0) return c->token;
    }
    return (end - 1)->token;
  }

 private:
  struct Candidate {
    double logit = 0;
    std::int32_t token = 0;
    double probability = 0;
  };
  static Error none_finite(std::uint64_t position) {
    return {Code::not_finite,
            "no logit is a finite number",
            numbered("position ", static_cast<Index>(position)),
            Error::unset,
            Error::unset,
            {}};
  }
  std::vector<Candidate> candidates_;
  std::vector<char> seen_;
};

}  // namespace hybridmoe::generate
