#pragma once
/// @file swiglu.hpp
/// The gated MLP, y = down(f(gate x)·(up x)); with f = silu it is SwiGLU (Shazeer, "GLU variants improve transformer", 2020).

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/activation.hpp>
#include <hybridmoe/ops/fill.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// F: one of ops::activation. Tensors gate.weight, up.weight [hidden, width], down.weight [width, hidden], and biases if asked.
template <Index hidden, class F, bool biased = false>
struct GatedMlp {
  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;

    /// gate and up lie one after the other: where panels permit, they are one product with 2·hidden columns.
    template <class T, class Storage>
    struct Parameters {
      Stacked<Weight<T, Storage, hidden, width>, 2> sides;
      Weight<T, Storage, width, hidden> down;
      [[no_unique_address]] Optional<biased, Stacked<Array<T, hidden>, 2>, 0> side_bias;
      [[no_unique_address]] Optional<biased, Array<T, width>, 1> down_bias;
    };
    static constexpr void visit(auto&& f, const Name& at, auto&... p) {
      f(at / "gate" / "weight", Trait::weight(), p.sides[0]...);
      if constexpr (biased) f(at / "gate" / "bias", Trait::bias(), p.side_bias[0]...);
      f(at / "up" / "weight", Trait::weight(), p.sides[1]...);
      if constexpr (biased) f(at / "up" / "bias", Trait::bias(), p.side_bias[1]...);
      f(at / "down" / "weight", Trait::output(), p.down...);
      if constexpr (biased) f(at / "down" / "bias", Trait::bias(), p.down_bias...);
    }

    template <class T>
    using State = Stateless;
    template <class T>
    struct Tape {
      T* sides;  ///< [rows, 2·hidden]: gate x, then up x, of each row (or of all rows, unless joint)
      T* h;      ///< [rows, hidden]: f(gate x)·(up x)
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent extent)
          : sides(arena.template take<T>(extent.rows * 2 * hidden)), h(arena.template take<T>(extent.rows * hidden)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent extent) {
      const Index sides = product_workspace<T, Storage, (joint ? 2 * hidden : hidden), width>(extent);
      return (extent.training ? planned_bytes<Scratch<T>>(extent.rows) : 0) +
             larger(sides, product_workspace<T, Storage, width, hidden>(extent));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless>, const Tape<T>& tape) {
      const Index rows = call.batch.rows;
      if constexpr (joint) {
        Joint<Space, T>::forward(call.space, call.arena, rows, x.data, both<Storage>(p.sides), side_bias<const T>(p, 0),
                                 tape.sides);
      } else {
        Side<Space, T>::forward(call.space, call.arena, rows, x.data, p.sides[0], side_bias<const T>(p, 0), tape.sides);
        Side<Space, T>::forward(call.space, call.arena, rows, x.data, p.sides[1], side_bias<const T>(p, 1), up(tape.sides, rows));
      }
      Gate<Space, T>::gated_forward(call.space, rows, stride, tape.sides, up(tape.sides, rows), tape.h);
      Down<Space, T>::forward(call.space, call.arena, rows, tape.h, p.down, first_element<const T, biased>(p.down_bias), y.data);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Index rows = call.batch.rows;
      Arena rest = call.arena;
      const Scratch<T> scratch(rest, rows);
      ops::zero(call.space, rows * hidden, scratch.dh);
      Down<Space, T>::backward_input(call.space, rest, rows, dy.data, p.down, scratch.dh);
      Down<Space, T>::backward_weight(call.space, rest, rows, tape.h, dy.data, gradient.down,
                                      first_element<T, biased>(gradient.down_bias));
      Gate<Space, T>::gated_backward(call.space, rows, stride, tape.sides, up(tape.sides, rows), scratch.dh, scratch.dsides,
                                     up(scratch.dsides, rows));
      if constexpr (joint) {
        Joint<Space, T>::backward_input(call.space, rest, rows, scratch.dsides, both<Flat>(p.sides), dx.data);
        Joint<Space, T>::backward_weight(call.space, rest, rows, x.data, scratch.dsides, both<Flat>(gradient.sides),
                                         side_bias<T>(gradient, 0));
      } else {
        for (Index side = 0; side < 2; ++side) {
          const T* const dside = side == 0 ? scratch.dsides : up(scratch.dsides, rows);
          Side<Space, T>::backward_input(call.space, rest, rows, dside, p.sides[side], dx.data);
          Side<Space, T>::backward_weight(call.space, rest, rows, x.data, dside, gradient.sides[side],
                                          side_bias<T>(gradient, side));
        }
      }
    }

    static constexpr Spread active_parameters() { return Spread::always(3 * width * hidden + (biased ? 2 * hidden + width : 0)); }
    static constexpr Flops flops_per_token(Index) { return Flops::product(3.0 * width * hidden); }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    /// Panels of gate and up follow each other without padding.
    static constexpr bool joint = hidden % panel_width == 0;
    static constexpr Index stride = joint ? 2 * hidden : hidden;

    template <class Space, class T>
    using Joint = ops::Matmul<Space, T, 2 * hidden, width>;
    template <class Space, class T>
    using Side = ops::Matmul<Space, T, hidden, width>;
    template <class Space, class T>
    using Down = ops::Matmul<Space, T, width, hidden>;
    template <class Space, class T>
    using Gate = ops::Activation<Space, T, F, hidden>;

    template <class T>
    struct Scratch {
      T* dh;      ///< [rows, hidden]
      T* dsides;  ///< as Tape::sides
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows)
          : dh(arena.template take<T>(rows * hidden)), dsides(arena.template take<T>(rows * 2 * hidden)) {}
    };

    template <class T>
    HYBRIDMOE_FUNCTION static T* up(T* sides, Index rows) {
      return sides + (joint ? hidden : rows * hidden);
    }
    /// gate and up as one weight.
    template <class Storage, class Sides>
    HYBRIDMOE_FUNCTION static auto& both(Sides& sides) {
      using T = std::remove_reference_t<decltype(sides[0].data[0])>;
      using Plain = Weight<std::remove_const_t<T>, Storage, 2 * hidden, width>;
      using Whole = std::conditional_t<std::is_const_v<T>, const Plain, Plain>;
      static_assert(sizeof(Whole) == sizeof(Sides));
      return reinterpret_cast<Whole&>(sides);
    }
    template <class T, class P>
    HYBRIDMOE_FUNCTION static T* side_bias([[maybe_unused]] P& p, [[maybe_unused]] Index side) {
      if constexpr (biased) {
        return p.side_bias[side].data;
      } else {
        return nullptr;
      }
    }
  };
};

template <Index hidden, bool biased = false>
struct SwiGlu : GatedMlp<hidden, ops::activation::Silu, biased> {};

/// The gated MLP of Gemma: f = gelu in its tanh form.
template <Index hidden, bool biased = false>
struct GeGlu : GatedMlp<hidden, ops::activation::GeluTanh, biased> {};

}  // namespace hybridmoe::channel
