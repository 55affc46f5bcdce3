#pragma once
// Runs a layer on Inline with streams that the test gives.

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <hybridmoe/check/subject_of.hpp>

namespace test {

/// What a call's rows read and report. Empty: absent.
template <class T>
struct Streams {
  std::vector<T> decisions, complexity, budget, target;
  hybridmoe::Index layer = 0;
  double price = 0;
};

template <class Description, class Env, class T>
class Running {
 public:
  using Index = hybridmoe::Index;
  using Layer = typename Description::template Layer<Env>;
  using Parameters = typename Layer::template Parameters<T, hybridmoe::Flat>;
  using State = typename Layer::template State<T>;
  using Tape = typename Layer::template Tape<T>;
  static constexpr Index stride = hybridmoe::round_up(hybridmoe::state_bytes<State>, hybridmoe::arena_alignment);

  Streams<T> streams;   ///< by row of the call
  std::vector<T> used;  ///< [rows, Used::fields·(layer + 1)] after a call
  double loss = 0;      ///< after a training call

  explicit Running(std::uint64_t seed) : parameters_(std::make_unique<Parameters>()) {
    hybridmoe::check::spread_start<Layer, T>(seed, *parameters_);
  }
  Parameters& parameters() { return *parameters_; }

  /// Elements of a tensor.
  const T* tensor(const std::string& name) const {
    const T* found = nullptr;
    Layer::visit(
        [&](const hybridmoe::Name& at, const hybridmoe::Trait&, auto& tensor) {
          if (at.text() == name) found = tensor.data;
        },
        hybridmoe::Name{}, *parameters_);
    return found;
  }

  std::vector<T> train(const std::vector<Index>& lengths, const std::vector<T>& x) {
    hybridmoe::BatchPlan plan;
    for (Index s = 0; s < hybridmoe::to_index(lengths.size()); ++s) plan.add(s, 0, lengths[hybridmoe::to_size(s)]);
    return call(plan, x, nullptr);
  }
  /// States of `count` sequences, filled with what no state ever holds.
  static std::vector<std::byte> fresh(Index count) {
    return std::vector<std::byte>(static_cast<std::size_t>(count * stride + 64), std::byte{0xff});
  }
  std::vector<T> step(std::vector<std::byte>& states, hybridmoe::BatchPlan& plan, const std::vector<T>& x) {
    return call(plan, x, aligned(states.data()));
  }

 private:
  static std::byte* aligned(std::byte* p) { return p + (64 - reinterpret_cast<std::uintptr_t>(p) % 64) % 64; }

  std::vector<T> call(hybridmoe::BatchPlan& plan, const std::vector<T>& x, std::byte* states) {
    const hybridmoe::Batch batch = plan.view(plan.data());
    const hybridmoe::Extent extent{batch.rows, batch.sequences, states == nullptr};
    const Index tape_bytes = hybridmoe::planned_bytes<Tape>(extent);
    const Index scratch_bytes = Layer::template workspace_bytes<T, hybridmoe::Flat>(extent);
    tape_.assign(static_cast<std::size_t>(tape_bytes + 64), std::byte{0xff});
    scratch_.assign(static_cast<std::size_t>(scratch_bytes + 64), std::byte{0xff});
    std::byte* const tape_at = aligned(tape_.data());
    std::byte* const scratch_at = aligned(scratch_.data());
    hybridmoe::Arena arena{tape_at, tape_at + tape_bytes};
    const Tape tape(arena, extent);
    hybridmoe::Call<hybridmoe::exec::Inline> call;
    call.batch = batch;
    call.arena = {scratch_at, scratch_at + scratch_bytes};
    call.layer = streams.layer;
    call.training = states == nullptr;
    call.price = streams.price;
    set<hybridmoe::stream::Decisions>(call.side, streams.decisions, batch.rows);
    set<hybridmoe::stream::Complexity>(call.side, streams.complexity, batch.rows);
    set<hybridmoe::stream::Budget>(call.side, streams.budget, batch.rows);
    set<hybridmoe::stream::Target>(call.side, streams.target, batch.rows);
    call.side.used_width = hybridmoe::Used::fields * (streams.layer + 1);
    used.assign(static_cast<std::size_t>(batch.rows * call.side.used_width), T(-1));
    call.side.used = used.data();
    std::vector<T> y(x.size());
    Layer::forward(call, *parameters_, hybridmoe::Rows<const T, Layer::width>{x.data()},
                   hybridmoe::Rows<T, Layer::width>{y.data()}, hybridmoe::States<State>{states, stride}, tape);
    if constexpr (requires { Layer::template losses<T>(tape); })
      if (states == nullptr) loss = static_cast<double>(*Layer::template losses<T>(tape).value);
    return y;
  }
  template <class Stream>
  static void set(hybridmoe::Side& side, const std::vector<T>& values, Index rows) {
    if (!values.empty())
      side.template set<Stream>(values.data(), static_cast<T*>(nullptr), hybridmoe::to_index(values.size()) / rows);
  }

  std::unique_ptr<Parameters> parameters_;
  std::vector<std::byte> tape_, scratch_;
};

}  // namespace test
