#pragma once
/// @file count_laws.hpp
/// Law 5 on a Subject: what a layer declares about its size and cost is what can be counted.

#include <algorithm>
#include <cstring>

#include <hybridmoe/check/subject.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// Law 5: the tensors that visit() lists fill `end` bytes, of numbers of `element` bytes, without gap or overlap.
inline void tensors_cover(const std::vector<TensorFacts>& tensors, Index end, Index element, const std::string& storage,
                          Report& report) {
  Index covered = 0, listed = 0;
  std::string last = "the beginning";
  while (covered < end) {
    const TensorFacts* next = nullptr;
    for (const TensorFacts& tensor : tensors) {
      if (tensor.first_byte >= covered && (next == nullptr || tensor.first_byte < next->first_byte)) next = &tensor;
    }
    const Index gap = (next == nullptr ? end : next->first_byte) - covered;
    if (gap > 0) {
      report.fail("law 5: visit leaves out " + std::to_string(gap / element) + " elements after " + last + " (" + storage + ")");
    }
    if (next == nullptr) break;
    last = next->name;
    covered = next->first_byte + next->bytes;
  }
  for (const TensorFacts& tensor : tensors) {
    listed += tensor.bytes;
    const auto same = [&](const TensorFacts& other) { return other.name == tensor.name; };
    if (&*std::find_if(tensors.begin(), tensors.end(), same) != &tensor) {
      report.fail("law 5: visit lists two tensors named " + tensor.name);
    }
  }
  if (listed > end || covered > end)
    report.fail("law 5: visit lists some elements twice, or none of the struct's (" + storage + ")");
  report.comparisons += to_index(tensors.size()) + 1;
}

/// What parameters one token meets.
struct Touched {
  Index elements = 0;
  Index in_matrices = 0;
};

/// Counts the tensors without which the last row of a sequence would have come out otherwise.
template <class T>
Touched touched_by_a_token(Subject<T>& subject, const Options& options) {
  const LayerFacts& facts = subject.facts;
  BatchPlan plan;
  plan.add(0, 0, gradient_lengths(facts, options).front());
  const Index last = (plan.rows() - 1) * facts.width;
  std::vector<T> parameters = subject.random_parameters(options.seed + 3);
  Training<T> run;
  run.x = Dice(options.seed, "touched").normals<T>(plan.rows() * facts.width);
  subject.set_parameters(parameters);
  subject.train(plan, run);
  const std::vector<T> base = run.y;
  Touched touched;
  for (const TensorFacts& tensor : facts.tensors) {
    std::vector<T> moved = parameters;
    for (Index i = 0; i < tensor.size; ++i)
      moved[to_size(tensor.offset + i)] = moved[to_size(tensor.offset + i)] * T(1.25) + T(0.1);
    subject.set_parameters(moved);
    subject.train(plan, run);
    if (std::memcmp(run.y.data() + last, base.data() + last, to_size(facts.width) * sizeof(T)) == 0) continue;
    touched.elements += tensor.size;
    if (tensor.columns > 0) touched.in_matrices += tensor.size;
  }
  subject.set_parameters(parameters);
  return touched;
}

/// A batch of fewer rows or sequences must fit where a larger one does.
inline void plans_grow(const LayerFacts& facts, Report& report) {
  for (const bool training : {false, true}) {
    for (const Index rows : {Index{1}, Index{2}, Index{7}, Index{8}, Index{31}, facts.chunk, 2 * facts.chunk}) {
      for (Index sequences = 1; sequences <= 3; ++sequences) {
        for (const Extent wider : {Extent{rows + 1, sequences, training}, Extent{rows, sequences + 1, training}}) {
          const Extent extent{rows, sequences, training};
          report.comparisons += 2;
          if (facts.tape_bytes(extent) > facts.tape_bytes(wider)) report.fail("law 5: a larger batch plans a smaller tape");
          if (facts.workspace_bytes(extent) > facts.workspace_bytes(wider))
            report.fail("law 5: a larger batch declares less workspace");
        }
      }
    }
  }
}

/// Parameters, active parameters, operations, states.
template <class T>
void declared_counts(Subject<T>& subject, const Options& options, Report& report) {
  const LayerFacts& facts = subject.facts;
  const auto declares = [&](bool holds, const std::string& sentence) {
    ++report.comparisons;
    if (!holds) report.fail("law 5: " + sentence);
  };
  plans_grow(facts, report);

  const Spread active = facts.active;
  declares(0 <= active.least && active.least <= active.target && active.target <= active.most && active.most <= facts.elements,
           "active_parameters() must have least <= target <= most <= all parameters");
  const Touched touched = touched_by_a_token(subject, options);
  declares(active.least <= touched.elements && touched.elements <= active.most,
           "a token meets " + std::to_string(touched.elements) + " parameters, and active_parameters() declares " +
               std::to_string(active.least) + " to " + std::to_string(active.most));

  const Flops one = facts.flops(1), late = facts.flops(facts.context);
  if (active.least == active.most) {
    declares(one.forward >= 1.9 * static_cast<double>(touched.in_matrices),
             "flops_per_token declares " + number(one.forward) + " operations forward, less than its matrices alone take");
  }
  declares(one.training >= 2 * one.forward && one.training <= 6 * one.forward,
           "flops_per_token must take training (forward and backward) for about three times forward");
  declares(late.forward >= one.forward && late.training >= one.training, "flops_per_token shrinks with the context");

  const Index held = facts.state_bytes / static_cast<Index>(sizeof(T));
  const Index carried = facts.recurrent_elements + facts.cache_elements(facts.context);
  declares(facts.recurrent_elements >= 0 && carried <= held, "recurrent_elements and cache_elements declare " +
                                                                 std::to_string(carried) + " elements, and State has " +
                                                                 std::to_string(held));
}

}  // namespace hybridmoe::check
