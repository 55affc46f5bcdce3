#pragma once
/// @file forward_laws.hpp
/// Laws 1 and 2 on a Subject; on the way law 4 on unwritten memory, and law 5 on the scratch and allocations of calls with
/// states.

#include <algorithm>
#include <cstring>

#include <hybridmoe/check/subject.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// A piece of a sequence in a call.
struct Piece {
  Index sequence, count;
};
using Calls = std::vector<std::vector<Piece>>;

/// Laws 1 and 2, and of law 4 what concerns unwritten memory.
template <class T>
class ForwardLaws {
 public:
  ForwardLaws(Subject<T>& subject, const Options& options, Report& report)
      : subject_(subject), options_(options), report_(report), dice_(options.seed, "forward") {
    const LayerFacts& facts = subject.facts;
    const Index longest = smaller(facts.context, options.length > 0 ? options.length : 2 * facts.chunk + 5);
    lengths_ = {longest, 1, dice_.between(1, longest), smaller(longest, facts.chunk), dice_.between(1, longest)};
    Index rows = 0;
    for (const Index length : lengths_) {
      first_.push_back(rows);
      rows += length;
    }
    parameters_ = subject.random_parameters(options.seed);
    x_ = dice_.normals<T>(rows * facts.width);
  }

  void run() {
    subject_.set_parameters(parameters_);
    one_by_one();
    together();
    if (subject_.facts.causal) {
      earlier_rows();
      with_states(subject_, "");
    }
    report_.add_bits(expected_);
  }

  /// The laws of forward for the same layer with another storage.
  void repeat(Subject<T>& other) {
    other.set_parameters(parameters_);
    if (subject_.facts.causal) with_states(other, " (packed)");
    for (const std::string& fault : other.faults) report_.fail(fault + " (packed)");
  }

 private:
  Index width() const { return subject_.facts.width; }
  Index sequences() const { return to_index(lengths_.size()); }

  std::vector<T> rows_of(Index sequence, Index from, Index count) const {
    const auto begin = x_.begin() + (first_[to_size(sequence)] + from) * width();
    return std::vector<T>(begin, begin + count * width());
  }

  /// Compares the rows of one piece with what a training call of the sequence alone gave.
  void same_bits(const T* got, Index sequence, Index from, Index count, const std::string& how) {
    report_.comparisons += count * width();
    for (Index row = 0; row < count; ++row) {
      const T* const expected = expected_.data() + (first_[to_size(sequence)] + from + row) * width();
      if (std::memcmp(got + row * width(), expected, to_size(width()) * sizeof(T)) == 0) continue;
      Index c = 0;
      while (std::memcmp(got + row * width() + c, expected + c, sizeof(T)) == 0) ++c;
      return report_.fail("law 1: " + how + ", position " + std::to_string(from + row) + " of a sequence of " +
                          std::to_string(lengths_[to_size(sequence)]) +
                          " has other bits than in a training call of that sequence alone (column " + std::to_string(c) + ": " +
                          number(static_cast<double>(got[row * width() + c])) + " against " +
                          number(static_cast<double>(expected[c])) + ")");
    }
  }

  /// What everything else is held against: every sequence in a training call of its own.
  void one_by_one() {
    for (Index s = 0; s < sequences(); ++s) {
      BatchPlan plan;
      plan.add(0, 0, lengths_[to_size(s)]);
      Training<T> run;
      run.x = rows_of(s, 0, lengths_[to_size(s)]);
      subject_.train(plan, run);
      expected_.insert(expected_.end(), run.y.begin(), run.y.end());
    }
  }

  /// All sequences in one training call, in any order, whatever memory held before.
  void together() {
    std::vector<Index> order;
    for (Index s = 0; s < sequences(); ++s) order.push_back(s);
    for (int trial = 0; trial < options_.trials; ++trial) {
      dice_.shuffle(order);
      BatchPlan plan;
      Training<T> run;
      for (const Index s : order) {
        plan.add(s, 0, lengths_[to_size(s)]);
        const std::vector<T> rows = rows_of(s, 0, lengths_[to_size(s)]);
        run.x.insert(run.x.end(), rows.begin(), rows.end());
      }
      if (trial == 0) run.poison = 0;  // beside the NaN of the other calls
      subject_.train(plan, run);
      const T* got = run.y.data();
      for (const Index s : order) {
        same_bits(got, s, 0, lengths_[to_size(s)], "in a training call of several sequences");
        got += lengths_[to_size(s)] * width();
      }
    }
  }

  /// Law 2.
  void earlier_rows() {
    BatchPlan plan = whole_sequences(lengths_);
    for (int trial = 0; trial < 2 * options_.trials; ++trial) {
      const Index s = trial == 0 ? 0 : dice_.between(0, sequences() - 1);
      const Index length = lengths_[to_size(s)], t = trial == 0 ? length - 1 : dice_.between(0, length - 1);
      const Index changed = first_[to_size(s)] + t;
      Training<T> run;
      run.x = x_;
      for (Index c = 0; c < width(); ++c) run.x[to_size(changed * width() + c)] += static_cast<T>(dice_.normal());
      subject_.train(plan, run);
      const auto same = [&](Index from, Index to) {
        report_.comparisons += (to - from) * width();
        return std::memcmp(run.y.data() + from * width(), expected_.data() + from * width(),
                           to_size((to - from) * width()) * sizeof(T)) == 0;
      };
      const Index end = first_[to_size(s)] + length, rows = plan.rows();
      if (!same(first_[to_size(s)], changed)) report_.fail("law 2: a changed token changes outputs before it");
      if (!same(0, first_[to_size(s)]) || !same(end, rows))
        report_.fail("law 2: a changed token changes outputs of another sequence");
      if (same(changed, end)) report_.fail("law 2: a changed token changes no output at all");
    }
  }

  void with_states(Subject<T>& subject, const std::string& storage) {
    Calls whole, rows;
    for (Index s = 0; s < sequences(); ++s) {
      for (Index from = 0; from < lengths_[to_size(s)]; from += subject.facts.chunk) {
        whole.push_back({{s, smaller(subject.facts.chunk, lengths_[to_size(s)] - from)}});
      }
      for (Index row = 0; row < lengths_[to_size(s)]; ++row) rows.push_back({{s, 1}});
    }
    feed(subject, whole, "in the longest chunks" + storage);
    feed(subject, rows, "row by row" + storage);
    for (int trial = 0; trial < options_.trials; ++trial) {
      feed(subject, random_calls(1), "in random chunks" + storage);
      feed(subject, random_calls(sequences()), "in random chunks of several sequences" + storage);
    }
  }

  /// Random divisions of all sequences; a call takes up to `most` of them.
  Calls random_calls(Index most) {
    Calls calls;
    std::vector<Index> left = lengths_, open;
    for (Index s = 0; s < sequences(); ++s) open.push_back(s);
    while (!open.empty()) {
      dice_.shuffle(open);
      std::vector<Piece> call;
      const Index taken = dice_.between(1, smaller(most, to_index(open.size())));
      for (Index i = 0; i < taken; ++i) {
        const Index s = open[to_size(i)];
        const Index count = dice_.between(1, smaller(left[to_size(s)], subject_.facts.chunk));
        left[to_size(s)] -= count;
        call.push_back({s, count});
      }
      calls.push_back(call);
      open.erase(std::remove_if(open.begin(), open.end(), [&](Index s) { return left[to_size(s)] == 0; }), open.end());
    }
    return calls;
  }

  /// Makes the calls with states in random slots and compares every row.
  void feed(Subject<T>& subject, const Calls& calls, const std::string& how) {
    std::vector<Index> slots;
    for (Index s = 0; s < sequences() + 2; ++s) slots.push_back(s);
    dice_.shuffle(slots);
    subject.begin(to_index(slots.size()));
    std::vector<Index> position(lengths_.size(), 0);
    for (const std::vector<Piece>& call : calls) {
      BatchPlan plan;
      std::vector<T> x;
      for (const Piece& piece : call) {
        plan.add(slots[to_size(piece.sequence)], position[to_size(piece.sequence)], piece.count);
        const std::vector<T> rows = rows_of(piece.sequence, position[to_size(piece.sequence)], piece.count);
        x.insert(x.end(), rows.begin(), rows.end());
      }
      const std::vector<T> y = subject.step(plan, x);
      const T* got = y.data();
      for (const Piece& piece : call) {
        same_bits(got, piece.sequence, position[to_size(piece.sequence)], piece.count, how);
        position[to_size(piece.sequence)] += piece.count;
        got += piece.count * width();
      }
      scratch_is_declared(subject.workspace_used, subject.facts.workspace_bytes({plan.rows(), plan.sequences(), false}),
                          plan.rows(), "forward with states", report_);
    }
    if (subject.allocated > 0) {
      report_.fail("law 5: a forward with states allocates memory " + std::to_string(subject.allocated) + " times");
      subject.allocated = 0;
    }
  }

  Subject<T>& subject_;
  const Options& options_;
  Report& report_;
  Dice dice_;
  std::vector<Index> lengths_, first_;
  std::vector<T> parameters_, x_, expected_;
};

}  // namespace hybridmoe::check
