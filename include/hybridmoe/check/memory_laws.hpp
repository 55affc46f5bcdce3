#pragma once
/// @file memory_laws.hpp
/// Law 4 on a Subject: gradients come from written memory only, and places agree.

#include <algorithm>
#include <cmath>
#include <cstring>

#include <hybridmoe/check/subject.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// A training call with random rows, whose dx and gradient start at zero.
template <class T>
Training<T> random_training(const LayerFacts& facts, Index rows, const Options& options) {
  Dice dice(options.seed, "training");
  Training<T> run;
  run.x = dice.normals<T>(rows * facts.width);
  run.dy = dice.normals<T>(rows * facts.width);
  run.auxiliary = options.auxiliary;
  run.dx.assign(run.x.size(), T(0));
  run.gradient.assign(to_size(facts.elements), T(0));
  return run;
}

template <class T>
bool equal_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// The results of a training call do not depend on what memory held before, and its scratch is what was declared.
template <class T>
void backward_memory(Subject<T>& subject, const Options& options, Report& report) {
  BatchPlan plan = whole_sequences(gradient_lengths(subject.facts, options));
  subject.set_parameters(subject.random_parameters(options.seed + 2));
  const Training<T> start = random_training<T>(subject.facts, plan.rows(), options);
  Training<T> nan = start, zero = start;
  zero.poison = 0;
  subject.train(plan, nan);
  const Index used = subject.workspace_used;
  subject.train(plan, zero);
  report.comparisons += to_index(nan.y.size() + nan.dx.size() + nan.gradient.size());
  const auto finite = [](const std::vector<T>& values) {
    return std::all_of(values.begin(), values.end(), [](T v) { return math::is_finite(v); });
  };
  if (!finite(nan.dx) || !finite(nan.gradient)) {
    report.fail("law 4: backward computes gradients from memory that nobody wrote");
  } else if (!equal_bits(nan.dx, zero.dx) || !equal_bits(nan.gradient, zero.gradient) || !equal_bits(nan.y, zero.y)) {
    report.fail("law 4: outputs or gradients depend on what scratch, tape or y held before the call");
  }
  scratch_is_declared(used, subject.facts.workspace_bytes({plan.rows(), plan.sequences(), true}), plan.rows(), "a training call",
                      report);
  report.add_bits(nan.y);
  report.add_bits(nan.dx);
  report.add_bits(nan.gradient);
}

/// Outputs, auxiliary losses and gradients of a training call agree with those of the same layer on Inline (with the same
/// numbers), or in double, within a tolerance times the spread of each tensor's values.
template <class T, class U>
void agreement(Subject<T>& subject, Subject<U>& reference, const Options& options, Report& report) {
  constexpr bool same = std::is_same_v<T, U>;
  constexpr const char* who = same ? "Inline" : "double";
  constexpr double tolerance = std::is_same_v<T, double> ? 1e-12 : same ? 1e-5 : 1e-3;
  const auto converted = [](const std::vector<T>& values) { return std::vector<U>(values.begin(), values.end()); };
  BatchPlan plan = whole_sequences(gradient_lengths(subject.facts, options));
  const std::vector<T> parameters = subject.random_parameters(options.seed + 2);
  Training<T> run = random_training<T>(subject.facts, plan.rows(), options);
  Training<U> expected;
  expected.x = converted(run.x);
  expected.dy = converted(run.dy);
  expected.dx = converted(run.dx);
  expected.gradient = converted(run.gradient);
  expected.auxiliary = run.auxiliary;
  subject.set_parameters(parameters);
  reference.set_parameters(converted(parameters));
  subject.train(plan, run);
  reference.train(plan, expected);

  const auto spread = [](const std::vector<U>& values, Index first, Index size) {
    double most = 0;
    for (Index i = first; i < first + size; ++i) most = (std::max)(most, std::abs(static_cast<double>(values[to_size(i)])));
    return most;
  };
  const auto compare = [&](const std::string& what, const std::vector<T>& got, const std::vector<U>& wanted, Index first,
                           Index size) {
    double worst = 0;
    for (Index i = first; i < first + size; ++i) {
      const double difference = std::abs(static_cast<double>(got[to_size(i)]) - static_cast<double>(wanted[to_size(i)]));
      worst = difference <= worst ? worst : difference;  // a NaN stays
    }
    // A gradient that is zero but for rounding has no spread of its own.
    const double all = (std::max)(spread(wanted, first, size), 0.01 * spread(wanted, 0, to_index(wanted.size())));
    report.comparisons += size;
    if (!(worst <= tolerance * all)) {
      report.fail("law 4: " + what + " differs from " + who + " by " + number(worst) + ", with values up to " + number(all));
    }
  };
  compare("y", run.y, expected.y, 0, to_index(run.y.size()));
  compare("the auxiliary loss", {static_cast<T>(run.loss)}, {static_cast<U>(expected.loss)}, 0, 1);
  compare("dx", run.dx, expected.dx, 0, to_index(run.dx.size()));
  for (const TensorFacts& tensor : subject.facts.tensors) {
    compare("the gradient of " + tensor.name, run.gradient, expected.gradient, tensor.offset, tensor.size);
  }
}

}  // namespace hybridmoe::check
