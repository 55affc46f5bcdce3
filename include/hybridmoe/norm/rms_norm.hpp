#pragma once
/// @file rms_norm.hpp
/// RMSNorm: y = x/√(mean(x²) + ε)·weight. Zhang and Sennrich, "Root mean square layer normalization" (2019).

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/norm/epsilon.hpp>
#include <hybridmoe/ops/norm.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::norm {

/// What multiplies the normed row.
enum class Gain {
  none,            ///< nothing
  weight,          ///< weight, started at 1
  one_plus_weight  ///< 1 + weight, weight started at 0 (Gemma, Qwen3-Next)
};

template <class Epsilon_ = Epsilon<1, 100'000>, Gain gain = Gain::weight>
struct Rms {
  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;
    static constexpr bool weighted = gain != Gain::none;

    template <class T, class Storage>
    struct Parameters {
      [[no_unique_address]] Optional<weighted, Array<T, width>, 100> weight;
    };
    static constexpr void visit(auto&& f, const Name& at, auto&... p) {
      if constexpr (weighted) f(at / "weight", Trait::gain(gain == Gain::weight ? 1.0f : 0.0f), p.weight...);
    }

    template <class T>
    using State = Stateless;
    template <class T>
    struct Tape {
      T* inverse = nullptr;  ///< [rows] 1/√(mean(x²) + ε); null outside training
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent extent) {
        if (extent.training) inverse = arena.template take<T>(extent.rows);
      }
    };
    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Extent extent) {
      return extent.training ? Op<exec::Inline, T>::workspace_bytes(extent.rows, weighted, false) : 0;
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless>, const Tape<T>& tape) {
      Op<Space, T>::forward(call.space, call.batch.rows, {x.data, width}, affine(p), Epsilon_::template value<T>, {y.data, width},
                            {.inverse = tape.inverse});
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      ops::AffineGradient<T> into;
      if constexpr (weighted) into.weight = gradient.weight.data;
      Op<Space, T>::backward(call.space, call.arena, call.batch.rows, {x.data, width}, affine(p), {.inverse = tape.inverse},
                             {dy.data, width}, {dx.data, width}, into);
    }

    static constexpr Spread active_parameters() { return Spread::always(weighted ? width : 0); }
    static constexpr Flops flops_per_token(Index) { return {4.0 * width, 14.0 * width}; }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using Op = ops::Norm<Space, T, width>;

    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static ops::Affine<T> affine([[maybe_unused]] const Parameters<T, Storage>& p) {
      ops::Affine<T> result;
      if constexpr (weighted) {
        result.weight = p.weight.data;
        result.offset = gain == Gain::one_plus_weight ? T(1) : T(0);
      }
      return result;
    }
  };
};

}  // namespace hybridmoe::norm
