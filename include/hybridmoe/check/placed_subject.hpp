#pragma once
/// @file placed_subject.hpp
/// A subject at a place, whatever its layer: parameters, states, tape and scratch in the place's memory, poisoned and guarded.

#include <algorithm>
#include <memory>

#include <hybridmoe/check/region.hpp>
#include <hybridmoe/check/subject.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// Where a computation finds its memory.
struct CallMemory {
  Batch batch{};
  std::byte *tape = nullptr, *tape_end = nullptr;
  std::byte *scratch = nullptr, *scratch_end = nullptr;
  std::byte** peak = nullptr;
  double auxiliary = 0;

  template <class Space>
  HYBRIDMOE_FUNCTION Call<Space> call(const Space& space, bool training) const {
    Call<Space> result{space, batch, Arena{scratch, scratch_end, peak}};
    result.training = training;
    result.auxiliary = auxiliary;
    return result;
  }
  template <class Tape>
  HYBRIDMOE_FUNCTION Tape planned(bool training) const {
    Arena arena{tape, tape_end};
    return Tape(arena, Extent{batch.rows, batch.sequences, training});
  }
};

/// What a call reads and writes beside its tape and scratch, in the place's memory.
template <class T>
struct CallRows {
  const std::byte* parameters;
  const T* x;
  T *y, *loss;
  const T* dy = nullptr;
  T* dx = nullptr;
  std::byte* gradient = nullptr;
};

/// Members are defined outside: a unit may name the class as compiled elsewhere, and each layer is a class of its own below it.
template <class T>
class PlacedSubject : public Subject<T> {
 public:
  /// With workspace_used told only where one thread runs the layer.
  PlacedSubject(std::unique_ptr<const PlaceMemory> memory, bool one_thread);
  ~PlacedSubject() override;
  void set_parameters(const std::vector<T>& flat) final;
  void train(BatchPlan& plan, Training<T>& run) final;
  void begin(Index slots) final;
  std::vector<T> step(BatchPlan& plan, const std::vector<T>& x) final;

 private:
  /// Flat parameters as the layer's storage holds them.
  virtual std::vector<T> stored(const std::vector<T>& flat) const = 0;
  /// Without states where `states` is null.
  virtual void forward(const CallMemory& memory, bool training, const CallRows<T>& rows, std::byte* states, Index stride) = 0;
  /// Of flat parameters only.
  virtual void backward(const CallMemory& memory, const CallRows<T>& rows) = 0;

  Index stride() const { return round_up(this->facts.state_bytes, arena_alignment); }
  CallRows<T> rows() const {
    return {parameters_.data(), x_.template as<const T>(), y_.template as<T>(), loss_.template as<T>()};
  }
  CallMemory prepare(BatchPlan& plan, const std::vector<T>& x, bool training, unsigned char poison);
  void inspect(const std::string& where, bool poisoned);
  void check_slots(const BatchPlan& plan, const std::vector<std::byte>& before);
  void note_peak() { this->workspace_used = one_thread_ ? static_cast<Index>(peak_ - scratch_.data()) : -1; }

  std::unique_ptr<const PlaceMemory> memory_;
  bool one_thread_;
  Region plan_, x_, y_, dy_, dx_, parameters_, gradient_, tape_, scratch_, states_, loss_;
  std::byte* peak_ = nullptr;
  Index slots_ = 0;
};

template <class T>
PlacedSubject<T>::PlacedSubject(std::unique_ptr<const PlaceMemory> memory, bool one_thread)
    : memory_(std::move(memory)),
      one_thread_(one_thread),
      plan_(*memory_),
      x_(*memory_),
      y_(*memory_),
      dy_(*memory_),
      dx_(*memory_),
      parameters_(*memory_),
      gradient_(*memory_),
      tape_(*memory_),
      scratch_(*memory_),
      states_(*memory_),
      loss_(*memory_) {}

template <class T>
PlacedSubject<T>::~PlacedSubject() = default;

template <class T>
void PlacedSubject<T>::set_parameters(const std::vector<T>& flat) {
  parameters_.hold(stored(flat));
}

template <class T>
void PlacedSubject<T>::train(BatchPlan& plan, Training<T>& run) {
  CallMemory memory = prepare(plan, run.x, true, run.poison);
  memory.auxiliary = run.auxiliary;
  loss_.hold(std::vector<T>{T(0)});
  forward(memory, true, rows(), nullptr, 0);
  run.y = y_.template values<T>();
  run.loss = static_cast<double>(loss_.template values<T>()[0]);
  inspect("forward", run.poison == 0xff);
  if (run.dy.empty()) return note_peak();
  dy_.hold(run.dy);
  dx_.hold(run.dx);
  gradient_.hold(run.gradient);
  CallRows<T> with_gradients = rows();
  with_gradients.dy = dy_.template as<const T>();
  with_gradients.dx = dx_.template as<T>();
  with_gradients.gradient = gradient_.data();
  backward(memory, with_gradients);
  run.dx = dx_.template values<T>();
  run.gradient = gradient_.template values<T>();
  inspect("backward", false);
  if (!dy_.unchanged()) this->fault("law 4: backward writes to dy");
  if (!dx_.guarded()) this->fault("law 4: backward writes behind dx");
  if (!gradient_.guarded()) this->fault("law 4: backward writes behind the gradient");
  note_peak();
}

template <class T>
void PlacedSubject<T>::begin(Index slots) {
  slots_ = slots;
  states_.prepare(slots * stride(), 0xff);
}

template <class T>
std::vector<T> PlacedSubject<T>::step(BatchPlan& plan, const std::vector<T>& x) {
  const CallMemory memory = prepare(plan, x, false, 0xff);
  const std::vector<std::byte> before = states_.template values<std::byte>();
  loss_.hold(std::vector<T>{T(0)});
  const std::uint64_t earlier = this->allocations == nullptr ? 0 : this->allocations();
  forward(memory, false, rows(), stride() == 0 ? nullptr : states_.data(), stride());
  if (this->allocations != nullptr) this->allocated += static_cast<Index>(this->allocations() - earlier);
  inspect("forward with states", true);
  note_peak();
  check_slots(plan, before);
  return y_.template values<T>();
}

template <class T>
CallMemory PlacedSubject<T>::prepare(BatchPlan& plan, const std::vector<T>& x, bool training, unsigned char poison) {
  const Extent extent{plan.rows(), plan.sequences(), training};
  const Index* const arrays = plan.data();
  plan_.hold(std::vector<Index>(arrays, arrays + plan.count()));
  x_.hold(x);
  y_.prepare(plan.rows() * this->facts.width * static_cast<Index>(sizeof(T)), poison);
  tape_.prepare(this->facts.tape_bytes(extent), poison);
  // A wide guard: a layer that takes more scratch than it declared is reported instead of stopped.
  const Index scratch = this->facts.workspace_bytes(extent);
  scratch_.prepare(scratch, poison, 65536 + scratch);
  peak_ = scratch_.data();
  CallMemory memory;
  memory.batch = plan.view(plan_.template as<const Index>());
  memory.tape = tape_.data();
  memory.tape_end = tape_.data() + tape_.bytes();
  memory.scratch = scratch_.data();
  memory.scratch_end = scratch_.data() + scratch_.room();
  if (one_thread_) memory.peak = &peak_;
  return memory;
}

/// What every call must leave alone, and y written everywhere.
template <class T>
void PlacedSubject<T>::inspect(const std::string& where, bool poisoned) {
  memory_->fence();
  if (!parameters_.unchanged() || !parameters_.guarded()) this->fault("law 4: " + where + " writes to the parameters");
  if (!x_.unchanged() || !x_.guarded()) this->fault("law 4: " + where + " writes to x");
  if (!plan_.unchanged()) this->fault("law 4: " + where + " writes to the batch's arrays");
  if (!y_.guarded()) this->fault("law 4: " + where + " writes behind y");
  if (!tape_.guarded()) this->fault("law 4: " + where + " writes behind its tape");
  if (!scratch_.guarded()) this->fault("law 5: " + where + " writes to more scratch than workspace_bytes declares");
  if (slots_ > 0 && !states_.guarded()) this->fault("law 4: " + where + " writes behind the states");
  if (!poisoned) return;
  const std::vector<T> y = y_.template values<T>();
  const Index width = this->facts.width;
  for (Index i = 0; i < to_index(y.size()); ++i) {
    if (math::is_finite(y[to_size(i)])) continue;
    return this->fault("law 4: " + where + " leaves row " + std::to_string(i / width) + ", column " + std::to_string(i % width) +
                       " of y unwritten, or computes it from memory that nobody wrote");
  }
}

/// States of slots that the call does not name keep their bytes.
template <class T>
void PlacedSubject<T>::check_slots(const BatchPlan& plan, const std::vector<std::byte>& before) {
  const std::vector<std::byte> after = states_.template values<std::byte>();
  const Batch host = plan.view(nullptr);
  const std::vector<Index> arrays = plan_.template values<Index>();
  const Index* const slot = arrays.data() + (host.slot - host.begin);
  for (Index s = 0; s < slots_; ++s) {
    bool named = false;
    for (Index q = 0; q < host.sequences; ++q) named = named || slot[q] == s;
    const auto at = before.begin() + s * stride();
    if (!named && !std::equal(at, at + stride(), after.begin() + s * stride())) {
      this->fault("law 4: forward with states changes the state of a sequence that is not in the batch");
    }
  }
}

}  // namespace hybridmoe::check
