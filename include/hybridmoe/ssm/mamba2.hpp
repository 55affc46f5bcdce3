#pragma once
/// @file mamba2.hpp
/// Mamba-2: Dao and Gu, "Transformers are SSMs: generalized models and efficient algorithms through structured state space
/// duality" (ICML 2024). One projection gives a gate z, the input x, B, C and the step of every head; x, B and C pass a short
/// causal convolution and a SiLU; a scan per head (ops/scan.hpp); RMSNorm of scan·silu(z) per group; a projection back.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/norm/epsilon.hpp>
#include <hybridmoe/ops/convolve.hpp>
#include <hybridmoe/ops/fill.hpp>
#include <hybridmoe/ops/gate.hpp>
#include <hybridmoe/ops/scan_backward.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ssm {

/// `heads` heads of `head` channels, each with a matrix of `state` rows; the heads of a group share B and C.
struct Mamba2Sizes {
  Index heads, head, state;
  Index groups = 1;
  Index taps = 4;    ///< of the convolution
  Index chunk = 64;  ///< positions that the scan works on together; part of the rounding, not of the meaning
  Index rewind = 0;  ///< how many positions a sequence may go back within its chunk: so many more inputs are kept
};

/// The description. Epsilon is the gated norm's.
template <Mamba2Sizes sizes, class Epsilon = norm::Epsilon<1, 100'000>>
struct Mamba2 {
  static constexpr bool positive = sizes.heads > 0 && sizes.head > 0 && sizes.state > 0;
  static constexpr bool divides = positive && sizes.groups > 0 && sizes.heads % sizes.groups == 0;
  static constexpr bool looks_back = sizes.taps > 1 && sizes.rewind >= 0;
  static constexpr bool chunked = sizes.chunk > 0 && sizes.chunk % 8 == 0;
  static constexpr bool sound = divides && looks_back && chunked;
  template <bool asked>
  struct Requirements {
    static_assert(!asked || positive, "Mamba2Sizes::heads, head and state must be positive");
    static_assert(!asked || !positive || divides, "Mamba2Sizes::groups must divide Mamba2Sizes::heads");
    static_assert(!asked || !divides || looks_back, "Mamba2Sizes::taps must be at least 2, and rewind not negative");
    static_assert(!asked || !divides || !looks_back || chunked, "Mamba2Sizes::chunk must be a multiple of 8");
  };

  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;
    static constexpr int heads = static_cast<int>(sizes.heads), taps = static_cast<int>(sizes.taps),
                         groups = static_cast<int>(sizes.groups);
    static constexpr int history = taps - 1 + static_cast<int>(sizes.rewind);
    using Sizes =
        ops::ScanSizes<heads, static_cast<int>(sizes.head), static_cast<int>(sizes.state), groups, static_cast<int>(sizes.chunk)>;
    static constexpr int inner = Sizes::inner, channels = inner + 2 * Sizes::shared, projected = inner + channels + heads;

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, projected, width> input;  ///< rows z | x | B | C | step
      Array<T, channels, taps> convolution;
      Array<T, channels> convolution_bias;
      Array<T, heads> step_bias, decay_log, skip;
      Array<T, inner> norm;
      Weight<T, Storage, width, inner> output;
    };

    template <class F, class... P>
    static void visit(F&& f, const Name& at, P&... p) {
      f(at / "input" / "weight", Trait::weight(), p.input...);
      f(at / "convolution" / "weight", Trait::weight(tap_deviation()), p.convolution...);
      f(at / "convolution" / "bias", Trait::bias(), p.convolution_bias...);
      f(at / "step_bias", Trait{Start::softplus_inverse, 0.001f, 0.1f, false, false}, p.step_bias...);
      f(at / "decay_log", Trait{Start::log_of_uniform, 1.0f, 16.0f, false, false}, p.decay_log...);
      f(at / "skip", Trait::gain(), p.skip...);
      f(at / "norm" / "weight", Trait::gain(), p.norm...);
      f(at / "output" / "weight", Trait::output(), p.output...);
    }

    /// The last inputs of the convolution, and the scan's matrices and tail.
    template <class T>
    struct State {
      ops::ConvolveState<T, channels, history> inputs;
      ops::ScanState<T, Sizes> scan;
    };

    template <class T>
    struct Tape {
      T *projected_rows, *values, *mixed;  ///< z | x | B | C | step; x | B | C after the convolution; the scan's rows
      ops::ScanTape<T, Sizes> scan;
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : projected_rows(arena.template take<T>(e.rows * projected)),
            values(arena.template take<T>(e.rows * channels)),
            mixed(arena.template take<T>(e.rows * inner)),
            scan(arena, e) {}
    };

    template <class T>
    struct Scratch {
      T *gated, *normed = nullptr, *d_gated = nullptr, *inverse = nullptr, *d_projected = nullptr, *d_values = nullptr;
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e, bool backward) : gated(arena.template take<T>(e.rows * inner)) {
        if (!backward) return;
        normed = arena.template take<T>(e.rows * inner);
        d_gated = arena.template take<T>(e.rows * inner);
        inverse = arena.template take<T>(e.rows * groups);
        d_projected = arena.template take<T>(e.rows * projected);
        d_values = arena.template take<T>(e.rows * channels);
      }
    };

    template <class Space, class T>
    using In = ops::Matmul<Space, T, projected, width>;
    template <class Space, class T>
    using Out = ops::Matmul<Space, T, width, inner>;
    template <class Space, class T>
    using Convolution = ops::Convolve<Space, T, channels, taps, true, history>;
    template <class Space, class T>
    using Norm = ops::Norm<Space, T, inner / groups, groups, groups>;

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const Index products =
          larger(product_workspace<T, Storage, projected, width>(e), product_workspace<T, Storage, width, inner>(e));
      const Index forward = planned_bytes<Scratch<T>>(e, false) + larger(products, planned_bytes<ops::ScanScratch<T, Sizes>>(e));
      if (!e.training) return forward;
      const Index norm = Norm<exec::Inline, T>::workspace_bytes(e.rows, true, false);
      const Index small = larger(norm, Convolution<exec::Inline, T>::workspace_bytes(e.sequences));
      const Index parts = larger(larger(products, small), planned_bytes<ops::ScanBackwardScratch<T, Sizes>>(e));
      return larger(forward, planned_bytes<Scratch<T>>(e, true) + parts);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      const Batch& batch = call.batch;
      Arena arena = call.arena;
      const Scratch<T> s(arena, Extent::of(batch, false), false);
      In<Space, T>::forward(call.space, arena, batch.rows, x.data, p.input, nullptr, tape.projected_rows);
      State<T>* const state = reinterpret_cast<State<T>*>(states.base);
      Convolution<Space, T>::forward(call.space, batch, taps_of(p, tape),
                                     states ? reinterpret_cast<std::byte*>(&state->inputs) : nullptr, states.stride, tape.values);
      ops::Scan<Space, T, Sizes>::forward(call.space, arena, batch, scan_of(p, tape), states ? &state->scan : nullptr,
                                          states.stride, tape.scan, tape.mixed);
      ops::gate<inner>(call.space, batch.rows, mixed_of(tape), gate_of(tape), ops::Strided<T>{s.gated, inner});
      Norm<Space, T>::forward(call.space, batch.rows, {s.gated, inner}, {.weight = p.norm.data}, Epsilon::template value<T>,
                              {s.gated, inner}, {});
      Out<Space, T>::forward(call.space, arena, batch.rows, s.gated, p.output, nullptr, y.data);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Batch& batch = call.batch;
      Arena arena = call.arena;
      const Scratch<T> s(arena, Extent::of(batch, true), true);
      ops::gate<inner>(call.space, batch.rows, mixed_of(tape), gate_of(tape), ops::Strided<T>{s.gated, inner});
      Norm<Space, T>::forward(call.space, batch.rows, {s.gated, inner}, {.weight = p.norm.data}, Epsilon::template value<T>,
                              {s.normed, inner}, {.inverse = s.inverse});
      Out<Space, T>::backward_weight(call.space, arena, batch.rows, s.normed, dy.data, gradient.output, nullptr);
      ops::zero(call.space, batch.rows * inner, s.d_gated);
      Out<Space, T>::backward_input(call.space, arena, batch.rows, dy.data, p.output, s.d_gated);
      Norm<Space, T>::template backward<true>(call.space, arena, batch.rows, {s.gated, inner}, {.weight = p.norm.data},
                                              {.inverse = s.inverse}, {s.d_gated, inner}, {s.d_gated, inner},
                                              {.weight = gradient.norm.data});
      T* const d_mixed = s.normed;
      ops::gate_backward<inner>(call.space, batch.rows, mixed_of(tape), gate_of(tape), ops::Strided<const T>{s.d_gated, inner},
                                ops::Strided<T>{d_mixed, inner}, ops::Strided<T>{s.d_projected, projected});
      ops::scan_backward(call.space, arena, batch, scan_of(p, tape), tape.scan, d_mixed,
                         ops::ScanGradient<T>{s.d_projected + inner + channels, projected, s.d_values, channels,
                                              gradient.step_bias.data, gradient.decay_log.data, gradient.skip.data});
      Convolution<Space, T>::backward(call.space, arena, batch, taps_of(p, tape), s.d_values, s.d_projected + inner, projected,
                                      gradient.convolution.data, gradient.convolution_bias.data);
      In<Space, T>::backward_weight(call.space, arena, batch.rows, x.data, s.d_projected, gradient.input, nullptr);
      In<Space, T>::backward_input(call.space, arena, batch.rows, s.d_projected, p.input, dx.data);
    }

    // Accounting.
    static constexpr Spread active_parameters() { return Spread::always(element_count<Parameters<float, Flat>, float>); }
    /// The published figure: the matrices and the convolution's inputs. sizeof(State) adds the tail of the current chunk.
    static constexpr Index recurrent_elements = Index{heads} * Sizes::matrix + Index{taps - 1} * channels;
    static constexpr Index cache_elements(Index) { return 0; }
    /// Products; taps; per head reading and writing the matrix and the mean half of a chunk's pairs; per group their scores.
    /// Backward does each of these products twice.
    static constexpr Flops flops_per_token(Index) {
      const double pairs = 0.5 * (Sizes::chunk + 1);
      const double mixing =
          2.0 * taps * channels + heads * (4.0 * Sizes::matrix + 2.0 * pairs * Sizes::head) + groups * 2.0 * pairs * Sizes::state;
      return Flops::product(static_cast<double>(width) * (projected + inner)) + Flops{mixing, 3 * mixing};
    }

   private:
    /// The customary start of a convolution's taps, uniform in ±1/√taps, has this deviation.
    static constexpr float tap_deviation() {
      float root = 1;
      for (int i = 0; i < 32; ++i) root = 0.5f * (root + 3.0f * static_cast<float>(taps) / root);
      return 1.0f / root;
    }
    template <class T>
    HYBRIDMOE_FUNCTION static ops::Strided<const T> gate_of(const Tape<T>& tape) {
      return {tape.projected_rows, projected};
    }
    template <class T>
    HYBRIDMOE_FUNCTION static ops::Strided<const T> mixed_of(const Tape<T>& tape) {
      return {tape.mixed, inner};
    }
    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static ops::ConvolveInput<T> taps_of(const Parameters<T, Storage>& p, const Tape<T>& tape) {
      return {tape.projected_rows + inner, projected, p.convolution.data, p.convolution_bias.data};
    }
    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static ops::ScanInput<T> scan_of(const Parameters<T, Storage>& p, const Tape<T>& tape) {
      return {tape.projected_rows + inner + channels,
              projected,
              tape.values,
              channels,
              p.step_bias.data,
              p.decay_log.data,
              p.skip.data};
    }
  };
};

}  // namespace hybridmoe::ssm
