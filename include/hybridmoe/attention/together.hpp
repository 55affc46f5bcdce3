#pragma once
/// @file together.hpp
/// One mixer made of two: y = first(x) + second(x). So a block attends to tokens and to segments, say.

#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/ops/fill.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// sum = a + b
template <class T>
struct SumLossesKernel {
  const T *a, *b;
  T* sum;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const { *sum = *a + *b; }
};

/// The description. Tensors: first.*, second.*. Both see the same streams and report to the same layer.
template <class First_, class Second_>
struct Together {
  template <class Description>
  static constexpr bool is_sound = [] {
    if constexpr (requires { Description::sound; }) return bool(Description::sound);
    return true;
  }();
  static constexpr bool sound = is_sound<First_> && is_sound<Second_>;
  /// The sentence of the part that is not sound.
  template <bool asked>
  struct Requirements {
    /// Makes the part's own requirements, and so its sentence.
    template <class Part>
    static constexpr bool made() {
      return std::is_class_v<Part> && alignof(Part) > 0;
    }
    static constexpr bool of_first() {
      if constexpr (!is_sound<First_>) return made<typename First_::template Requirements<asked>>();
      return true;
    }
    static constexpr bool of_second() {
      if constexpr (!is_sound<Second_>) return made<typename Second_::template Requirements<asked>>();
      return true;
    }
    static_assert(of_first() && of_second());
  };

  template <class Env>
  struct Layer {
    using First = typename First_::template Layer<Env>;
    using Second = typename Second_::template Layer<Env>;
    using Parts = LayerList<First, Second>;
    static constexpr Index width = Env::width;
    static constexpr bool causal = First::causal && Second::causal;
    static constexpr bool rewinds = hybridmoe::rewinds<First> && hybridmoe::rewinds<Second>;

    template <class T, class Storage>
    struct Parameters {
      [[no_unique_address]] typename First::template Parameters<T, Storage> first;
      [[no_unique_address]] typename Second::template Parameters<T, Storage> second;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      First::visit(f, at / "first", p.first...);
      Second::visit(f, at / "second", p.second...);
    }

    template <class T>
    using FirstState = typename First::template State<T>;
    template <class T>
    using SecondState = typename Second::template State<T>;
    template <class T>
    static constexpr Index second_state = round_up(state_bytes<FirstState<T>>, Index{alignof(SecondState<T>)});
    template <class T>
    struct Both {
      alignas(FirstState<T>) alignas(
          SecondState<T>) std::byte bytes[to_size(larger(1, second_state<T> + state_bytes<SecondState<T>>))];
    };
    template <class T>
    using State = std::conditional_t<std::is_empty_v<FirstState<T>> && std::is_empty_v<SecondState<T>>, Stateless, Both<T>>;

    template <class Part, class T>
    static constexpr bool has_losses =
        requires(const typename Part::template Tape<T>& tape) { Part::template losses<T>(tape).value; };

    template <class T>
    struct Tape {
      typename First::template Tape<T> first;
      typename Second::template Tape<T> second;
      T* loss = nullptr;  ///< [1] where both have auxiliary losses
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e) : first(arena, e), second(arena, e) {
        if (has_losses<First, T> && has_losses<Second, T> && e.training) loss = arena.template take<T>(1);
      }
    };

    template <class T>
    struct Scratch {
      T* branch;  ///< [rows, width] second(x)
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows) : branch(arena.template take<T>(rows * width)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const Index second = Second::template workspace_bytes<T, Storage>(e);
      return larger(First::template workspace_bytes<T, Storage>(e), planned_bytes<Scratch<T>>(e.rows) + second);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      std::byte* const base = states.base;
      First::forward(call, p.first, x, y, States<FirstState<T>>{std::is_empty_v<FirstState<T>> ? nullptr : base, states.stride},
                     tape.first);
      Arena arena = call.arena;
      const Scratch<T> s(arena, call.batch.rows);
      const bool none = base == nullptr || std::is_empty_v<SecondState<T>>;
      Second::forward(call.with(arena), p.second, x, Rows<T, width>{s.branch},
                      States<SecondState<T>>{none ? nullptr : base + second_state<T>, states.stride}, tape.second);
      ops::add(call.space, call.batch.rows * width, static_cast<const T*>(s.branch), y.data);
      if constexpr (has_losses<First, T> && has_losses<Second, T>) {
        const T* const one = First::template losses<T>(tape.first).value;
        const T* const other = Second::template losses<T>(tape.second).value;
        if (call.training && one != nullptr && other != nullptr) call.space.each(1, SumLossesKernel<T>{one, other, tape.loss});
      }
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      First::backward(call, p.first, x, tape.first, dy, dx, gradient.first);
      // The second has the room that it has in forward: one size is declared for both.
      Arena arena = call.arena;
      [[maybe_unused]] const Scratch<T> s(arena, call.batch.rows);
      Second::backward(call.with(arena), p.second, x, tape.second, dy, dx, gradient.second);
    }

    /// The sum of both parts' auxiliary losses.
    template <class T>
    HYBRIDMOE_FUNCTION static auto losses(const Tape<T>& tape)
      requires(has_losses<First, T> || has_losses<Second, T>)
    {
      struct Sum {
        const T* value;
      };
      if constexpr (!has_losses<Second, T>) {
        return Sum{First::template losses<T>(tape.first).value};
      } else if constexpr (!has_losses<First, T>) {
        return Sum{Second::template losses<T>(tape.second).value};
      } else {
        const T* const one = First::template losses<T>(tape.first).value;
        const T* const other = Second::template losses<T>(tape.second).value;
        return Sum{one == nullptr ? other : other == nullptr ? one : tape.loss};
      }
    }

    // Accounting.
    static constexpr Spread active_parameters() { return First::active_parameters() + Second::active_parameters(); }
    static constexpr Flops flops_per_token(Index context) {
      return First::flops_per_token(context) + Second::flops_per_token(context) + Flops{1.0 * width, 2.0 * width};
    }
    static constexpr Index recurrent_elements = First::recurrent_elements + Second::recurrent_elements;
    static constexpr Index cache_elements(Index context) {
      return First::cache_elements(context) + Second::cache_elements(context);
    }
    /// The most forward FLOPs of a token at a budget.
    static constexpr double capped_flops(Index context, double beta) {
      return most_flops<First>(context, beta) + most_flops<Second>(context, beta) + 1.0 * width;
    }
  };
};

}  // namespace hybridmoe::attention
