#pragma once
/// @file check.hpp
/// What a type needs to be a layer, piece by piece. model/check.hpp asks once and answers with one sentence for the first that is
/// missing.

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// A description of a layer: becomes a layer when a model tells it its width.
template <class Description, class Env>
concept Bindable = requires { typename Description::template Layer<Env>; };

template <class L>
concept HasTensors = requires { typename L::template Parameters<float, Flat>; };

template <class L>
concept HasForward =
    requires(const Call<exec::Inline>& call, const typename L::template Parameters<float, Flat>& p, Rows<const float, L::width> x,
             Rows<float, L::width> y, States<typename L::template State<float>> states,
             const typename L::template Tape<float>& tape) { L::forward(call, p, x, y, states, tape); };

template <class L>
concept HasBackward =
    requires(const Call<exec::Inline>& call, const typename L::template Parameters<float, Flat>& p, Rows<const float, L::width> x,
             const typename L::template Tape<float>& tape, Rows<float, L::width> dx,
             typename L::template Parameters<float, Flat>& gradient) { L::backward(call, p, x, tape, x, dx, gradient); };

template <class L>
concept HasAccounting = requires {
  { L::active_parameters() } -> std::same_as<Spread>;
  { L::flops_per_token(Index{1}) } -> std::same_as<Flops>;
  { L::cache_elements(Index{1}) } -> std::convertible_to<Index>;
  { L::recurrent_elements } -> std::convertible_to<Index>;
  { L::template workspace_bytes<float, Flat>(Extent{}) } -> std::convertible_to<Index>;
};

}  // namespace hybridmoe
