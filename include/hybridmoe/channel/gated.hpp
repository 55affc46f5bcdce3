#pragma once
/// @file gated.hpp
/// A channel mixer whose output is scaled per token: y = σ(g·x)·inner(x). Qwen2-MoE's shared expert.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/elementwise.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// Rows that one item scales.
inline constexpr Index gated_block = 32;

template <class T, Index width>
struct GatedKernel {
  Index rows;
  const T *x, *gate, *inner;
  T *scale, *y;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(rows, (block + 1) * gated_block);
    for (Index row = block * gated_block; row < end; ++row) {
      const T s = math::sigmoid(ops::dot(x + row * width, gate, width));
      scale[row] = s;
      for (Index c = row * width; c < (row + 1) * width; ++c) y[c] = s * inner[c];
    }
  }
};

template <class T, Index width>
struct GatedBackwardKernel {
  Index rows;
  const T *gate, *scale, *inner, *dy;
  T *dinner, *dgate, *dx;  // dgate: [rows], by g·x

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(rows, (block + 1) * gated_block);
    for (Index row = block * gated_block; row < end; ++row) {
      const T s = scale[row];
      const T d = ops::dot(dy + row * width, inner + row * width, width) * s * (T(1) - s);
      dgate[row] = d;
      for (Index c = 0; c < width; ++c) {
        dinner[row * width + c] = s * dy[row * width + c];
        dx[row * width + c] += d * gate[c];
      }
    }
  }
};

/// y = σ(g·x)·inner(x) for a channel mixer `Inner`. Tensors: inner's own, and output_gate.weight [1, width].
template <class Inner>
struct Gated {
  template <class Env>
  struct Layer {
    using InnerLayer = typename Inner::template Layer<Env>;
    using Parts = LayerList<InnerLayer>;
    static constexpr Index width = Env::width, expert_count = hybridmoe::expert_count<InnerLayer>;
    static constexpr bool causal = InnerLayer::causal;

    template <class T, class Storage>
    struct Parameters {
      typename InnerLayer::template Parameters<T, Storage> inner;
      Array<T, 1, width> output_gate;  // one row: not worth a packed panel
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      InnerLayer::visit(f, at, p.inner...);
      f(at / "output_gate" / "weight", Trait::weight(), p.output_gate...);
    }

    template <class T>
    using State = typename InnerLayer::template State<T>;
    template <class T>
    struct Tape {
      T *scale, *out;  // [rows], [rows, width]
      typename InnerLayer::template Tape<T> inner;
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : scale(arena.template take<T>(e.rows)), out(arena.template take<T>(e.rows * width)), inner(arena, e) {}
    };
    template <class T>
    struct Scratch {
      T *dinner, *dgate;  // [rows, width], [rows]
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows)
          : dinner(arena.template take<T>(rows * width)), dgate(arena.template take<T>(rows)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const Index inner = InnerLayer::template workspace_bytes<T, Storage>(e);
      if (!e.training) return inner;
      return planned_bytes<Scratch<T>>(e.rows) + larger(inner, product_workspace<T, Storage, 1, width>(e));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      InnerLayer::forward(call, p.inner, x, Rows<T, width>{tape.out}, states, tape.inner);
      call.space.each(divide_up(call.batch.rows, gated_block),
                      GatedKernel<T, width>{call.batch.rows, x.data, p.output_gate.data, tape.out, tape.scale, y.data});
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Index rows = call.batch.rows;
      Arena arena = call.arena;
      const Scratch<T> s(arena, rows);
      call.space.each(divide_up(rows, gated_block), GatedBackwardKernel<T, width>{rows, p.output_gate.data, tape.scale, tape.out,
                                                                                  dy.data, s.dinner, s.dgate, dx.data});
      ops::Matmul<Space, T, 1, width>::backward_weight(call.space, arena, rows, x.data, s.dgate, gradient.output_gate,
                                                       static_cast<T*>(nullptr));
      InnerLayer::backward(call.with(arena), p.inner, x, tape.inner, Rows<const T, width>{s.dinner}, dx, gradient.inner);
    }

    static constexpr Spread active_parameters() { return InnerLayer::active_parameters() + Spread::always(width); }
    static constexpr Flops flops_per_token(Index context) {
      return InnerLayer::flops_per_token(context) + Flops::product(static_cast<double>(width));
    }
    static constexpr Index recurrent_elements = InnerLayer::recurrent_elements;
    static constexpr Index cache_elements(Index context) { return InnerLayer::cache_elements(context); }
  };
};

}  // namespace hybridmoe::channel
