#pragma once
/// @file budgets.hpp
/// Which compute budget β and which performance target q each sequence of a step trains with, so that one set of weights serves
/// every budget. All sequences of the batch train at β = q = 1, as they would without other budgets; beside them some of them
/// stand a second time, at a lower budget (twins), and learn from the first as well as from the text (Yu and Huang, "Universally
/// slimmable networks", 2019: the sandwich rule and distillation in place). So lower budgets cost time, but no text.

#include <cmath>

#include <hybridmoe/core/random.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

/// What the rows of an evaluation, or all rows of a training without other budgets, may spend.
struct Condition {
  double budget = 1;  ///< β in [0, 1]
  double target = 1;  ///< q in [0, 1]; 1: spend the budget
};

struct Budgets {
  bool sampled = false;  ///< twins at drawn budgets beside the batch; otherwise every row has `fixed`
  Condition fixed{};
  double twins = 1;         ///< twins beside the batch, as a part of it; there is one at least
  double least = 0;         ///< the lowest budget that is drawn
  double at_least = 0.125;  ///< the part of the twins that have the lowest budget; the others draw one from `least` or `above` on
  double above = 0;         ///< the lowest budget of those others, if higher than `least`
  double lean = 1;          ///< they draw above + (1 − above)·v^lean, v uniform: above 1, lower budgets come more often
  bool evenly = false;      ///< each of a step's draws takes v from a part of [0, 1) of its own (stratified sampling)
  double at_target = 0.8;   ///< the part of those others that have q = 1, as T(β) is controlled for; the rest draw one
  double price = 0.05;      ///< λ₀: the auxiliary loss of a row with target 0 that spends all of C(1)
  double twin_loss = 1;     ///< weight of KL(full twin, held constant ‖ low twin), per token
  double gain_loss = 0.01;  ///< weight of (c − squared rank of the gain from computing)², per token
};

/// The draw of a step: which sequences it has, and each one's β and q.
class BudgetDraw {
 public:
  BudgetDraw(const Budgets& budgets, random::Key key, std::uint64_t micro, Index batch)
      : budgets_(budgets), key_(key), micro_(micro), batch_(batch), twins_(twins_of(budgets, batch)) {}

  /// How many twins a batch of so many sequences has.
  static Index twins_of(const Budgets& budgets, Index batch) {
    if (!budgets.sampled) return 0;
    return larger(1, smaller(batch, static_cast<Index>(budgets.twins * static_cast<double>(batch) + 0.5)));
  }
  /// Sequence batch + i, a twin, shows the window of sequence i.
  Index twins() const { return twins_; }
  Index window(Index sequence) const { return sequence < batch_ ? sequence : sequence - batch_; }
  /// Whether twin i has the least budget: these teach the complexity what computing gains.
  bool at_least(Index twin) const {
    // Evenly spread places in [0, 1), turned by a random part of a circle: parts are exact where the number allows.
    double place = (static_cast<double>(twin) + 0.5) / static_cast<double>(twins_) + uniform(0, 2);
    place -= place >= 1 ? 1 : 0;
    return place < budgets_.at_least;
  }

  Condition of(Index sequence) const {
    if (sequence < batch_) return budgets_.sampled ? Condition{} : budgets_.fixed;
    if (at_least(sequence - batch_)) return {budgets_.least, 1};
    const double u = uniform(sequence, 1), lowest = budgets_.above > budgets_.least ? budgets_.above : budgets_.least;
    return {lowest + (1 - lowest) * std::pow(place_of(sequence), budgets_.lean),
            u < budgets_.at_target ? 1.0 : (u - budgets_.at_target) / (1 - budgets_.at_target)};
  }

 private:
  /// v of a twin that draws its budget.
  double place_of(Index sequence) const {
    if (!budgets_.evenly) return uniform(sequence, 0);
    Index before = 0, all = 0;
    for (Index twin = 0; twin < twins_; ++twin) {
      if (at_least(twin)) continue;
      before += batch_ + twin < sequence;
      ++all;
    }
    return (static_cast<double>(before) + uniform(sequence, 0)) / static_cast<double>(all);
  }
  double uniform(Index sequence, int word) const {
    const std::uint64_t place = micro_ * static_cast<std::uint64_t>(batch_ + twins_) + static_cast<std::uint64_t>(sequence);
    return static_cast<double>(random::uniform(random::draw(key_, 0x62756467u, place).word[word]));
  }
  Budgets budgets_;
  random::Key key_;
  std::uint64_t micro_;
  Index batch_, twins_;
};

}  // namespace hybridmoe::train
