#pragma once
// Runs a description's forward and backward on memory of exactly the declared size, filled with NaN beforehand.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/model/language_model.hpp>
#include <hybridmoe/model/model.hpp>
#include <support/numbers.hpp>

namespace test {

using hybridmoe::Index;
using hybridmoe::to_size;

/// Bytes on a cache line, with a guard behind them.
class Poisoned {
 public:
  explicit Poisoned(Index bytes) : bytes_(bytes), memory_(to_size(bytes + 128 + guard), std::byte{0xff}) {}
  std::byte* data() { return memory_.data() + (64 - reinterpret_cast<std::uintptr_t>(memory_.data()) % 64); }
  std::byte* end() { return data() + bytes_; }
  void poison() { std::fill(memory_.begin(), memory_.end(), std::byte{0xff}); }
  bool guarded() {
    return std::all_of(end(), end() + guard, [](std::byte b) { return b == std::byte{0xff}; });
  }

 private:
  static constexpr Index guard = 4096;
  Index bytes_;
  std::vector<std::byte> memory_;
};

template <class T>
bool same_bits(const T* a, const T* b, Index count) {
  return std::memcmp(a, b, to_size(count) * sizeof(T)) == 0;
}

/// Random tokens of a vocabulary.
inline std::vector<std::int32_t> random_tokens(Index count, Index vocab, std::uint64_t seed) {
  std::vector<std::int32_t> tokens;
  for (const double n : numbers(count, seed, 1e6))
    tokens.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(n < 0 ? -n : n) % vocab));
  return tokens;
}

/// What each row may spend and is to reach; empty: 1.
template <class T>
struct Conditions {
  std::vector<T> budget, target;

  /// A budget and a target for each row, mixed.
  static Conditions mixed(Index rows, std::uint64_t seed) {
    Conditions result;
    const std::vector<double> a = numbers(rows, seed, 1.0), b = numbers(rows, seed + 1, 1.0);
    for (Index row = 0; row < rows; ++row) {
      // Every fifth row may spend all, every seventh nothing.
      const auto part = [](double n) { return std::fmin(1.0, std::fabs(n)); };
      result.budget.push_back(static_cast<T>(row % 5 == 0 ? 1.0 : row % 7 == 0 ? 0.0 : part(a[to_size(row)])));
      result.target.push_back(static_cast<T>(row % 3 == 0 ? 1.0 : part(b[to_size(row)])));
    }
    return result;
  }
  Conditions part(Index begin, Index count) const {
    const auto cut = [&](const std::vector<T>& from) {
      return from.empty() ? from : std::vector<T>(from.begin() + begin, from.begin() + begin + count);
    };
    return {cut(budget), cut(target)};
  }
  void append(const Conditions& other) {
    budget.insert(budget.end(), other.budget.begin(), other.budget.end());
    target.insert(target.end(), other.target.begin(), other.target.end());
  }
  void give(hybridmoe::Side& side) const {
    if (!budget.empty()) side.set<hybridmoe::stream::Budget, T>(budget.data(), nullptr, 1);
    if (!target.empty()) side.set<hybridmoe::stream::Target, T>(target.data(), nullptr, 1);
  }
};

/// How a training call is made.
struct How {
  bool recompute = false;
  float dropout = 0;
  double auxiliary = 1;
  bool gradient = true;
  hybridmoe::Twins twins{};
};

/// One training call of whole sequences.
template <class D, class T>
class TrainingRun {
 public:
  std::vector<Index> lengths;
  std::vector<std::int32_t> tokens, targets;  ///< of all sequences, one after the other; target −1: does not count
  Conditions<T> conditions{};

  // What run() leaves.
  double loss = 0, auxiliary = 0;  ///< mean cross-entropy of the targets; Σ of the layers' auxiliary losses (unless recomputed)
  std::vector<T> gradient, hidden, logits, complexity;  ///< complexity: empty in models that do not estimate it
  Index bytes_used = 0;

  TrainingRun(std::vector<Index> lengths_, std::uint64_t seed) : lengths(std::move(lengths_)) {
    tokens = random_tokens(rows(), D::vocab, seed);
    targets = random_tokens(rows(), D::vocab, seed + 1);
    targets[0] = targets[to_size(rows()) / 2] = -1;
  }
  Index rows() const {
    Index sum = 0;
    for (const Index length : lengths) sum += length;
    return sum;
  }
  Index counted() const {
    return static_cast<Index>(std::count_if(targets.begin(), targets.end(), [](std::int32_t t) { return t >= 0; }));
  }

  void run(const std::vector<T>& parameters, const How& how = {}) {
    using Space = hybridmoe::exec::Inline;
    hybridmoe::BatchPlan plan;
    for (const Index length : lengths) plan.add(0, 0, length);
    const std::vector<Index> arrays(plan.data(), plan.data() + plan.count());
    const hybridmoe::Extent extent{rows(), plan.sequences(), true};
    Poisoned memory(D::template training_bytes<T>(extent, how.recompute));
    std::byte* peak = memory.data();
    hybridmoe::Call<Space> call;
    call.batch = plan.view(arrays.data());
    call.arena = {memory.data(), memory.end(), &peak};
    call.training = true;
    call.noise = {{7, 8}, how.dropout};
    call.auxiliary = how.auxiliary;
    conditions.give(call.side);
    gradient.assign(to_size(how.gradient ? D::template buffer_elements<T, hybridmoe::Flat>() : 0), T(0));
    hybridmoe::TrainingSight<T> sight;
    const std::vector<T> before = parameters;
    D::loss_and_gradient(call, parameters.data(), tokens.data(), targets.data(),
                         static_cast<T>(1.0 / static_cast<double>(counted())), how.recompute, &loss,
                         how.gradient ? gradient.data() : static_cast<T*>(nullptr), &sight, how.twins);
    loss /= static_cast<double>(counted());
    bytes_used = peak - memory.data();
    REQUIRE(memory.guarded());
    REQUIRE(before == parameters);
    const T* const last = sight.streams + D::layer_count * rows() * D::width;
    hidden.assign(last, last + rows() * D::width);
    if (sight.complexity != nullptr) complexity.assign(sight.complexity, sight.complexity + rows());

    // The plan's constructor finds everything again. Logits do not survive the call: the head's product is made once more.
    hybridmoe::Arena arena{memory.data(), memory.end()};
    const typename D::template TrainingPlan<T> s(arena, extent, D::layer_count,
                                                 how.recompute ? 0 : D::Layers::template all_tape_bytes<T>(D::layout(), extent));
    logits.assign(to_size(rows() * D::vocab), T(0));
    std::vector<T> normed(s.normed, s.normed + rows() * D::width);
    const auto& p = *reinterpret_cast<const typename D::template Parameters<T, hybridmoe::Flat>*>(parameters.data());
    Poisoned scratch(hybridmoe::product_workspace<T, hybridmoe::Flat, D::vocab, D::width>(extent));
    using Head = hybridmoe::ops::Matmul<Space, T, D::vocab, D::width>;
    if constexpr (D::sizes.tied)
      Head::forward({}, {scratch.data(), scratch.end()}, rows(), normed.data(), p.embedding, nullptr, logits.data());
    else
      Head::forward({}, {scratch.data(), scratch.end()}, rows(), normed.data(), p.head, nullptr, logits.data());
    auxiliary = 0;
    if (how.recompute) return;
    hybridmoe::Arena tapes = s.tapes;
    for (const int slot : D::slots()) add_auxiliary<0>(slot, tapes, extent);
  }

 private:
  template <int slot>
  void add_auxiliary(int wanted, hybridmoe::Arena& tapes, hybridmoe::Extent extent) {
    if constexpr (slot < D::Layers::kinds) {
      if (slot != wanted) return add_auxiliary<slot + 1>(wanted, tapes, extent);
      using Layer = typename D::Layers::template LayerOf<slot>;
      const typename Layer::template Tape<T> tape(tapes, extent);
      if constexpr (requires { Layer::ChannelLayer::losses(tape.channel); })
        auxiliary += static_cast<double>(*Layer::ChannelLayer::losses(tape.channel).value);
    }
  }
};

/// Tokens of one sequence in a call: which state, and the position of the first.
template <class T>
struct Chunk {
  Index slot, start;
  std::vector<std::int32_t> tokens;
  Conditions<T> conditions{};  ///< of its rows; of all chunks of a call or of none
};

/// A model with states for some sequences.
template <class D, class T, class Storage>
class Serving {
 public:
  Serving(std::vector<T> parameters, Index slots)
      : parameters_(std::move(parameters)), states_(slots * D::template state_stride<T>()) {}

  /// Logits of all rows of one call. Checks that the call's scratch is what was declared.
  std::vector<T> feed(const std::vector<Chunk<T>>& chunks) {
    hybridmoe::BatchPlan plan;
    std::vector<std::int32_t> tokens;
    Conditions<T> conditions;
    for (const Chunk<T>& chunk : chunks) {
      conditions.append(chunk.conditions);
      plan.add(chunk.slot, chunk.start, hybridmoe::to_index(chunk.tokens.size()));
      tokens.insert(tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
    }
    std::vector<Index> wanted;
    for (Index row = 0; row < plan.rows(); ++row) wanted.push_back(row);
    const std::vector<Index> arrays(plan.data(), plan.data() + plan.count());
    const Index declared = D::template workspace_bytes<T, Storage>({plan.rows(), plan.sequences(), false}, plan.rows());
    Poisoned memory(declared);
    std::byte* peak = memory.data();
    hybridmoe::Call<hybridmoe::exec::Inline> call;
    call.batch = plan.view(arrays.data());
    call.arena = {memory.data(), memory.end(), &peak};
    conditions.give(call.side);
    std::vector<T> logits(to_size(plan.rows() * D::vocab));
    D::template forward<Storage>(call, parameters_.data(), tokens.data(), states_.data(), D::template state_stride<T>(),
                                 wanted.data(), plan.rows(), logits.data());
    REQUIRE(memory.guarded());
    REQUIRE(states_.guarded());
    CHECK(peak - memory.data() == declared);
    return logits;
  }

 private:
  std::vector<T> parameters_;
  Poisoned states_;
};

/// Flat parameters as panels.
template <class D, class T>
std::vector<T> packed(std::vector<T> flat) {
  std::vector<T> panels(to_size(D::template buffer_elements<T, hybridmoe::Packed>()));
  D::template visit<T, hybridmoe::Flat, hybridmoe::Packed>(hybridmoe::PackTensors{}, hybridmoe::Name{}, flat.data(),
                                                           panels.data());
  return panels;
}

/// Random parameters that make every tensor matter: weights of about 1/√in, gains near 1, biases near 0.
template <class D, class T>
std::vector<T> lively_parameters(std::uint64_t seed) {
  std::vector<T> parameters(to_size(D::template buffer_elements<T, hybridmoe::Flat>()));
  D::template visit<T, hybridmoe::Flat>(hybridmoe::StartTensors{hybridmoe::random::key_of(seed), 1}, hybridmoe::Name{},
                                        parameters.data());
  D::template visit<T, hybridmoe::Flat>(
      [seed](const hybridmoe::Name& name, const hybridmoe::Trait&, auto& tensor) {
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        const std::string text = name.text();
        const bool matrix = Tensor::rank > 1 && text.find("convolution") == std::string::npos;
        const double spread = !matrix ? 0.2
                              : text == "embedding.weight" || text == "position.weight"
                                  ? 0.7
                                  : 1 / std::sqrt(static_cast<double>(Tensor::shape[Tensor::rank - 1]));
        const std::vector<double> more = numbers(Tensor::size, seed + hybridmoe::random::hash(text), spread);
        for (Index i = 0; i < Tensor::size; ++i)
          tensor.data[i] = static_cast<T>((matrix ? 0 : static_cast<double>(tensor.data[i])) + more[to_size(i)]);
      },
      hybridmoe::Name{}, parameters.data());
  return parameters;
}

}  // namespace test
