#pragma once
/// @file subject_of.hpp
/// Runs a layer at a place for the laws: parameters, states, tape and scratch in the place's memory, poisoned and guarded.

#include <algorithm>
#include <cmath>
#include <memory>

#include <hybridmoe/check/region.hpp>
#include <hybridmoe/check/subject.hpp>
#include <hybridmoe/model/pack.hpp>
#include <hybridmoe/model/start.hpp>

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

template <class T>
struct CopyScalarKernel {
  const T* from;
  T* to;
  HYBRIDMOE_FUNCTION void operator()(Index) const { *to = *from; }
};

/// Layer::forward as a computation that a place can run.
template <class Layer, class T, class Storage>
struct ForwardComputation {
  using Parameters = typename Layer::template Parameters<T, Storage>;
  using State = typename Layer::template State<T>;
  using Tape = typename Layer::template Tape<T>;
  CallMemory memory;
  bool training;
  const Parameters* parameters;
  const T* x;
  T* y;
  States<State> states;
  T* loss;

  template <class Space>
  HYBRIDMOE_FUNCTION void operator()(const Space& space) const {
    const Tape tape = memory.planned<Tape>(training);
    Layer::forward(memory.call(space, training), *parameters, Rows<const T, Layer::width>{x}, Rows<T, Layer::width>{y}, states,
                   tape);
    if constexpr (requires { Layer::template losses<T>(tape).value; }) {
      const T* const value = Layer::template losses<T>(tape).value;
      if (training && value != nullptr) space.each(1, CopyScalarKernel<T>{value, loss});
    }
  }
};

/// Layer::backward as a computation that a place can run.
template <class Layer, class T>
struct BackwardComputation {
  using Parameters = typename Layer::template Parameters<T, Flat>;
  using Tape = typename Layer::template Tape<T>;
  CallMemory memory;
  const Parameters* parameters;
  const T *x, *dy;
  T* dx;
  Parameters* gradient;

  template <class Space>
  HYBRIDMOE_FUNCTION void operator()(const Space& space) const {
    constexpr Index width = Layer::width;
    const Tape tape = memory.planned<Tape>(true);
    Layer::backward(memory.call(space, true), *parameters, Rows<const T, width>{x}, tape, Rows<const T, width>{dy},
                    Rows<T, width>{dx}, *gradient);
  }
};

/// Turns starting values into values that the laws can learn from: matrices that keep the scale of what goes through, gains
/// and biases that differ from 1 and 0.
struct SpreadStart {
  random::Key key;

  template <class Tensor>
  void operator()(const Name& name, const Trait& trait, Tensor& tensor) const {
    using T = typename Tensor::Element;
    if (trait.start != Start::normal && trait.start != Start::constant) return;
    const std::uint64_t stream = random::hash("spread", random::hash(name.text()));
    const double deviation = Tensor::rank < 2 ? 0.5 : 1 / std::sqrt(static_cast<double>(Tensor::shape.back()));
    for (Index i = 0; i < Tensor::size; ++i) {
      const random::Block words = random::draw(key, stream, static_cast<std::uint64_t>(i));
      const double normal = static_cast<double>(random::normal(words.word[0], words.word[1]));
      tensor.data[i] =
          static_cast<T>(trait.start == Start::normal ? deviation * normal : static_cast<double>(trait.a) + 0.2 * normal);
    }
  }
};

/// What the laws ask of a bound layer's type.
template <class Layer, class Env, class T, class Storage>
LayerFacts facts_of() {
  using P = typename Layer::template Parameters<T, Flat>;
  LayerFacts facts;
  facts.width = Layer::width;
  facts.context = Env::context;
  facts.chunk = Env::chunk;
  facts.elements = element_count<P, T>;
  facts.state_elements = state_bytes<typename Layer::template State<T>> / static_cast<Index>(sizeof(T));
  facts.causal = Layer::causal;
  facts.active = Layer::active_parameters();
  facts.flops = [](Index context) { return Layer::flops_per_token(context); };
  facts.recurrent_elements = Layer::recurrent_elements;
  facts.cache_elements = [](Index context) -> Index { return Layer::cache_elements(context); };
  facts.tape_bytes = [](Extent extent) { return planned_bytes<typename Layer::template Tape<T>>(extent); };
  facts.workspace_bytes = [](Extent extent) -> Index { return Layer::template workspace_bytes<T, Storage>(extent); };
  const auto p = std::make_unique<P>();
  const auto* const base = reinterpret_cast<const std::byte*>(p.get());
  Layer::visit(
      [&](const Name& name, const Trait& trait, auto& tensor) {
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        const Index offset = (reinterpret_cast<const std::byte*>(&tensor) - base) / static_cast<Index>(sizeof(T));
        facts.tensors.push_back({name.text(), offset, Tensor::size, Tensor::rank > 1, trait.update == Update::gradient});
      },
      Name{}, *p);
  return facts;
}

/// A layer (a description bound to Env) with numbers T in the given storage at a place.
template <class Description, class Env, class T, class Storage, class Place>
class SubjectOf final : public Subject<T> {
 public:
  using Layer = typename Description::template Layer<Env>;
  using FlatParameters = typename Layer::template Parameters<T, Flat>;
  using Parameters = typename Layer::template Parameters<T, Storage>;
  using State = typename Layer::template State<T>;

  explicit SubjectOf(const Place& place)
      : place_(place),
        plan_(place),
        x_(place),
        y_(place),
        dy_(place),
        dx_(place),
        parameters_(place),
        gradient_(place),
        tape_(place),
        scratch_(place),
        states_(place),
        loss_(place) {
    this->facts = facts_of<Layer, Env, T, Storage>();
  }

  std::vector<T> random_parameters(std::uint64_t seed) override {
    const auto p = std::make_unique<FlatParameters>();
    const random::Key key = random::key_of(seed);
    Layer::visit(StartTensors{key, 1}, Name{}, *p);
    Layer::visit(SpreadStart{key}, Name{}, *p);
    std::vector<T> result(to_size(this->facts.elements));
    if (!result.empty()) std::memcpy(result.data(), p.get(), result.size() * sizeof(T));
    return result;
  }

  void set_parameters(const std::vector<T>& flat) override {
    if constexpr (std::is_same_v<Storage, Flat>) {
      parameters_.hold(flat);
    } else {
      const auto from = std::make_unique<FlatParameters>();
      const auto to = std::make_unique<Parameters>();
      if (!flat.empty()) std::memcpy(static_cast<void*>(from.get()), flat.data(), flat.size() * sizeof(T));
      Layer::visit(PackTensors{}, Name{}, *from, *to);
      std::vector<T> packed(to_size(element_count<Parameters, T>));
      if (!packed.empty()) std::memcpy(packed.data(), to.get(), packed.size() * sizeof(T));
      parameters_.hold(packed);
    }
  }

  void train(BatchPlan& plan, Training<T>& run) override {
    if constexpr (std::is_same_v<Storage, Flat>) {
      CallMemory memory = prepare(plan, run.x, true, run.poison);
      memory.auxiliary = run.auxiliary;
      loss_.hold(std::vector<T>{T(0)});
      place_.run(ForwardComputation<Layer, T, Flat>{memory,
                                                    true,
                                                    parameters_.template as<const FlatParameters>(),
                                                    x_.template as<const T>(),
                                                    y_.template as<T>(),
                                                    {},
                                                    loss_.template as<T>()});
      run.y = y_.template values<T>();
      run.loss = static_cast<double>(loss_.template values<T>()[0]);
      inspect("forward", run.poison == 0xff);
      if (run.dy.empty()) return note_peak();
      dy_.hold(run.dy);
      dx_.hold(run.dx);
      gradient_.hold(run.gradient);
      place_.run(BackwardComputation<Layer, T>{memory, parameters_.template as<const FlatParameters>(), x_.template as<const T>(),
                                               dy_.template as<const T>(), dx_.template as<T>(),
                                               gradient_.template as<FlatParameters>()});
      run.dx = dx_.template values<T>();
      run.gradient = gradient_.template values<T>();
      inspect("backward", false);
      if (!dy_.unchanged()) this->fault("law 4: backward writes to dy");
      if (!dx_.guarded()) this->fault("law 4: backward writes behind dx");
      if (!gradient_.guarded()) this->fault("law 4: backward writes behind the gradient");
      note_peak();
    }
  }

  void begin(Index slots) override {
    slots_ = slots;
    states_.prepare(slots * stride, 0xff);
  }

  std::vector<T> step(BatchPlan& plan, const std::vector<T>& x) override {
    const CallMemory memory = prepare(plan, x, false, 0xff);
    const std::vector<std::byte> before = states_.template values<std::byte>();
    loss_.hold(std::vector<T>{T(0)});
    const ForwardComputation<Layer, T, Storage> forward{memory,
                                                        false,
                                                        parameters_.template as<const Parameters>(),
                                                        x_.template as<const T>(),
                                                        y_.template as<T>(),
                                                        States<State>{std::is_empty_v<State> ? nullptr : states_.data(), stride},
                                                        loss_.template as<T>()};
    const std::uint64_t earlier = this->allocations == nullptr ? 0 : this->allocations();
    place_.run(forward);
    if (this->allocations != nullptr) this->allocated += static_cast<Index>(this->allocations() - earlier);
    inspect("forward with states", true);
    note_peak();
    check_slots(plan, before);
    return y_.template values<T>();
  }

 private:
  static constexpr Index stride = round_up(state_bytes<State>, arena_alignment);
  static constexpr bool one_thread = std::is_same_v<Place, exec::Inline>;

  CallMemory prepare(BatchPlan& plan, const std::vector<T>& x, bool training, unsigned char poison) {
    const Extent extent{plan.rows(), plan.sequences(), training};
    const Index* const arrays = plan.data();
    plan_.hold(std::vector<Index>(arrays, arrays + plan.count()));
    x_.hold(x);
    y_.prepare(plan.rows() * Layer::width * static_cast<Index>(sizeof(T)), poison);
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
    if (one_thread) memory.peak = &peak_;
    return memory;
  }

  /// What every call must leave alone, and y written everywhere.
  void inspect(const std::string& where, bool poisoned) {
    place_.fence();
    if (!parameters_.unchanged() || !parameters_.guarded()) this->fault("law 4: " + where + " writes to the parameters");
    if (!x_.unchanged() || !x_.guarded()) this->fault("law 4: " + where + " writes to x");
    if (!plan_.unchanged()) this->fault("law 4: " + where + " writes to the batch's arrays");
    if (!y_.guarded()) this->fault("law 4: " + where + " writes behind y");
    if (!tape_.guarded()) this->fault("law 4: " + where + " writes behind its tape");
    if (!scratch_.guarded()) this->fault("law 5: " + where + " writes to more scratch than workspace_bytes declares");
    if (slots_ > 0 && !states_.guarded()) this->fault("law 4: " + where + " writes behind the states");
    if (!poisoned) return;
    const std::vector<T> y = y_.template values<T>();
    for (Index i = 0; i < to_index(y.size()); ++i) {
      if (math::is_finite(y[to_size(i)])) continue;
      return this->fault("law 4: " + where + " leaves row " + std::to_string(i / Layer::width) + ", column " +
                         std::to_string(i % Layer::width) + " of y unwritten, or computes it from memory that nobody wrote");
    }
  }

  /// States of slots that the call does not name keep their bytes.
  void check_slots(const BatchPlan& plan, const std::vector<std::byte>& before) {
    const std::vector<std::byte> after = states_.template values<std::byte>();
    const Batch host = plan.view(nullptr);
    const std::vector<Index> arrays = plan_.template values<Index>();
    const Index* const slot = arrays.data() + (host.slot - host.begin);
    for (Index s = 0; s < slots_; ++s) {
      bool named = false;
      for (Index q = 0; q < host.sequences; ++q) named = named || slot[q] == s;
      const auto at = before.begin() + s * stride;
      if (!named && !std::equal(at, at + stride, after.begin() + s * stride)) {
        this->fault("law 4: forward with states changes the state of a sequence that is not in the batch");
      }
    }
  }

  void note_peak() { this->workspace_used = one_thread ? static_cast<Index>(peak_ - scratch_.data()) : -1; }

  Place place_;
  Region<Place> plan_, x_, y_, dy_, dx_, parameters_, gradient_, tape_, scratch_, states_, loss_;
  std::byte* peak_ = nullptr;
  Index slots_ = 0;
};

/// Law 5: the tensors that visit() lists fill the parameter struct, without gap or overlap.
template <class Layer, class T, class Storage>
void visit_covers(Report& report, const std::string& storage) {
  using P = typename Layer::template Parameters<T, Storage>;
  struct Span {
    std::string name;
    Index from, to;
  };
  const auto p = std::make_unique<P>();
  const auto* const base = reinterpret_cast<const std::byte*>(p.get());
  std::vector<Span> spans;
  Layer::visit(
      [&](const Name& name, const Trait&, auto& tensor) {
        const Index from = reinterpret_cast<const std::byte*>(&tensor) - base;
        for (const Span& span : spans) {
          if (span.name == name.text()) report.fail("law 5: visit lists two tensors named " + span.name);
        }
        spans.push_back({name.text(), from, from + static_cast<Index>(sizeof(tensor))});
      },
      Name{}, *p);
  const Index end = std::is_empty_v<P> ? 0 : static_cast<Index>(sizeof(P));
  Index covered = 0;
  std::string last = "the beginning";
  while (covered < end) {
    const Span* next = nullptr;
    for (const Span& span : spans) {
      if (span.from >= covered && (next == nullptr || span.from < next->from)) next = &span;
    }
    const Index gap = (next == nullptr ? end : next->from) - covered;
    if (gap > 0) {
      report.fail("law 5: visit leaves out " + std::to_string(gap / static_cast<Index>(sizeof(T))) + " elements after " + last +
                  " (" + storage + ")");
    }
    if (next == nullptr) break;
    last = next->name;
    covered = next->to;
  }
  Index listed = 0;
  for (const Span& span : spans) listed += span.to - span.from;
  if (listed > end || covered > end)
    report.fail("law 5: visit lists some elements twice, or none of the struct's (" + storage + ")");
  report.comparisons += to_index(spans.size()) + 1;
}

}  // namespace hybridmoe::check
