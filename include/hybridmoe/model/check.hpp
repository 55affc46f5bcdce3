#pragma once
/// @file check.hpp
/// Is a model sound? Everything is asked here, once, before anything is built from it, and the first wrong answer is one
/// sentence.

#include <hybridmoe/model/block.hpp>
#include <hybridmoe/model/pattern.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

template <Index position>
struct at_position {};
template <Index width>
struct got {};
template <Index width>
struct expected {};

namespace check_model {

template <class Letter, class Position, bool defined>
constexpr bool pattern_letter() {
  static_assert(defined, "the layer pattern uses a letter that no Slot<> defines");
  return defined;
}
template <class Letter, bool once>
constexpr bool slot_letter() {
  static_assert(once, "two Slot<>s define the same letter");
  return once;
}
template <class Got, class Expected, bool same>
constexpr bool the_mixer_has_another_width_than_the_model() {
  static_assert(same, "a layer has another width than the model");
  return same;
}

/// The questions for one layer, in order; each is asked only if those before it were answered well.
template <class Description, class Env>
constexpr bool layer() {
  if constexpr (std::is_same_v<Description, channel::Nothing>) {
    return true;
  } else if constexpr (!Bindable<Description, Env>) {
    static_assert(Bindable<Description, Env>,
                  "a Block's mixer, channel or norm is not a layer: it has no member template Layer<Environment>");
    return false;
  } else {
    using L = typename Description::template Layer<Env>;
    if constexpr (!HasTensors<L>) {
      static_assert(HasTensors<L>, "missing Parameters<T, Storage>: a layer names its tensors there");
      return false;
    } else if constexpr (L::width != Env::width) {
      return the_mixer_has_another_width_than_the_model<got<L::width>, expected<Env::width>, L::width == Env::width>();
    } else if constexpr (!HasForward<L>) {
      static_assert(HasForward<L>, "missing forward(call, p, x, y, states, tape)");
      return false;
    } else if constexpr (!HasBackward<L>) {
      static_assert(HasBackward<L>, "missing backward(call, p, x, tape, dy, dx, gradient)");
      return false;
    } else if constexpr (!HasAccounting<L>) {
      static_assert(HasAccounting<L>,
                    "missing accounting: active_parameters, flops_per_token, recurrent_elements, cache_elements_per_token, "
                    "workspace_bytes");
      return false;
    } else if constexpr (!L::causal) {
      static_assert(L::causal, "a decoder needs causal layers: this mixer or router looks at later tokens");
      return false;
    } else {
      return true;
    }
  }
}

template <class Block, class Env>
constexpr bool block() {
  if constexpr (!requires {
                  typename Block::Mixer;
                  typename Block::Channel;
                  typename Block::NormOption;
                }) {
    static_assert(requires { typename Block::Mixer; }, "a Slot<> must bind its letter to a Block<mixer, channel, options...>");
    return false;
  } else {
    return layer<typename Block::Mixer, Env>() && layer<typename Block::Channel, Env>() &&
           layer<typename Block::NormOption::type, Env>();
  }
}

template <class Pattern, Index position, char... letters>
constexpr bool letters_defined() {
  if constexpr (position == Pattern::period_size || position == Pattern::count) {
    return true;
  } else {
    constexpr char c = Pattern::letter_at(position);
    constexpr bool defined = ((c == letters) || ...);
    if constexpr (!defined)
      return pattern_letter<letter<c>, at_position<position>, defined>();
    else
      return letters_defined<Pattern, position + 1, letters...>();
  }
}

template <char first, char... rest>
constexpr bool letters_differ() {
  if constexpr (sizeof...(rest) == 0)
    return true;
  else if constexpr (((first == rest) || ...))
    return slot_letter<letter<first>, !((first == rest) || ...)>();
  else
    return letters_differ<rest...>();
}

}  // namespace check_model
}  // namespace hybridmoe
