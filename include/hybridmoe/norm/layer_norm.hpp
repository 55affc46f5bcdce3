#pragma once
/// @file layer_norm.hpp
/// LayerNorm: y = (x − mean)/√(variance + ε)·weight + bias. Ba, Kiros and Hinton, "Layer normalization" (2016).

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/norm/epsilon.hpp>
#include <hybridmoe/ops/norm.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::norm {

/// What follows the normed row of a LayerNorm.
enum class Shift {
  none,             ///< nothing
  weight,           ///< ·weight
  weight_and_bias,  ///< ·weight + bias
};

template <class Epsilon_ = Epsilon<1, 100'000>, Shift shift = Shift::weight_and_bias>
struct LayerNorm {
  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;
    static constexpr bool weighted = shift != Shift::none, biased = shift == Shift::weight_and_bias;

    template <class T, class Storage>
    struct Parameters {
      [[no_unique_address]] Optional<weighted, Array<T, width>, 100> weight;
      [[no_unique_address]] Optional<biased, Array<T, width>, 101> bias;
    };
    static constexpr void visit(auto&& f, const Name& at, auto&... p) {
      if constexpr (weighted) f(at / "weight", Trait::gain(), p.weight...);
      if constexpr (biased) f(at / "bias", Trait::bias(), p.bias...);
    }

    template <class T>
    using State = Stateless;
    template <class T>
    struct Tape {
      T* inverse = nullptr;  ///< [rows] 1/√(variance + ε); null outside training
      T* mean = nullptr;     ///< [rows]
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent extent) {
        if (!extent.training) return;
        inverse = arena.template take<T>(extent.rows);
        mean = arena.template take<T>(extent.rows);
      }
    };
    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Extent extent) {
      return extent.training ? Op<exec::Inline, T>::workspace_bytes(extent.rows, weighted, biased) : 0;
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless>, const Tape<T>& tape) {
      Op<Space, T>::forward(call.space, call.batch.rows, {x.data, width}, affine(p), Epsilon_::template value<T>, {y.data, width},
                            {tape.inverse, tape.mean});
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      ops::AffineGradient<T> into;
      if constexpr (weighted) into.weight = gradient.weight.data;
      if constexpr (biased) into.bias = gradient.bias.data;
      Op<Space, T>::backward(call.space, call.arena, call.batch.rows, {x.data, width}, affine(p), {tape.inverse, tape.mean},
                             {dy.data, width}, {dx.data, width}, into);
    }

    static constexpr Spread active_parameters() { return Spread::always((weighted ? width : 0) + (biased ? width : 0)); }
    static constexpr Flops flops_per_token(Index) { return {7.0 * width, 21.0 * width}; }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using Op = ops::Norm<Space, T, width, 1, 1, true>;

    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static ops::Affine<T> affine([[maybe_unused]] const Parameters<T, Storage>& p) {
      ops::Affine<T> result;
      if constexpr (weighted) result.weight = p.weight.data;
      if constexpr (biased) result.bias = p.bias.data;
      return result;
    }
  };
};

}  // namespace hybridmoe::norm
