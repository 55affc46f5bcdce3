#pragma once
/// @file subject.hpp
/// A layer at a place as the laws see it: host vectors in, host vectors out. The laws are compiled once per number type, and a
/// layer adds only what subject_of.hpp needs to run it.

#include <string>
#include <vector>

#include <hybridmoe/check/report.hpp>
#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/layer/layer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// A tensor that visit() lists.
struct TensorFacts {
  std::string name;
  Trait trait;
  Index first_byte = 0;  ///< within the parameter struct
  Index bytes = 0;
  Index offset = 0;  ///< first element within the flat parameters
  Index size = 0;
  Index columns = 0;  ///< of a matrix (rank 2 or more); otherwise 0

  bool learned() const { return trait.update == Update::gradient; }  ///< its gradient is the loss's
};

/// What the laws ask of a layer's type.
struct LayerFacts {
  Index width = 0, context = 0, chunk = 0;
  Index elements = 0;     ///< of flat parameters
  Index state_bytes = 0;  ///< of one sequence's state
  bool causal = true;
  std::vector<TensorFacts> tensors;
  Spread active{};
  Flops (*flops)(Index context) = nullptr;
  Index recurrent_elements = 0;
  Index (*cache_elements)(Index context) = nullptr;
  Index (*tape_bytes)(Extent) = nullptr;
  Index (*workspace_bytes)(Extent) = nullptr;
};

/// One training call: whole sequences, forward and (if dy is given) backward.
template <class T>
struct Training {
  std::vector<T> x, dy;
  double auxiliary = 0;
  unsigned char poison = 0xff;  ///< what y, the tape and the scratch are filled with beforehand (0xff… is a NaN)
  std::vector<T> y;
  std::vector<T> dx, gradient;  ///< what they hold beforehand, then what backward made of them
  double loss = 0;              ///< the auxiliary losses
};

template <class T>
class Subject {
 public:
  virtual ~Subject() = default;

  LayerFacts facts;
  std::vector<std::string> faults;  ///< memory that was not written, or that should not have been
  Index workspace_used = -1;        ///< most scratch that the last call took, where it can be told
  std::uint64_t (*allocations)() = nullptr;
  Index allocated = 0;  ///< allocations within the calls of step(), where they can be told

  /// Random parameters, scaled so that outputs stay of the order of 1.
  virtual std::vector<T> random_parameters(std::uint64_t seed) = 0;
  /// Takes flat parameters (and packs them if the subject's storage is packed).
  virtual void set_parameters(const std::vector<T>& flat) = 0;
  virtual void train(BatchPlan& plan, Training<T>& run) = 0;
  /// Makes `slots` states, filled with NaN.
  virtual void begin(Index slots) = 0;
  /// A call with states; returns y.
  virtual std::vector<T> step(BatchPlan& plan, const std::vector<T>& x) = 0;

 protected:
  void fault(std::string sentence) {
    for (const std::string& earlier : faults) {
      if (earlier == sentence) return;
    }
    faults.push_back(std::move(sentence));
  }
};

/// Law 5: scratch that was taken (negative: not known) and declared. Nothing may lie beyond what is declared; a layer of parts
/// declares the most of any part, which may be a little more than the parts take together.
inline void scratch_is_declared(Index used, Index declared, Index rows, const std::string& what, Report& report) {
  ++report.comparisons;
  if (used < 0 || (used <= declared && declared <= used + used / 8 + 256)) return;
  report.fail("law 5: " + what + " takes " + std::to_string(used) + " bytes of scratch for " + std::to_string(rows) +
              " rows, and workspace_bytes declares " + std::to_string(declared));
}

/// The sequences of laws 3 and 4: one over a chunk's end, one of a single row, one short.
inline std::vector<Index> gradient_lengths(const LayerFacts& facts, const Options& options) {
  const Index longest = options.gradient_length > 0 ? options.gradient_length : larger(facts.chunk + 3, 12);
  return {smaller(longest, facts.context), 1, smaller(5, facts.context)};
}

inline BatchPlan whole_sequences(const std::vector<Index>& lengths) {
  BatchPlan plan;
  for (Index s = 0; s < to_index(lengths.size()); ++s) plan.add(s, 0, lengths[to_size(s)]);
  return plan;
}

}  // namespace hybridmoe::check
