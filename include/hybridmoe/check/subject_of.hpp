#pragma once
/// @file subject_of.hpp
/// What a layer adds to a subject at a place: its sizes, its parameters and its two functions.

#include <cmath>
#include <memory>

#include <hybridmoe/check/count_laws.hpp>
#include <hybridmoe/check/placed_subject.hpp>
#include <hybridmoe/model/pack.hpp>
#include <hybridmoe/model/start.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

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

/// The tensors that visit() lists for parameters of numbers T in the given storage.
template <class Layer, class T, class Storage>
std::vector<TensorFacts> tensors_of() {
  using P = typename Layer::template Parameters<T, Storage>;
  std::vector<TensorFacts> tensors;
  const auto p = std::make_unique<P>();
  const auto* const base = reinterpret_cast<const std::byte*>(p.get());
  Layer::visit(
      [&](const Name& name, const Trait& trait, auto& tensor) {
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        const Index first = reinterpret_cast<const std::byte*>(&tensor) - base;
        Index size = 1;
        for (const Index extent : Tensor::shape) size *= extent;
        tensors.push_back({name.text(), trait, first, static_cast<Index>(sizeof(tensor)), first / static_cast<Index>(sizeof(T)),
                           size, Tensor::rank > 1 ? Tensor::shape.back() : 0});
      },
      Name{}, *p);
  return tensors;
}

/// Law 5 of the tensors that visit() lists.
template <class Layer, class T, class Storage>
void visit_covers(const std::string& storage, Report& report) {
  using P = typename Layer::template Parameters<T, Storage>;
  tensors_cover(tensors_of<Layer, T, Storage>(), std::is_empty_v<P> ? 0 : static_cast<Index>(sizeof(P)),
                static_cast<Index>(sizeof(T)), storage, report);
}

/// Starting values turned into values that the laws can learn from: matrices that keep the scale of what goes through, gains
/// and biases that differ from 1 and 0.
template <class T>
void spread(const random::Key& key, const TensorFacts& tensor, T* parameters) {
  const Start start = tensor.trait.start;
  if (start != Start::normal && start != Start::constant) return;
  const std::uint64_t stream = random::hash("spread", random::hash(tensor.name));
  const double deviation = tensor.columns > 0 ? 1 / std::sqrt(static_cast<double>(tensor.columns)) : 0.5;
  for (Index i = 0; i < tensor.size; ++i) {
    const random::Block words = random::draw(key, stream, static_cast<std::uint64_t>(i));
    const double normal = static_cast<double>(random::normal(words.word[0], words.word[1]));
    parameters[tensor.offset + i] =
        static_cast<T>(start == Start::normal ? deviation * normal : static_cast<double>(tensor.trait.a) + 0.2 * normal);
  }
}

/// Random parameters of a layer, scaled so that outputs stay of the order of 1.
template <class Layer, class T>
void spread_start(std::uint64_t seed, typename Layer::template Parameters<T, Flat>& parameters) {
  const random::Key key = random::key_of(seed);
  Layer::visit(StartTensors{key, 1}, Name{}, parameters);
  for (const TensorFacts& tensor : tensors_of<Layer, T, Flat>()) spread(key, tensor, reinterpret_cast<T*>(&parameters));
}

/// What the laws ask of a bound layer's type.
template <class Layer, class Env, class T, class Storage>
LayerFacts facts_of() {
  using P = typename Layer::template Parameters<T, Flat>;
  LayerFacts facts;
  facts.width = Layer::width;
  facts.context = Env::context;
  facts.chunk = Env::chunk;
  facts.elements = element_count<P, T>;
  facts.state_bytes = state_bytes<typename Layer::template State<T>>;
  facts.causal = Layer::causal;
  facts.active = Layer::active_parameters();
  facts.flops = [](Index context) { return Layer::flops_per_token(context); };
  facts.recurrent_elements = Layer::recurrent_elements;
  facts.cache_elements = [](Index context) -> Index { return Layer::cache_elements(context); };
  facts.tape_bytes = [](Extent extent) { return planned_bytes<typename Layer::template Tape<T>>(extent); };
  facts.workspace_bytes = [](Extent extent) -> Index { return Layer::template workspace_bytes<T, Storage>(extent); };
  facts.tensors = tensors_of<Layer, T, Flat>();
  return facts;
}

/// A layer (a description bound to Env) with numbers T in the given storage at a place.
template <class Description, class Env, class T, class Storage, class Place>
class SubjectOf final : public PlacedSubject<T> {
 public:
  using Layer = typename Description::template Layer<Env>;
  using FlatParameters = typename Layer::template Parameters<T, Flat>;
  using Parameters = typename Layer::template Parameters<T, Storage>;
  using State = typename Layer::template State<T>;

  explicit SubjectOf(const Place& place)
      : PlacedSubject<T>(std::make_unique<MemoryOf<Place>>(place), std::is_same_v<Place, exec::Inline>), place_(place) {
    this->facts = facts_of<Layer, Env, T, Storage>();
  }

  std::vector<T> random_parameters(std::uint64_t seed) override {
    const auto p = std::make_unique<FlatParameters>();
    spread_start<Layer, T>(seed, *p);
    std::vector<T> result(to_size(this->facts.elements));
    if (!result.empty()) std::memcpy(result.data(), p.get(), result.size() * sizeof(T));
    return result;
  }

 private:
  std::vector<T> stored(const std::vector<T>& flat) const override {
    if constexpr (std::is_same_v<Storage, Flat>) {
      return flat;
    } else {
      const auto from = std::make_unique<FlatParameters>();
      const auto to = std::make_unique<Parameters>();
      if (!flat.empty()) std::memcpy(static_cast<void*>(from.get()), flat.data(), flat.size() * sizeof(T));
      Layer::visit(PackTensors{}, Name{}, *from, *to);
      std::vector<T> packed(to_size(element_count<Parameters, T>));
      if (!packed.empty()) std::memcpy(packed.data(), to.get(), packed.size() * sizeof(T));
      return packed;
    }
  }

  void forward(const CallMemory& memory, bool training, const CallRows<T>& rows, std::byte* states, Index stride) override {
    place_.run(ForwardComputation<Layer, T, Storage>{memory, training, reinterpret_cast<const Parameters*>(rows.parameters),
                                                     rows.x, rows.y, States<State>{states, stride}, rows.loss});
  }
  void backward(const CallMemory& memory, const CallRows<T>& rows) override {
    if constexpr (std::is_same_v<Storage, Flat>) {
      place_.run(BackwardComputation<Layer, T>{memory, reinterpret_cast<const Parameters*>(rows.parameters), rows.x, rows.dy,
                                               rows.dx, reinterpret_cast<Parameters*>(rows.gradient)});
    }
  }

  Place place_;
};

}  // namespace hybridmoe::check
