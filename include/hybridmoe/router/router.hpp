#pragma once
/// @file router.hpp
/// What a router is: it gives every token a list of experts and weights, from none to `most` of them, and learns.
///
/// A router is a description with `template <class Env, Index count, Index least, Index most> struct Layer`, whose layer has
///
///   width, count, least, target, most   constants: row width; experts; how many a token gets at least, as a rule, at most
///   causal                              whether a token's list depends on that token alone. Expert choice, for one, is not: it
///                                       compares all rows of a call, and so cannot stand in a decoder
///   Parameters<T, Storage>, visit, Tape<T>(arena, extent), workspace_bytes<T, Storage>(extent)   as in layer/layer.hpp
///   forward(call, p, x, choice, tape)                          choice is assigned
///   backward(call, p, x, tape, choice, dweight, dx, gradient)  dweight [rows, most] is the loss's gradient by choice.weight;
///                                       dx and gradient are added to, with call.auxiliary times the auxiliary losses' gradient
///   losses<T>(tape)                     the auxiliary losses' values and the load of each expert, after a training forward
///   takes (optional)                    as in layer/layer.hpp
///   active_parameters(), flops_per_token()

#include <concepts>

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

/// Lists of experts. Row r owns entries r·most … r·most + most − 1 of both arrays: its experts' numbers in ascending order and
/// their weights; unused entries come last and are −1 and 0.
template <class T, Index most_>
struct Choice {
  static constexpr Index most = most_;
  Index* expert = nullptr;
  T* weight = nullptr;

  HYBRIDMOE_FUNCTION constexpr Choice(auto& arena, Index rows)
      : expert(arena.template take<Index>(rows * most)), weight(arena.template take<T>(rows * most)) {}
};

/// counted[e] += how many of the first `rows` rows chose expert e. One item: an expert.
template <Index most>
struct CountLoadsKernel {
  Index rows;
  const Index* expert;
  Index* counted;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index e) const {
    Index sum = 0;
    for (Index i = 0; i < rows * most; ++i) sum += expert[i] == e;
    counted[e] += sum;
  }
};

/// Counts how many rows went to each of a layer's `count` experts, if anybody asks. For channel mixers, whose expert_count this
/// is.
template <Index count, class Space, class T, Index most>
HYBRIDMOE_FUNCTION void count_loads(const Call<Space>& call, const Choice<T, most>& choice) {
  const Loads& loads = call.side.loads;
  if (loads.count == nullptr) return;
  HYBRIDMOE_ASSERT(count <= loads.width && loads.rows <= call.batch.rows);
  call.space.each(smaller(count, loads.width), CountLoadsKernel<most>{smaller(loads.rows, call.batch.rows), choice.expert,
                                                                      loads.count + call.layer * loads.width});
}

/// What a router reports of a training call; pointers into its tape, null where it keeps no such figure.
template <class T>
struct Losses {
  const T* value = nullptr;  ///< [1] Σ coefficient·auxiliary loss (not scaled by call.auxiliary)
  const T* load = nullptr;   ///< [count] the share of the call's rows that chose each expert
};

template <class R, class T = float, class Storage = Flat, class Space = exec::Inline>
concept Router =
    requires {
      { R::width } -> std::convertible_to<Index>;
      { R::count } -> std::convertible_to<Index>;
      { R::least } -> std::convertible_to<Index>;
      { R::target } -> std::convertible_to<Index>;
      { R::most } -> std::convertible_to<Index>;
      { R::causal } -> std::convertible_to<bool>;
      { R::active_parameters() } -> std::same_as<Spread>;
      { R::flops_per_token() } -> std::same_as<Flops>;
      { R::template workspace_bytes<T, Storage>(Extent{}) } -> std::same_as<Index>;
    } && requires(const Call<Space>& call, const typename R::template Parameters<T, Storage>& p,
                  typename R::template Parameters<T, Flat>& gradient, Rows<const T, R::width> x, Rows<T, R::width> dx,
                  const Choice<T, R::most>& choice, const typename R::template Tape<T>& tape, const T* dweight) {
      R::forward(call, p, x, choice, tape);
      R::backward(call, p, x, tape, choice, dweight, dx, gradient);
      { R::template losses<T>(tape) } -> std::same_as<Losses<T>>;
    };

}  // namespace hybridmoe::router
