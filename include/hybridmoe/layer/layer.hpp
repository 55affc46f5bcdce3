#pragma once
/// @file layer.hpp
/// What every layer is. A layer is a stateless type, bound to the model's width by an Environment:
///
///   width                           constexpr Index: elements of a row of x and of y
///   Parameters<T, Storage>          struct of Arrays/Weights in place (trivial; only elements of type T)
///   visit(f, at, p...)              the only list of its tensors: f(name, trait, tensor...)
///   State<T>                        struct of Arrays: what one sequence carries between calls (Stateless if nothing)
///   Tape<T>(arena, extent)          plan of what forward leaves for backward (and uses itself)
///   forward(call, p, x, y, states, tape)           y is assigned
///   backward(call, p, x, tape, dy, dx, gradient)   dx and gradient are added to
///   workspace_bytes<T, Storage>(extent)            scratch that forward (and backward if extent.training) takes from the arena
///   rewinds (optional, false if absent)   a state needs nothing but a smaller position to take Environment::rewind tokens back
///   expert_count (optional, 0 if absent)  experts that forward chooses among for each row and counts (router::count_loads)
///   takes (optional)                StreamShapes of the streams that it reads and that are not of one width in every model
///   Parts (optional)                LayerList of the layers and routers that it is made of, which may take streams too
///   accounting: causal, active_parameters(), flops_per_token(context); of what a sequence carries, in elements at least:
///   recurrent_elements whatever its length, and cache_elements(length) beside them

#include <concepts>

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/core/visit.hpp>
#include <hybridmoe/exec/space.hpp>
#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/side.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// What the model tells a layer about itself.
/// chunk: the longest piece of a sequence that one call with a state may carry (longer prompts are fed in pieces).
/// rewind: how many of its last tokens a sequence may take back; states keep as many rows more.
template <Index width_, Index context_, Index chunk_ = 128, Index rewind_ = 0>
struct Environment {
  static constexpr Index width = width_, context = context_, chunk = chunk_, rewind = rewind_;
};

/// Dropout of the call: rate 0 means none. The mask is a function of (key, layer, site, row, column).
struct Noise {
  random::Key key{};
  float rate = 0;
};

/// Everything about a call that is not data: where it runs, which rows, scratch, and how training wants it.
template <class Space_>
struct Call {
  using Space = Space_;
  Space space{};
  Batch batch{};
  Arena arena{};
  Index layer = 0;        ///< which layer of the stack is running
  bool training = false;  ///< whole sequences with a tape, instead of states
  Noise noise{};
  double auxiliary = 0;  ///< scale of auxiliary losses' gradients (routers), 0 = off
  double price = 0;      ///< the auxiliary loss of a forward FLOP of a row whose target is 0 (see price_of)
  double progress = 1;   ///< the part of training that is done, for what changes on the way
  Side side{};           ///< what sources give to layers

  /// The same call for a callee, with what is left of the scratch.
  HYBRIDMOE_FUNCTION Call with(const Arena& rest) const {
    Call inner = *this;
    inner.arena = rest;
    return inner;
  }
};

/// The auxiliary loss per forward FLOP of a row with performance target q: price·(1 − q)². A target outside [0, 1] counts as the
/// nearer end, NaN as 1. A layer that chooses how much to compute adds it, as a mean over the rows of a call, to its auxiliary
/// losses.
template <class T>
HYBRIDMOE_FUNCTION T price_of(double price, T target) {
  const T saved = saving_of(target);
  return static_cast<T>(price) * saved * saved;
}

/// The states of one layer: state of slot s at base + s·stride. Null base: no state (training).
template <class State>
struct States {
  std::byte* base = nullptr;
  Index stride = 0;
  HYBRIDMOE_FUNCTION explicit operator bool() const { return base != nullptr; }
  HYBRIDMOE_FUNCTION State& operator[](Index slot) const { return *reinterpret_cast<State*>(base + slot * stride); }
};

/// Layers and routers, as types.
template <class... Layers>
struct LayerList {};

/// The state of a layer that carries nothing.
struct Stateless {};

/// The tape of a layer that leaves nothing.
struct Tapeless {
  HYBRIDMOE_FUNCTION constexpr Tapeless(auto&, Extent) {}
};

/// Least, target and most, where a choice at run time decides.
struct Spread {
  Index least = 0, target = 0, most = 0;
  static constexpr Spread always(Index n) { return {n, n, n}; }
  friend constexpr Spread operator+(Spread a, Spread b) { return {a.least + b.least, a.target + b.target, a.most + b.most}; }
  friend constexpr bool operator==(Spread, Spread) = default;
};

/// Floating-point operations (a multiply-add is two) for one token.
struct Flops {
  double forward = 0, training = 0;  ///< training: forward and backward together
  friend constexpr Flops operator+(Flops a, Flops b) { return {a.forward + b.forward, a.training + b.training}; }
  /// A product with n weights: forward 2n; backward as much again for each of its two products.
  static constexpr Flops product(double n) { return {2 * n, 6 * n}; }
};

/// Whether a layer's state can be taken back by lowering the position alone.
template <class L>
constexpr bool rewinds = [] {
  if constexpr (requires { L::rewinds; })
    return bool(L::rewinds);
  else
    return std::is_empty_v<typename L::template State<float>>;
}();

/// How many experts a layer chooses among.
template <class L>
constexpr Index expert_count = [] {
  if constexpr (requires { L::expert_count; })
    return L::expert_count;
  else
    return Index{0};
}();

/// Bytes of a state; an empty one takes none.
template <class State>
constexpr Index state_bytes = std::is_empty_v<State> ? 0 : static_cast<Index>(sizeof(State));

}  // namespace hybridmoe
