#pragma once
/// @file gelu.hpp
/// The plain MLP, y = down(f(up x)); with f = gelu (Hendrycks and Gimpel 2016) it is GPT-2's and BERT's.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/activation.hpp>
#include <hybridmoe/ops/fill.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// F: one of ops::activation. Tensors up.weight [hidden, width], down.weight [width, hidden], and up.bias, down.bias if asked.
template <Index hidden, class F, bool biased = true>
struct Mlp {
  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, hidden, width> up;
      Weight<T, Storage, width, hidden> down;
      [[no_unique_address]] Optional<biased, Array<T, hidden>, 0> up_bias;
      [[no_unique_address]] Optional<biased, Array<T, width>, 1> down_bias;
    };
    static constexpr void visit(auto&& f, const Name& at, auto&... p) {
      f(at / "up" / "weight", Trait::weight(), p.up...);
      if constexpr (biased) f(at / "up" / "bias", Trait::bias(), p.up_bias...);
      f(at / "down" / "weight", Trait::output(), p.down...);
      if constexpr (biased) f(at / "down" / "bias", Trait::bias(), p.down_bias...);
    }

    template <class T>
    using State = Stateless;
    template <class T>
    struct Tape {
      T* side;  ///< [rows, hidden]: up x
      T* h;     ///< [rows, hidden]: f(up x)
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent extent)
          : side(arena.template take<T>(extent.rows * hidden)), h(arena.template take<T>(extent.rows * hidden)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent extent) {
      return (extent.training ? planned_bytes<Scratch<T>>(extent.rows) : 0) +
             larger(product_workspace<T, Storage, hidden, width>(extent), product_workspace<T, Storage, width, hidden>(extent));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless>, const Tape<T>& tape) {
      const Index rows = call.batch.rows;
      Up<Space, T>::forward(call.space, call.arena, rows, x.data, p.up, first_element<const T, biased>(p.up_bias), tape.side);
      ops::Activation<Space, T, F, hidden>::forward(call.space, rows, tape.side, tape.h);
      Down<Space, T>::forward(call.space, call.arena, rows, tape.h, p.down, first_element<const T, biased>(p.down_bias), y.data);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Index rows = call.batch.rows;
      Arena rest = call.arena;
      const Scratch<T> scratch(rest, rows);
      ops::zero(call.space, rows * hidden, scratch.slope);
      Down<Space, T>::backward_input(call.space, rest, rows, dy.data, p.down, scratch.slope);
      Down<Space, T>::backward_weight(call.space, rest, rows, tape.h, dy.data, gradient.down,
                                      first_element<T, biased>(gradient.down_bias));
      ops::Activation<Space, T, F, hidden>::backward(call.space, rows, tape.side, scratch.slope);
      Up<Space, T>::backward_input(call.space, rest, rows, scratch.slope, p.up, dx.data);
      Up<Space, T>::backward_weight(call.space, rest, rows, x.data, scratch.slope, gradient.up,
                                    first_element<T, biased>(gradient.up_bias));
    }

    static constexpr Spread active_parameters() { return Spread::always(2 * width * hidden + (biased ? hidden + width : 0)); }
    static constexpr Flops flops_per_token(Index) { return Flops::product(2.0 * width * hidden); }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using Up = ops::Matmul<Space, T, hidden, width>;
    template <class Space, class T>
    using Down = ops::Matmul<Space, T, width, hidden>;

    template <class T>
    struct Scratch {
      T* slope;  ///< [rows, hidden]: ∂/∂h, then ∂/∂(up x)
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows) : slope(arena.template take<T>(rows * hidden)) {}
    };
  };
};

/// Which gelu: ½x(1 + tanh(…)), GPT-2's, or xΦ(x) itself.
enum class GeluForm { tanh, erf };

template <Index hidden, GeluForm form = GeluForm::tanh, bool biased = true>
struct Gelu
    : Mlp<hidden, std::conditional_t<form == GeluForm::tanh, ops::activation::GeluTanh, ops::activation::GeluErf>, biased> {};

/// up, relu², down (So et al., "Primer", 2021): Nemotron's.
template <Index hidden, bool biased = false>
struct SquaredRelu : Mlp<hidden, ops::activation::SquaredRelu, biased> {};

}  // namespace hybridmoe::channel
