#pragma once
/// @file controller.hpp
/// The controller: a source that decides, once per block of a sequence, how much of what the budget allows each layer uses, and
/// which scales count. From [ln(1 + bB)/ln(1 + context), c̄, β, q] a small network makes 6 numbers for each layer and 3 for the
/// scales, which become fractions (layer/side.hpp: Decision):
///   window, experts, slices  σ(o + 3)      key_tokens, global, scales  clamp(1.2·σ(o + 2) − 0.1, 0, 1)      norm  o
/// b = ⌊t/B⌋ is the row's block, c̄ the mean of stream::Complexity over block b − 1 (½ before the first), β the row's budget
/// and q its performance target. It starts, with o = 0, close to everything that is allowed, with no fraction saturated. Layers
/// multiply the fractions into the caps of the row's budget, so that no decision exceeds a cap, whatever was learned.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/layer/source.hpp>
#include <hybridmoe/ops/activation.hpp>
#include <hybridmoe/ops/decide.hpp>
#include <hybridmoe/ops/fill.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::control {

struct ControllerOptions {
  Index hidden = 64;  ///< width of the network's hidden layer
  Index block = 16;   ///< positions that are decided for together (β and q may differ within it)
  /// What the network sees; what it does not is a constant: context and c̄ are ½, β and q are 1. With all false the decisions
  /// are constants that are learned, at the same cost.
  bool context = true, complexity = true, budget = true, target = true;
  bool learned = true;  ///< false: the network stays as it starts, and decisions are the same everywhere
};

/// The description. Tensors: input.{weight, bias}, output.{weight, bias}. Reads stream::Complexity, Budget and Target; sets
/// stream::Decisions.
template <ControllerOptions options = ControllerOptions{}>
struct Controller {
  static_assert(options.hidden > 0, "ControllerOptions::hidden must be positive");
  static_assert(options.block > 0, "ControllerOptions::block must be positive");

  template <class Env>
  struct Layer {
    static constexpr std::string_view name = "controller";
    static constexpr Index width = Env::width, layers = Env::layers, hidden = options.hidden, block = options.block;
    static constexpr Index outputs = layers * Decision::fields + Decision::scales;
    static constexpr Index inputs = 4;
    static constexpr bool causal = true, rewinds = true;
    /// Positions of the block before and of the row's own, and what a sequence may take back.
    static constexpr Index ring = 2 * block - 1 + Env::rewind;

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, hidden, inputs> input;
      Array<T, hidden> input_bias;
      Weight<T, Storage, outputs, hidden> output;
      Array<T, outputs> output_bias;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      f(at / "input" / "weight", trait(Trait::weight(0.5f)), p.input...);
      f(at / "input" / "bias", trait(Trait::bias()), p.input_bias...);
      f(at / "output" / "weight", trait(Trait{.start = Start::constant, .a = 0}), p.output...);
      f(at / "output" / "bias", trait(Trait::bias()), p.output_bias...);
    }

    template <class T>
    struct State {
      Array<T, ring> complexity;  ///< by position
    };

    template <class T>
    struct Tape {
      T *complexity, *input, *before, *value;  ///< [rows], [rows, 4], [rows, hidden] before its activation, [rows, outputs]
      T* d = nullptr;                          ///< [rows, outputs]
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : complexity(arena.template take<T>(e.rows)),
            input(arena.template take<T>(e.rows * inputs)),
            before(arena.template take<T>(e.rows * hidden)),
            value(arena.template take<T>(e.rows * outputs)),
            d(e.training ? arena.template take<T>(e.rows * outputs) : nullptr) {}
    };

    template <class T>
    struct Scratch {
      T *active, *d_hidden, *d_input;  ///< [rows, hidden]; backward: [rows, hidden], [rows, 4]
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows, bool backward)
          : active(arena.template take<T>(rows * hidden)),
            d_hidden(backward ? arena.template take<T>(rows * hidden) : nullptr),
            d_input(backward ? arena.template take<T>(rows * inputs) : nullptr) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      return planned_bytes<Scratch<T>>(e.rows, e.training && options.learned) +
             larger(product_workspace<T, Storage, hidden, inputs>({e.rows, e.sequences, e.training && options.learned}),
                    product_workspace<T, Storage, outputs, hidden>({e.rows, e.sequences, e.training && options.learned}));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, const SourceInput<T, width>&,
                                           Rows<T, width>, States<State<T>> states, const Tape<T>& tape) {
      const Space& space = call.space;
      const Batch& batch = call.batch;
      const Index rows = batch.rows, items = divide_up(rows, ops::decide_block);
      const auto given = call.side.template rows<stream::Complexity, T>();
      State<T>* const state = reinterpret_cast<State<T>*>(states.base);
      const ops::History<T, 1, ring> history{tape.complexity, states ? reinterpret_cast<std::byte*>(&state->complexity) : nullptr,
                                             states.stride};
      space.each(items, ops::OwnComplexityKernel<T>{rows, given.value, tape.complexity});
      using Inputs = ops::DecideInputsKernel<T, block, Env::context, ring>;
      const Index blocks = Inputs::blocks_of(batch.longest);
      space.each(batch.sequences * blocks,
                 Inputs{batch, blocks, ops::DecideReads{options.context, options.complexity, options.budget, options.target},
                        history, call.side.template rows<stream::Budget, T>().value,
                        call.side.template rows<stream::Target, T>().value, tape.input});
      if (states) space.each(batch.sequences, ops::KeepKernel<T, 1, ring>{batch, history});

      Arena arena = call.arena;
      const Scratch<T> s(arena, rows, false);
      In<Space, T>::forward(space, arena, rows, tape.input, p.input, p.input_bias.data, tape.before);
      Active<Space, T>::forward(space, rows, tape.before, s.active);
      Out<Space, T>::forward(space, arena, rows, s.active, p.output, p.output_bias.data, tape.value);
      space.each(items, ops::DecideKernel<T, layers, Decision::fields, Decision::scales>{rows, tape.value, tape.d});
    }

    template <class T>
    HYBRIDMOE_FUNCTION static void streams(const Tape<T>& tape, Index, Side& side) {
      side.set<stream::Decisions>(static_cast<const T*>(tape.value), tape.d, outputs);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, const SourceInput<T, width>&,
                                            const Tape<T>& tape, Rows<const T, width>, Rows<T, width>,
                                            Parameters<T, Flat>& gradient) {
      if constexpr (options.learned) {
        const Space& space = call.space;
        const Batch& batch = call.batch;
        const Index rows = batch.rows;
        Arena arena = call.arena;
        const Scratch<T> s(arena, rows, true);
        space.each(divide_up(rows, ops::decide_block),
                   ops::DecideBackwardKernel<T, layers, Decision::fields, Decision::scales>{rows, tape.value, tape.d});
        Active<Space, T>::forward(space, rows, tape.before, s.active);
        Out<Space, T>::backward_weight(space, arena, rows, s.active, tape.d, gradient.output, gradient.output_bias.data);
        ops::zero(space, rows * hidden, s.d_hidden);
        Out<Space, T>::backward_input(space, arena, rows, tape.d, p.output, s.d_hidden);
        Active<Space, T>::backward(space, rows, tape.before, s.d_hidden);
        In<Space, T>::backward_weight(space, arena, rows, tape.input, s.d_hidden, gradient.input, gradient.input_bias.data);
        T* const d_complexity = call.side.template rows<stream::Complexity, T>().gradient;
        if (!options.complexity || d_complexity == nullptr) return;
        ops::zero(space, rows * inputs, s.d_input);
        In<Space, T>::backward_input(space, arena, rows, s.d_hidden, p.input, s.d_input);
        const Index blocks = ops::DecideInputsKernel<T, block, Env::context, ring>::blocks_of(batch.longest);
        space.each(batch.sequences * blocks, ops::DecideInputsBackwardKernel<T, block>{batch, blocks, s.d_input, d_complexity});
      }
    }

    // Accounting.
    static constexpr Spread active_parameters() { return Spread::always(hidden * (inputs + 1) + outputs * (hidden + 1)); }
    /// The network, its activation, one block's sum.
    static constexpr Flops flops_per_token(Index) {
      const double rest = 4.0 * hidden + 4.0 * outputs + 1;
      return Flops::product(static_cast<double>(hidden * inputs + outputs * hidden)) + Flops{rest, 3 * rest};
    }
    static constexpr Index recurrent_elements = 2 * block - 1;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    static constexpr Trait trait(Trait t) {
      if (!options.learned) t.update = Update::frozen;
      return t;
    }
    template <class Space, class T>
    using In = ops::Matmul<Space, T, hidden, inputs>;
    template <class Space, class T>
    using Out = ops::Matmul<Space, T, outputs, hidden>;
    template <class Space, class T>
    using Active = ops::Activation<Space, T, ops::activation::Silu, hidden>;
  };
};

}  // namespace hybridmoe::control
