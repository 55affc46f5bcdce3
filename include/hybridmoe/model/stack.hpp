#pragma once
/// @file stack.hpp
/// The layers of a model as a run-time loop over a table {slot, parameter offset, state offset}: code grows with the kinds of
/// layer, never with their number, and one instantiation serves every pattern over the same slots.

#include <array>
#include <tuple>
#include <utility>

#include <hybridmoe/model/block.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// One layer of the stack.
struct StackEntry {
  int slot = 0;          ///< which of the Slots
  Index parameters = 0;  ///< offset in elements of the parameter buffer
  Index state = 0;       ///< offset in bytes of a sequence's state
};

/// The kinds of layer of a model. Blocks... are bound to Env.
template <class Env, class... Blocks>
struct Stack {
  static constexpr int kinds = sizeof...(Blocks);
  static constexpr Index width = Env::width;
  template <int slot>
  using LayerOf = typename std::tuple_element_t<static_cast<std::size_t>(slot), std::tuple<Blocks...>>::template Layer<Env>;

  template <class T, class Storage>
  static constexpr std::array<Index, kinds> parameter_elements{
      element_count<typename Blocks::template Layer<Env>::template Parameters<T, Storage>, T>...};
  template <class T>
  static constexpr std::array<Index, kinds> state_sizes{
      round_up(state_bytes<typename Blocks::template Layer<Env>::template State<T>>, arena_alignment)...};

  /// Tape bytes of a layer of each kind.
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

  /// The table of a pattern given as slot numbers; parameters start at element `first`.
  template <class T, class Storage, std::size_t count>
  static constexpr std::array<StackEntry, count> table(const std::array<int, count>& slots, Index first) {
    std::array<StackEntry, count> result{};
    Index state = 0;
    for (std::size_t l = 0; l < count; ++l) {
      const auto slot = static_cast<std::size_t>(slots[l]);
      result[l] = {slots[l], first, state};
      first += parameter_elements<T, Storage>[slot];
      state += state_sizes<T>[slot];
    }
    return result;
  }

  /// A pattern laid out, as the functions below take it. They do not depend on the pattern's type.
  struct Layers {
    const StackEntry* entries = nullptr;
    Index count = 0;
  };

  /// Inference: x (in a) through all layers, with states. a and b are two buffers [rows, width]; returns the one that holds the
  /// result.
  template <class Space, class T, class Storage>
  HYBRIDMOE_FUNCTION static T* forward(const Call<Space>& call, Layers layers, const T* parameters, Storage, std::byte* states,
                                       Index state_stride, T* a, T* b);

  /// Training: streams [layers + 1][rows, width], the first filled by the caller, keep every layer's input; tapes go to `tapes`
  /// layer after layer, or to scratch if they are to be recomputed.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void forward_training(const Call<Space>& call, Layers layers, const T* parameters, T* streams,
                                                  Arena tapes, bool recompute);

  /// The way back: d holds the gradient by the last stream; returns the buffer (d or other) that holds it by the first.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static T* backward(const Call<Space>& call, Layers layers, const T* parameters, T* gradient, T* streams,
                                        Arena tapes, bool recompute, T* d, T* other);

  /// The bytes of all layers' tapes.
  template <class T>
  static constexpr Index all_tape_bytes(Layers layers, Extent e) {
    const auto bytes = tape_bytes<T>(e);
    Index total = 0;
    for (Index l = 0; l < layers.count; ++l) total += bytes[static_cast<std::size_t>(layers.entries[l].slot)];
    return total;
  }

 private:
  template <class T>
  HYBRIDMOE_FUNCTION static Arena tape_of(Arena tapes, Layers layers, Index layer, const Batch& batch) {
    const auto bytes = tape_bytes<T>(Extent::of(batch, true));
    for (Index l = 0; l < layer; ++l) tapes.next += bytes[static_cast<std::size_t>(layers.entries[l].slot)];
    return tapes;
  }

  template <int slot, class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void infer_one(Call<Space>& call, const StackEntry& entry, const T* parameters, std::byte* states,
                                           Index stride, const T* x, T* y) {
    if constexpr (slot < kinds) {
      if (entry.slot != slot) return infer_one<slot + 1, Storage>(call, entry, parameters, states, stride, x, y);
      using Layer = LayerOf<slot>;
      using State = typename Layer::template State<T>;
      const typename Layer::template Tape<T> tape(call.arena, Extent::of(call.batch, false));
      Layer::forward(call,
                     *reinterpret_cast<const typename Layer::template Parameters<T, Storage>*>(parameters + entry.parameters),
                     Rows<const T, width>{x}, Rows<T, width>{y}, States<State>{states + entry.state, stride}, tape);
    }
  }

  template <int slot, class Space, class T>
  HYBRIDMOE_FUNCTION static void train_one(Call<Space>& call, const StackEntry& entry, const T* parameters, const T* x, T* y,
                                           Arena& home) {
    if constexpr (slot < kinds) {
      if (entry.slot != slot) return train_one<slot + 1>(call, entry, parameters, x, y, home);
      using Layer = LayerOf<slot>;
      const typename Layer::template Tape<T> tape(home, Extent::of(call.batch, true));
      Layer::forward(call, *reinterpret_cast<const typename Layer::template Parameters<T, Flat>*>(parameters + entry.parameters),
                     Rows<const T, width>{x}, Rows<T, width>{y}, States<typename Layer::template State<T>>{}, tape);
    }
  }

  template <int slot, class Space, class T>
  HYBRIDMOE_FUNCTION static void backward_one(Call<Space>& call, const StackEntry& entry, const T* parameters, T* gradient,
                                              const T* x, T* y, Arena home, bool recompute, const T* dy, T* dx) {
    if constexpr (slot < kinds) {
      if (entry.slot != slot) return backward_one<slot + 1>(call, entry, parameters, gradient, x, y, home, recompute, dy, dx);
      using Layer = LayerOf<slot>;
      using Parameters = typename Layer::template Parameters<T, Flat>;
      const auto& p = *reinterpret_cast<const Parameters*>(parameters + entry.parameters);
      const typename Layer::template Tape<T> tape(recompute ? call.arena : home, Extent::of(call.batch, true));
      if (recompute)
        Layer::forward(call, p, Rows<const T, width>{x}, Rows<T, width>{y}, States<typename Layer::template State<T>>{}, tape);
      Layer::backward(call, p, Rows<const T, width>{x}, tape, Rows<const T, width>{dy}, Rows<T, width>{dx},
                      *reinterpret_cast<Parameters*>(gradient + entry.parameters));
    }
  }
};

// Outside the class, so that they are not inline: `extern template` then keeps all layers out of a unit.
template <class Env, class... Blocks>
template <class Space, class T, class Storage>
HYBRIDMOE_FUNCTION T* Stack<Env, Blocks...>::forward(const Call<Space>& call, Layers layers, const T* parameters, Storage,
                                                     std::byte* states, Index state_stride, T* a, T* b) {
  for (Index l = 0; l < layers.count; ++l) {
    Call<Space> inner = call;
    inner.layer = l;
    infer_one<0, Storage>(inner, layers.entries[l], parameters, states, state_stride, a, b);
    std::swap(a, b);
  }
  return a;
}

template <class Env, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void Stack<Env, Blocks...>::forward_training(const Call<Space>& call, Layers layers, const T* parameters,
                                                                T* streams, Arena tapes, bool recompute) {
  const Index step = call.batch.rows * width;
  for (Index l = 0; l < layers.count; ++l) {
    Call<Space> inner = call;
    inner.layer = l;
    Arena& home = recompute ? inner.arena : tapes;
    train_one<0>(inner, layers.entries[l], parameters, streams + l * step, streams + (l + 1) * step, home);
  }
}

template <class Env, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION T* Stack<Env, Blocks...>::backward(const Call<Space>& call, Layers layers, const T* parameters, T* gradient,
                                                      T* streams, Arena tapes, bool recompute, T* d, T* other) {
  const Index step = call.batch.rows * width;
  for (Index l = layers.count - 1; l >= 0; --l) {
    Call<Space> inner = call;
    inner.layer = l;
    ops::zero(call.space, step, other);
    const Arena home = recompute ? Arena{} : tape_of<T>(tapes, layers, l, call.batch);
    backward_one<0>(inner, layers.entries[l], parameters, gradient, streams + l * step, streams + (l + 1) * step, home, recompute,
                    d, other);
    std::swap(d, other);
  }
  return d;
}

}  // namespace hybridmoe
