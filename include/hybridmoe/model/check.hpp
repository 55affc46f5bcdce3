#pragma once
/// @file check.hpp
/// Is a model sound? Everything is asked here, once, before anything is built from it, and the first wrong answer is one
/// sentence.

#include <hybridmoe/layer/source.hpp>
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

/// The answer for a sound part; and below the others: types that cannot be made, each with the sentence that says why. They are
/// only named while a model is asked, and made once, by the model itself, so that a compiler's message is short.
struct Sound {};
template <class...>
constexpr bool possible = false;

template <class Letter, class Position>
struct UnknownLetter {
  static_assert(possible<Letter>, "the layer pattern uses a letter that no Slot<> defines");
};
template <class Letter>
struct LetterDefinedTwice {
  static_assert(possible<Letter>, "two Slot<>s define the same letter");
};
template <class Slot>
struct NoBlock {
  static_assert(possible<Slot>, "a Slot<> must bind its letter to a Block<mixer, channel, options...>");
};
template <class Description>
struct NotALayer {
  static_assert(possible<Description>,
                "a Block's mixer, channel or norm is not a layer: it has no member template Layer<Environment>");
};
template <class Description>
struct NoTensors {
  static_assert(possible<Description>, "missing Parameters<T, Storage>: a layer names its tensors there");
};
template <class Description, class Got, class Expected>
struct AnotherWidth {
  static_assert(possible<Description>, "a layer has another width than the model");
};
template <class Description>
struct NoForward {
  static_assert(possible<Description>, "missing forward(call, p, x, y, states, tape)");
};
template <class Description>
struct NoBackward {
  static_assert(possible<Description>, "missing backward(call, p, x, tape, dy, dx, gradient)");
};
template <class Description>
struct NoAccounting {
  static_assert(possible<Description>,
                "missing accounting: active_parameters, flops_per_token, recurrent_elements, cache_elements, workspace_bytes");
};
template <class Description>
struct NotCausal {
  static_assert(possible<Description>, "a decoder needs causal layers: this mixer or router looks at later tokens");
};

template <class Stream, class Description, class Got, class Expected>
struct AnotherStreamWidth {
  static_assert(possible<Description>, "a layer or router reads a stream of another width than the model's source gives");
};
template <class Description>
struct NoRoomForSegments {
  static_assert(
      possible<Description>,
      "a layer has no room for all segments that the model's source may close: its SegmentLimits have a longer `least`");
};
template <class Description>
struct NotASource {
  static_assert(possible<Description>, "a member of Sources<> is not a source: layer/source.hpp lists a source's parts");
};

/// An answer as a value, so that it can be passed on without being made.
template <class Answer>
struct Is {
  using type = Answer;
};

/// The first answer that is not Sound.
constexpr auto first_fault() { return Is<Sound>{}; }
template <class First, class... Rest>
constexpr auto first_fault(Is<First> first, Rest... rest) {
  if constexpr (std::is_same_v<First, Sound>)
    return check_model::first_fault(rest...);
  else
    return first;
}

/// The questions for one layer, in order; each is asked only if those before it were answered well. A description may say
/// `static constexpr bool sound` of its own sizes, and what is wrong in `template <bool asked> struct Requirements`.
template <class Description, class Env>
constexpr auto layer() {
  if constexpr (std::is_same_v<Description, channel::Nothing>) {
    return Is<Sound>{};
  } else if constexpr (requires { requires !Description::sound; }) {
    return Is<typename Description::template Requirements<true>>{};
  } else if constexpr (!Bindable<Description, Env>) {
    return Is<NotALayer<Description>>{};
  } else {
    using L = typename Description::template Layer<Env>;
    if constexpr (!HasTensors<L>)
      return Is<NoTensors<Description>>{};
    else if constexpr (L::width != Env::width)
      return Is<AnotherWidth<Description, got<L::width>, expected<Env::width>>>{};
    else if constexpr (!HasForward<L>)
      return Is<NoForward<Description>>{};
    else if constexpr (!HasBackward<L>)
      return Is<NoBackward<Description>>{};
    else if constexpr (!HasAccounting<L>)
      return Is<NoAccounting<Description>>{};
    else if constexpr (!L::causal)
      return Is<NotCausal<Description>>{};
    else
      return Is<Sound>{};
  }
}

template <class Block, class Env>
constexpr auto block() {
  if constexpr (!requires {
                  typename Block::Mixer;
                  typename Block::Channel;
                  typename Block::NormOption;
                })
    return Is<NoBlock<Block>>{};
  else if constexpr (requires { typename Block::PostNormOption; })
    return check_model::first_fault(layer<typename Block::Mixer, Env>(), layer<typename Block::Channel, Env>(),
                                    layer<typename Block::NormOption::type, Env>(),
                                    layer<typename Block::PostNormOption::type, Env>(),
                                    layer<typename Block::ChannelPostNormOption::type, Env>());
  else
    return check_model::first_fault(layer<typename Block::Mixer, Env>(), layer<typename Block::Channel, Env>(),
                                    layer<typename Block::NormOption::type, Env>());
}

/// Whether a member of Sources<> has a source's parts.
template <class Description, class Env>
constexpr auto source() {
  if constexpr (!Bindable<Description, Env>) {
    return Is<NotASource<Description>>{};
  } else {
    using S = typename Description::template Layer<Env>;
    if constexpr (requires(const typename S::template Tape<float>& tape, Side& side) {
                    { S::name } -> std::convertible_to<std::string_view>;
                    typename S::template Parameters<float, Flat>;
                    typename S::template State<float>;
                    S::template streams<float>(tape, Index{1}, side);
                    { S::active_parameters() } -> std::same_as<Spread>;
                    { S::flops_per_token(Index{1}) } -> std::same_as<Flops>;
                  }) {
      if constexpr (S::causal)
        return Is<Sound>{};
      else
        return Is<NotCausal<Description>>{};
    } else {
      return Is<NotASource<Description>>{};
    }
  }
}

/// A stream by its number, for messages.
template <int number>
struct stream_number {};
template <int number>
using StreamOf =
    std::conditional_t<number == stream::Context::number, stream::Context,
                       std::conditional_t<number == stream::Segments::number, stream::Segments, stream_number<number>>>;

/// What the sources of a model give; of two that set one stream, layers see the later.
template <class Env, class... Descriptions>
struct GivenStreams {
  template <class S>
  static constexpr StreamShapes shapes_of() {
    if constexpr (requires { S::gives; })
      return S::gives;
    else
      return {};
  }
  static constexpr StreamShapes shapes = [] {
    StreamShapes all;
    ((all = all.and_then(shapes_of<typename Descriptions::template Layer<Env>>())), ...);
    return all;
  }();
};

/// Whether layer or router L, and all that it is made of, can read the streams that the sources give. `Description` is what a
/// message names.
template <class Given, class Description, class L>
constexpr auto streams_of_layer();

template <class Given, class Description, class... Layers>
constexpr auto streams_of_parts(LayerList<Layers...>) {
  return check_model::first_fault(streams_of_layer<Given, Description, Layers>()...);
}

template <class Given, class L>
constexpr bool reads_as_given = [] {
  if constexpr (requires { L::takes; })
    return Given::shapes.differs(L::takes) < 0 && Given::shapes.fits(L::takes);
  else
    return true;
}();

template <class Given, class Description, class L>
constexpr auto streams_of_layer() {
  if constexpr (!reads_as_given<Given, L>) {
    constexpr int n = Given::shapes.differs(L::takes);
    if constexpr (n >= 0)
      return Is<AnotherStreamWidth<StreamOf<n>, Description, got<L::takes.width[n]>, expected<Given::shapes.width[n]>>>{};
    else
      return Is<NoRoomForSegments<Description>>{};
  } else if constexpr (requires { typename L::Parts; }) {
    return streams_of_parts<Given, Description>(typename L::Parts{});
  } else {
    return Is<Sound>{};
  }
}

template <class Given, class Description, class Env>
constexpr auto streams_of() {
  if constexpr (std::is_same_v<Description, channel::Nothing>)
    return Is<Sound>{};
  else
    return streams_of_layer<Given, Description, typename Description::template Layer<Env>>();
}

/// The same for a sound block. (The norm before the head sees no streams.)
template <class Given, class Block, class Env>
constexpr auto streams_of_block() {
  return check_model::first_fault(streams_of<Given, typename Block::Mixer, Env>(),
                                  streams_of<Given, typename Block::Channel, Env>(),
                                  streams_of<Given, typename Block::NormOption::type, Env>());
}

template <class Pattern, char... letters>
constexpr auto letters_defined() {
  constexpr Index unknown = [] {
    for (Index i = 0; i < Pattern::period_size && i < Pattern::count; ++i)
      if (!((Pattern::letter_at(i) == letters) || ...)) return i;
    return Index{-1};
  }();
  if constexpr (unknown < 0)
    return Is<Sound>{};
  else
    return Is<UnknownLetter<letter<Pattern::letter_at(unknown)>, at_position<unknown>>>{};
}

template <char first, char... rest>
constexpr auto letters_differ() {
  if constexpr (((first == rest) || ...))
    return Is<LetterDefinedTwice<letter<first>>>{};
  else if constexpr (sizeof...(rest) == 0)
    return Is<Sound>{};
  else
    return letters_differ<rest...>();
}

}  // namespace check_model
}  // namespace hybridmoe
