#pragma once
/// @file budgets.hpp
/// Which compute budget β and which performance target q each sequence of a batch trains with, so that one set of weights serves
/// every budget: some of the sequences at β = 1, some at the least budget, the rest at a uniform one. q is 1 for most of them, in
/// which the routers' thresholds T(β) are controlled, and uniform for the others. In the first part of training all may have the
/// full budget (what is shrunk has been learned first: Cai et al., "Once for all", 2020); in a later part some sequences appear
/// twice, at full and at a lower budget (twins).

#include <hybridmoe/core/random.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

/// What the rows of an evaluation, or all rows of a training without sampling, may spend.
struct Condition {
  double budget = 1;  ///< β in [0, 1]
  double target = 1;  ///< q in [0, 1]; 1: spend the budget
};

struct Budgets {
  bool sampled = false;  ///< draw β and q per sequence; otherwise every row has `fixed`
  Condition fixed{};
  double least = 0;         ///< the lowest budget that is drawn
  double full_until = 0;    ///< the part of training in which every row has β = q = 1, before any other is drawn
  double at_full = 0.5;     ///< the part of the sequences that have β = 1
  double at_least = 0.125;  ///< the part of the sequences that have the lowest budget; the others draw one uniformly
  double at_target = 0.8;   ///< the part of the sequences that have q = 1; the others draw one uniformly
  double price = 0.05;      ///< λ₀: the auxiliary loss of a row with target 0 that spends all of C(1)
  double twins_from = 0.5;  ///< the part of training after which a quarter of the sequences have a twin; 1: never
  double twin_loss = 1;     ///< weight of KL(full twin, held constant ‖ low twin), per token
  double gain_loss = 0.01;  ///< weight of (c − rank of the gain from computing)², per token
};

/// The draw of a step: how many of the batch's sequences are twins of others, and each sequence's β and q.
class BudgetDraw {
 public:
  BudgetDraw(const Budgets& budgets, random::Key key, std::uint64_t micro, Index batch, double progress)
      : budgets_(budgets), key_(key), micro_(micro), batch_(batch) {
    sampled_ = budgets.sampled && (budgets.full_until <= 0 || progress >= budgets.full_until);
    twins_ = sampled_ && budgets.twins_from < 1 && progress >= budgets.twins_from ? batch / 4 : 0;
  }
  /// Sequences 0 … twins()−1 are at full budget, and twins() … 2·twins()−1 hold the same windows at a lower one.
  Index twins() const { return twins_; }
  /// Whether twin pair `pair` is one at the least budget, whose gain from computing teaches the complexity.
  bool at_least(Index pair) const { return pair % 2 == 0; }
  /// Which of the step's windows a sequence shows: twins share one, and the step's last twins() windows are passed over.
  Index window(Index sequence) const { return sequence < twins_ ? sequence : sequence - twins_; }

  Condition of(Index sequence) const {
    if (!budgets_.sampled) return budgets_.fixed;
    if (!sampled_) return {};
    const double drawn = budgets_.least + (1 - budgets_.least) * uniform(sequence, 0);
    if (sequence < twins_) return {1, target(sequence)};
    if (sequence < 2 * twins_) {  // only the budget differs from its twin's
      const Index full = sequence - twins_;
      return {at_least(full) ? budgets_.least : drawn, target(full)};
    }
    // Evenly spread places in [0, 1), turned by a random part of a circle: parts are exact where the batch allows.
    const double others = static_cast<double>(batch_ - 2 * twins_);
    double place = (static_cast<double>(sequence - 2 * twins_) + 0.5) / others + uniform(0, 2);
    place -= place >= 1 ? 1 : 0;
    return {place < budgets_.at_full                       ? 1
            : place < budgets_.at_full + budgets_.at_least ? budgets_.least
                                                           : drawn,
            target(sequence)};
  }

 private:
  double uniform(Index sequence, int word) const {
    const std::uint64_t place = micro_ * static_cast<std::uint64_t>(batch_) + static_cast<std::uint64_t>(sequence);
    return static_cast<double>(random::uniform(random::draw(key_, 0x62756467u, place).word[word]));
  }
  double target(Index sequence) const {
    const double u = uniform(sequence, 1);
    return u < budgets_.at_target ? 1.0 : (u - budgets_.at_target) / (1 - budgets_.at_target);
  }
  Budgets budgets_;
  random::Key key_;
  std::uint64_t micro_;
  Index batch_, twins_ = 0;
  bool sampled_ = false;
};

}  // namespace hybridmoe::train
