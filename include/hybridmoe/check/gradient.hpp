#pragma once
/// @file gradient.hpp
/// Law 3: backward is the derivative of Σ y·dy (plus the auxiliary losses), and it adds to what dx and the gradient hold.

#include <algorithm>
#include <cmath>

#include <hybridmoe/check/subject.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// Compares backward with central differences. No step is searched for: the formula of order four with one step and with half
/// of it must agree with each other, which they do unless a choice (of experts, of a branch) flips between the points; such a
/// point is left out, and counted. What agrees is then held against backward, with one tolerance.
class GradientCheck {
 public:
  static constexpr double step = 4e-4;
  static constexpr double tolerance = 1e-6;

  GradientCheck(Subject<double>& subject, const Options& options, Report& report)
      : subject_(subject),
        options_(options),
        report_(report),
        dice_(options.seed, "gradient"),
        plan_(whole_sequences(gradient_lengths(subject.facts, options))) {}

  void run() {
    const Index count = plan_.rows() * subject_.facts.width;
    parameters_ = subject_.random_parameters(options_.seed + 1);
    subject_.set_parameters(parameters_);
    training_.auxiliary = options_.auxiliary;
    training_.x = x_ = dice_.normals<double>(count);
    training_.dy = dy_ = dice_.normals<double>(count);
    const std::vector<double> dx_before = dice_.normals<double>(count);
    const std::vector<double> gradient_before = dice_.normals<double>(subject_.facts.elements);
    training_.dx = dx_before;
    training_.gradient = gradient_before;
    subject_.train(plan_, training_);
    std::vector<double> dx = training_.dx, gradient = training_.gradient;
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] -= dx_before[i];
    for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] -= gradient_before[i];
    for (std::size_t i = 0; i < dy_.size(); ++i) size_ += std::abs(dy_[i] * training_.y[i]);
    training_.dy.clear();  // from here on forward alone

    tensor("dx", x_, dx.data(), 0, count);
    for (const TensorFacts& facts : subject_.facts.tensors) {
      if (!facts.learned()) continue;  // what its rule reads there is no derivative
      tensor("the gradient of " + facts.name, parameters_, gradient.data() + facts.offset, facts.offset, facts.size);
    }
    subject_.set_parameters(parameters_);
    if (report_.skipped > looked_at_ / 2) {
      report_.fail("law 3: " + std::to_string(report_.skipped) + " of " + std::to_string(looked_at_) +
                   " derivatives could not be told: forward is not smooth there");
    }
  }

 private:
  /// Σ y·dy + auxiliary losses.
  double value() {
    training_.x = x_;
    subject_.train(plan_, training_);
    double sum = options_.auxiliary * training_.loss;
    for (std::size_t i = 0; i < dy_.size(); ++i) sum += training_.y[i] * dy_[i];
    return sum;
  }

  /// A random direction and some elements of at[first … first+count−1], whose gradient is claimed to be `gradient`.
  void tensor(const std::string& what, std::vector<double>& at, const double* gradient, Index first, Index count) {
    std::vector<double> along = dice_.normals<double>(count);
    double square = 0, length = 0;
    for (Index i = 0; i < count; ++i) square += gradient[i] * gradient[i];
    for (const double v : along) length += v * v;
    for (double& v : along) v /= std::sqrt(length);
    const double typical = std::sqrt(square / static_cast<double>(count));
    compare(what + " along a random direction", at, gradient, first, along, typical);
    for (int sample = 0; sample < options_.samples; ++sample) {
      const Index i = dice_.between(0, count - 1);
      compare(what + ", element " + std::to_string(i), at, gradient + i, first + i, {1.0}, typical);
    }
  }

  void compare(const std::string& what, std::vector<double>& at, const double* gradient, Index first,
               const std::vector<double>& along, double typical) {
    const std::vector<double> saved = at;
    const auto moved = [&](double distance) {
      for (std::size_t i = 0; i < along.size(); ++i) at[to_size(first) + i] = saved[to_size(first) + i] + distance * along[i];
      if (&at == &parameters_) subject_.set_parameters(parameters_);
      return value();
    };
    const double one = moved(step) - moved(-step);
    const double coarse = (8 * one - (moved(2 * step) - moved(-2 * step))) / (12 * step);
    const double fine = (8 * (moved(step / 2) - moved(-step / 2)) - one) / (6 * step);
    at = saved;
    if (&at == &parameters_) subject_.set_parameters(parameters_);

    double analytic = 0;
    for (std::size_t i = 0; i < along.size(); ++i) analytic += gradient[i] * along[i];
    const double allowed = tolerance * (std::abs(fine) + typical) + 1e-10 * size_;
    ++looked_at_;
    if (!(std::abs(coarse - fine) <= allowed)) {
      ++report_.skipped;
      return;
    }
    ++report_.comparisons;
    if (!(std::abs(analytic - fine) <= allowed)) {
      report_.fail("law 3: " + what + ": backward added " + number(analytic) + ", differences give " + number(fine));
    }
  }

  Subject<double>& subject_;
  const Options& options_;
  Report& report_;
  Dice dice_;
  BatchPlan plan_;
  Training<double> training_;
  std::vector<double> parameters_, x_, dy_;
  double size_ = 0;  ///< of the sum that is differentiated: its rounding errors grow with it
  Index looked_at_ = 0;
};

}  // namespace hybridmoe::check
