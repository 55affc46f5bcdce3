#pragma once
/// @file source.hpp
/// What a source is: a part of a model that runs between the embedding and the stack and fills streams (layer/side.hpp) for the
/// layers: an estimator of complexity, a hierarchy of segments, a controller. A source is stateless code over parameters, a state
/// and a tape, as a layer is. Its description has `template <class Env> struct Layer`, Env a SourceEnvironment, with
///
///   name                            constexpr std::string_view: where its tensors lie
///   Parameters<T, Storage>, visit, State<T>, Tape<T>(arena, extent), workspace_bytes<T, Storage>(extent)
///                                   as in layer/layer.hpp; values of streams, and in training their gradients, lie in the tape
///   forward(call, p, input, x, states, tape)          reads streams of earlier sources in call.side; x [rows, width] holds the
///                                   embeddings and what earlier sources added; a source may add to it
///   streams(tape, rows, side)       sets the source's streams in `side`: where the tape holds their values and gradients
///   backward(call, p, input, tape, dx, d_embedding, gradient)    after the stack's backward: the streams' gradients are complete
///                                   (call.side is as the layers saw it); dx is the gradient by the stack's input; what the
///                                   source read of the raw embeddings it adds to d_embedding (dx itself has been added already);
///                                   it adds to the gradients of earlier sources' streams
///   gives                           optional: StreamShapes of the streams that it sets, for the model to compare with layers'
///   losses<T>(tape)                 optional: a pointer to the value of its auxiliary losses after a training forward
///   causal, rewinds, active_parameters(), flops_per_token(context), recurrent_elements, cache_elements(context)
///
/// In training, forward zeroes the gradients of the streams that it sets.

#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/layer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// What sources know beyond a layer's environment.
template <class Env, Index layers_, Index vocab_>
struct SourceEnvironment : Env {
  static constexpr Index layers = layers_, vocab = vocab_;
};

/// What sources read: [rows] token ids and [rows, width] their embeddings.
template <class T, Index width>
struct SourceInput {
  const std::int32_t* token = nullptr;
  Rows<const T, width> embedding{};
};

/// The sources of a model, run in order. This is the end of the list: it does nothing.
template <class Env, class... Sources>
struct SourceList {
  static constexpr Index width = Env::width;
  static constexpr bool causal = true, rewinds = true, empty = true;

  template <class T, class Storage>
  struct Parameters {};
  static void visit(auto&&, const Name&, auto&...) {}
  template <class T>
  using Tape = Tapeless;
  template <class T>
  static constexpr Index state_size = 0;
  template <class T, class Storage>
  static constexpr Index workspace_bytes(Extent) {
    return 0;
  }
  template <class Space, class T, class Storage>
  HYBRIDMOE_FUNCTION static void forward(const Call<Space>&, const Parameters<T, Storage>&, const SourceInput<T, width>&,
                                         Rows<T, width>, std::byte*, Index, const Tape<T>&) {}
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void backward(const Call<Space>&, const Parameters<T, Flat>&, const SourceInput<T, width>&,
                                          const Tape<T>&, Rows<const T, width>, Rows<T, width>, Parameters<T, Flat>&) {}
  template <class T>
  HYBRIDMOE_FUNCTION static void streams(const Tape<T>&, Index, Side&) {}
  template <class T>
  HYBRIDMOE_FUNCTION static constexpr void losses(const Tape<T>&, auto&&) {}
  static constexpr Spread active_parameters() { return {}; }
  static constexpr Flops flops_per_token(Index) { return {}; }
  static constexpr double capped_flops(Index, double) { return 0; }
  static constexpr Index recurrent_elements = 0;
  static constexpr Index cache_elements(Index) { return 0; }
};

template <class Env, class First_, class... Others>
struct SourceList<Env, First_, Others...> {
  using First = typename First_::template Layer<Env>;
  using Rest = SourceList<Env, Others...>;
  static constexpr Index width = Env::width;
  static constexpr bool causal = First::causal && Rest::causal, empty = false;
  static constexpr bool rewinds = hybridmoe::rewinds<First> && Rest::rewinds;

  template <class T, class Storage>
  struct Parameters {
    [[no_unique_address]] typename First::template Parameters<T, Storage> first;
    [[no_unique_address]] typename Rest::template Parameters<T, Storage> rest;
  };
  static void visit(auto&& f, const Name& at, auto&... p) {
    First::visit(f, at / First::name, p.first...);
    Rest::visit(f, at, p.rest...);
  }

  template <class T>
  struct Tape {
    typename First::template Tape<T> first;
    typename Rest::template Tape<T> rest;
    HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e) : first(arena, e), rest(arena, e) {}
  };

  /// Bytes of one sequence's states, each source's on a cache line.
  template <class T>
  static constexpr Index first_state = round_up(state_bytes<typename First::template State<T>>, arena_alignment);
  template <class T>
  static constexpr Index state_size = first_state<T> + Rest::template state_size<T>;

  template <class T, class Storage>
  static constexpr Index workspace_bytes(Extent e) {
    return larger(First::template workspace_bytes<T, Storage>(e), Rest::template workspace_bytes<T, Storage>(e));
  }

  /// states: the first sequence's, state_stride bytes apart; null in training.
  template <class Space, class T, class Storage>
  HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p,
                                         const SourceInput<T, width>& input, Rows<T, width> x, std::byte* states,
                                         Index state_stride, const Tape<T>& tape) {
    First::forward(call, p.first, input, x, States<typename First::template State<T>>{states, state_stride}, tape.first);
    Call<Space> next = call;
    First::template streams<T>(tape.first, call.batch.rows, next.side);
    Rest::forward(next, p.rest, input, x, states == nullptr ? nullptr : states + first_state<T>, state_stride, tape.rest);
  }

  /// Sets all streams, for the layers.
  template <class T>
  HYBRIDMOE_FUNCTION static void streams(const Tape<T>& tape, Index rows, Side& side) {
    First::template streams<T>(tape.first, rows, side);
    Rest::template streams<T>(tape.rest, rows, side);
  }

  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p,
                                          const SourceInput<T, width>& input, const Tape<T>& tape, Rows<const T, width> dx,
                                          Rows<T, width> d_embedding, Parameters<T, Flat>& gradient) {
    Rest::backward(call, p.rest, input, tape.rest, dx, d_embedding, gradient.rest);
    First::backward(call, p.first, input, tape.first, dx, d_embedding, gradient.first);
  }

  /// Calls f(value) with the address of each source's auxiliary loss.
  template <class T>
  HYBRIDMOE_FUNCTION static void losses(const Tape<T>& tape, auto&& f) {
    if constexpr (requires { First::template losses<T>(tape.first); })
      if (const T* const value = First::template losses<T>(tape.first); value != nullptr) f(value);
    Rest::template losses<T>(tape.rest, f);
  }

  static constexpr Spread active_parameters() { return First::active_parameters() + Rest::active_parameters(); }
  static constexpr Flops flops_per_token(Index context) {
    return First::flops_per_token(context) + Rest::flops_per_token(context);
  }
  /// The most forward FLOPs of one token at budget β.
  static constexpr double capped_flops(Index context, double beta) {
    return most_flops<First>(context, beta) + Rest::capped_flops(context, beta);
  }
  static constexpr Index recurrent_elements = First::recurrent_elements + Rest::recurrent_elements;
  static constexpr Index cache_elements(Index context) { return First::cache_elements(context) + Rest::cache_elements(context); }
};

}  // namespace hybridmoe
