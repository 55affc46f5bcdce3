#pragma once
/// @file stack.hpp
/// The layers of a model as a run-time loop over a Layout: code grows with the kinds of layer, never with their number, and one
/// instantiation serves every pattern over the same kinds.

#include <array>
#include <tuple>
#include <utility>

#include <hybridmoe/model/block.hpp>
#include <hybridmoe/model/layout.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// The kinds of layer of a model. Blocks... are bound to Env.
template <class Env, class... Blocks>
struct Stack {
  static constexpr int kinds = sizeof...(Blocks);
  static constexpr Index width = Env::width;
  template <int slot>
  using LayerOf = typename std::tuple_element_t<static_cast<std::size_t>(slot), std::tuple<Blocks...>>::template Layer<Env>;

  // By slot. Functions, since device code reaches no constants of a class.
  template <class T, class Storage>
  static constexpr std::array<Index, kinds> parameter_elements() {
    return {element_count<typename Blocks::template Layer<Env>::template Parameters<T, Storage>, T>...};
  }
  static constexpr std::array<Index, kinds> expert_counts() { return {expert_count<typename Blocks::template Layer<Env>>...}; }
  template <class T>
  static constexpr std::array<Index, kinds> state_sizes() {
    return {round_up(state_bytes<typename Blocks::template Layer<Env>::template State<T>>, arena_alignment)...};
  }
  template <class T>
  static constexpr std::array<Index, kinds> tape_bytes(Extent e) {
    return {planned_bytes<typename Blocks::template Layer<Env>::template Tape<T>>(e)...};
  }
  template <class T, class Storage>
  static constexpr Index workspace_bytes(Extent e) {
    Index most = 0;
    ((most = larger(most, Blocks::template Layer<Env>::template workspace_bytes<T, Storage>(e))), ...);
    return most;
  }

  /// What a layer takes whose tape lies in scratch: the largest over all kinds of tape and workspace together.
  template <class T, class Storage>
  static constexpr Index one_layer_bytes(Extent e) {
    const auto tapes = tape_bytes<T>(e);
    const std::array<Index, kinds> workspaces{Blocks::template Layer<Env>::template workspace_bytes<T, Storage>(e)...};
    Index most = 0;
    for (std::size_t slot = 0; slot < kinds; ++slot) most = larger(most, tapes[slot] + workspaces[slot]);
    return most;
  }

  /// Elements of all layers' parameters, bytes of all layers' states of one sequence, bytes of all layers' tapes.
  template <class T, class Storage>
  static constexpr Index all_parameter_elements(Layout layout) {
    return layout.sum(parameter_elements<T, Storage>());
  }
  template <class T>
  static constexpr Index all_state_bytes(Layout layout) {
    return layout.sum(state_sizes<T>());
  }
  template <class T>
  static constexpr Index all_tape_bytes(Layout layout, Extent e) {
    return layout.sum(tape_bytes<T>(e));
  }

  // `parameters` and `gradient` begin with the first layer's.

  /// Inference: x (in a) through all layers, with states. a and b are two buffers [rows, width]; returns the one that holds the
  /// result.
  template <class Space, class T, class Storage>
  HYBRIDMOE_FUNCTION static T* forward(const Call<Space>& call, Layout layout, const T* parameters, Storage, std::byte* states,
                                       Index state_stride, T* a, T* b);

  /// Training: streams [layers + 1][rows, width], the first filled by the caller, keep every layer's input; tapes go to `tapes`
  /// layer after layer, or to scratch if they are to be recomputed.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void forward_training(const Call<Space>& call, Layout layout, const T* parameters, T* streams,
                                                  Arena tapes, bool recompute);

  /// The way back: d holds the gradient by the last stream; returns the buffer (d or other) that holds it by the first.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static T* backward(const Call<Space>& call, Layout layout, const T* parameters, T* gradient, T* streams,
                                        Arena tapes, bool recompute, T* d, T* other);

 private:
  /// Where a layer's parameters, its state and, in training, its tape begin: offsets that grow from layer to layer.
  struct Place {
    Index parameters = 0;  ///< in elements
    Index state = 0;       ///< in bytes
  };

  template <int slot, class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void infer_one(Call<Space>& call, int wanted, Place& place, const T* parameters, std::byte* states,
                                           Index stride, const T* x, T* y) {
    if constexpr (slot < kinds) {
      if (wanted != slot) return infer_one<slot + 1, Storage>(call, wanted, place, parameters, states, stride, x, y);
      using Layer = LayerOf<slot>;
      using State = typename Layer::template State<T>;
      using Parameters = typename Layer::template Parameters<T, Storage>;
      const typename Layer::template Tape<T> tape(call.arena, Extent::of(call.batch, false));
      Layer::forward(call, *reinterpret_cast<const Parameters*>(parameters + place.parameters), Rows<const T, width>{x},
                     Rows<T, width>{y}, States<State>{states + place.state, stride}, tape);
      place.parameters += element_count<Parameters, T>;
      place.state += round_up(state_bytes<State>, arena_alignment);
    }
  }

  template <int slot, class Space, class T>
  HYBRIDMOE_FUNCTION static void train_one(Call<Space>& call, int wanted, Place& place, const T* parameters, const T* x, T* y,
                                           Arena& home) {
    if constexpr (slot < kinds) {
      if (wanted != slot) return train_one<slot + 1>(call, wanted, place, parameters, x, y, home);
      using Layer = LayerOf<slot>;
      using Parameters = typename Layer::template Parameters<T, Flat>;
      const typename Layer::template Tape<T> tape(home, Extent::of(call.batch, true));
      Layer::forward(call, *reinterpret_cast<const Parameters*>(parameters + place.parameters), Rows<const T, width>{x},
                     Rows<T, width>{y}, States<typename Layer::template State<T>>{}, tape);
      place.parameters += element_count<Parameters, T>;
    }
  }

  /// place and the end of `tapes` are those of the layer above, and become this layer's own.
  template <int slot, class Space, class T>
  HYBRIDMOE_FUNCTION static void backward_one(Call<Space>& call, int wanted, Place& place, const T* parameters, T* gradient,
                                              const T* x, T* y, Arena& tapes, bool recompute, const T* dy, T* dx) {
    if constexpr (slot < kinds) {
      if (wanted != slot)
        return backward_one<slot + 1>(call, wanted, place, parameters, gradient, x, y, tapes, recompute, dy, dx);
      using Layer = LayerOf<slot>;
      using Parameters = typename Layer::template Parameters<T, Flat>;
      using Tape = typename Layer::template Tape<T>;
      const Extent e = Extent::of(call.batch, true);
      place.parameters -= element_count<Parameters, T>;
      Arena kept;
      if (!recompute) {
        kept = {tapes.end - planned_bytes<Tape>(e), tapes.end};
        tapes.end = kept.next;
      }
      const auto& p = *reinterpret_cast<const Parameters*>(parameters + place.parameters);
      const Tape tape(recompute ? call.arena : kept, e);
      if (recompute)
        Layer::forward(call, p, Rows<const T, width>{x}, Rows<T, width>{y}, States<typename Layer::template State<T>>{}, tape);
      Layer::backward(call, p, Rows<const T, width>{x}, tape, Rows<const T, width>{dy}, Rows<T, width>{dx},
                      *reinterpret_cast<Parameters*>(gradient + place.parameters));
    }
  }
};

// Outside the class, so that they are not inline: `extern template` then keeps all layers out of a unit.
template <class Env, class... Blocks>
template <class Space, class T, class Storage>
HYBRIDMOE_FUNCTION T* Stack<Env, Blocks...>::forward(const Call<Space>& call, Layout layout, const T* parameters, Storage,
                                                     std::byte* states, Index state_stride, T* a, T* b) {
  Place place;
  for (Index l = 0; l < layout.layers; ++l) {
    Call<Space> inner = call;
    inner.layer = l;
    infer_one<0, Storage>(inner, layout.slot(l), place, parameters, states, state_stride, a, b);
    std::swap(a, b);
  }
  return a;
}

template <class Env, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void Stack<Env, Blocks...>::forward_training(const Call<Space>& call, Layout layout, const T* parameters,
                                                                T* streams, Arena tapes, bool recompute) {
  const Index step = call.batch.rows * width;
  Place place;
  for (Index l = 0; l < layout.layers; ++l) {
    Call<Space> inner = call;
    inner.layer = l;
    Arena& home = recompute ? inner.arena : tapes;
    train_one<0>(inner, layout.slot(l), place, parameters, streams + l * step, streams + (l + 1) * step, home);
  }
}

template <class Env, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION T* Stack<Env, Blocks...>::backward(const Call<Space>& call, Layout layout, const T* parameters, T* gradient,
                                                      T* streams, Arena tapes, bool recompute, T* d, T* other) {
  const Index step = call.batch.rows * width;
  Place place{all_parameter_elements<T, Flat>(layout), 0};
  for (Index l = layout.layers - 1; l >= 0; --l) {
    Call<Space> inner = call;
    inner.layer = l;
    ops::zero(call.space, step, other);
    backward_one<0>(inner, layout.slot(l), place, parameters, gradient, streams + l * step, streams + (l + 1) * step, tapes,
                    recompute, d, other);
    std::swap(d, other);
  }
  return d;
}

}  // namespace hybridmoe
