#pragma once
/// @file schedule.hpp
/// Learning rate over steps: linear warmup, then constant, cosine (Loshchilov and Hutter, "SGDR", 2017) or warmup-stable-decay
/// (Hu et al., "MiniCPM", 2024).

#include <cmath>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

enum class Shape {
  constant,
  cosine,              ///< half a cosine from the peak to `last`·peak at `steps`
  warmup_stable_decay  ///< the peak until steps − decay, then linearly down to `last`·peak
};

struct Schedule {
  Shape shape = Shape::cosine;
  double peak = 1e-3;  ///< highest learning rate
  Index warmup = 100;  ///< steps of linear growth; step 0 already moves
  Index steps = 1000;  ///< where the schedule ends; later steps keep the last rate
  double last = 0.1;   ///< final rate as a fraction of the peak
  Index decay = 200;   ///< warmup_stable_decay: length of the decay

  /// The rate of step 0, 1, ….
  double rate(Index step) const {
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
    const double final_rate = peak * last;
    switch (shape) {
      case Shape::constant:
        return peak;
      case Shape::cosine: {
        if (step >= steps) return final_rate;
        const double progress = static_cast<double>(step - warmup) / static_cast<double>(larger(1, steps - warmup));
        return final_rate + (peak - final_rate) * 0.5 * (1 + std::cos(3.14159265358979323846 * progress));
      }
      case Shape::warmup_stable_decay: {
        const Index begin = larger(warmup, steps - decay);
        if (step < begin) return peak;
        if (step >= steps) return final_rate;
        return peak + (final_rate - peak) * static_cast<double>(step - begin) / static_cast<double>(steps - begin);
      }
    }
    return peak;
  }
};

}  // namespace hybridmoe::train
