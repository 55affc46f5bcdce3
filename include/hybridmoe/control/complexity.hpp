#pragma once
/// @file complexity.hpp
/// The semantic complexity estimator: a source that gives every row a number c in (0, 1), how much it gains from computing,
/// from what the sequence's last tokens look like. It is causal, streams with a state of constant size, and never reads the
/// model's output, so that a prompt can be fed in one piece.
///
/// Features φ_t of the last N' = min(t + 1, window) tokens, all constants to the gradient:
///   entropy    (ln N' − Σ_v n_v ln n_v / N')/ln N', n_v counts of ids (hashed to `hashes` classes); 0 for N' = 1
///   surprisal  mean over the last `recent` tokens of −ln p(x_j | x_{j−1}, x_{j−2})/ln(classes), p a predictor of rank `rank`
///   gain       mean over them of how much larger −ln p(x_j | x_{j−1})/ln(classes) is: what rewards looking further back. Noise
///              is as surprising as hard text, but more context makes it no less so
///   variance   of z_j = P·e_j/rms(e_j) over the window, mean over its `projected` elements; e the token's embedding, P frozen
///   depth      of brackets and quotations, 0 … 15, over 15;   since   tokens since a terminator, at most 63, over 63
/// c_t = σ(speed·(w·standardised φ_t + b)). Means and deviations of the features follow those of the calls by a rule of their
/// own. w and b learn from what computing more was worth (stream::Gain), and, if ComplexityOptions::uses, through what reads c as
/// well: which makes of c whatever tells readers most, surprise for instance. The predictors learn by a cross-entropy of their
/// own, which is an auxiliary loss and reaches nothing else.
///
/// With ComplexityOptions::joining the stack's input learns of it too: x⁰_t += J·ψ_t, ψ_t the standardised φ_t and, of the last
/// `joining` tokens, surprisal and gain less their means (constants as well). So layers know at once that what held so far has
/// ended, which they would else have to find out by comparing predictions with tokens.

#include <hybridmoe/control/classes.hpp>
#include <hybridmoe/control/timing.hpp>
#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/layer/source.hpp>
#include <hybridmoe/ops/cross_entropy.hpp>
#include <hybridmoe/ops/embed.hpp>
#include <hybridmoe/ops/fill.hpp>
#include <hybridmoe/ops/recent_features.hpp>
#include <hybridmoe/ops/squash.hpp>
#include <hybridmoe/ops/window_features.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::control {

struct ComplexityOptions {
  Index window = 64;       ///< tokens whose ids and embeddings are looked at
  Index recent = 16;       ///< tokens whose surprisal is averaged
  Index projected = 16;    ///< elements of an embedding's projection
  Index rank = 32;         ///< of the predictors
  Index residues = 32;     ///< pairs of tokens are told apart by their ids modulo so many
  Index hashes = 256;      ///< classes of ids whose entropy is taken (fewer tokens than that: every token its own)
  Index classes = 0;       ///< classes of tokens that are predicted; 0: every token up to 4096 of them, else `hashes` classes
  Index steps = 0;         ///< features are rounded to so many steps per 1 (derivatives of constants can then be tested); 0: not
  float predictor = 0.1f;  ///< coefficient of the predictors' cross-entropies in nats
  float start = 0.25f;     ///< of speed·w: not 0, or c and what multiplies it would both wait for the other to move
  float speed = 1;         ///< how much faster than w and b their sum moves, where an optimizer's steps are all of one size
  float rate = 0.01f;      ///< with which means and variances follow
  Index joining = 0;       ///< of the last tokens, whose surprisal and gain join the stack's input beside φ; 0: nothing does
  bool uses = true;        ///< whether c learns through what reads it (last: clang 14 fails on what follows a bool here)
};

/// The description. Classes: what the vocabulary's ids mean (control/classes.hpp). Timing: whose complexity a row gets
/// (control/timing.hpp). Tensors: projection.weight, predictor.{first, second, pair, output}.weight, predictor.output.bias, mean,
/// variance, weight, bias; with ComplexityOptions::joining join.weight. Sets stream::Complexity and stream::Gain.
template <ComplexityOptions options = ComplexityOptions{}, class Classes = ByteClasses, class Timing = AsItIs>
struct Complexity {
  static_assert(options.window > 1 && options.window < 65536, "ComplexityOptions::window must lie between 2 and 65535");
  static_assert(options.recent > 0 && options.recent <= options.window,
                "ComplexityOptions::recent must be positive and at most the window");
  static_assert(options.joining >= 0 && options.joining <= options.window,
                "ComplexityOptions::joining must lie between 0 and the window");
  static_assert(options.projected > 0 && options.rank > 0 && options.residues > 0,
                "ComplexityOptions::projected, rank and residues must be positive");
  static_assert(options.hashes > 1 && options.classes >= 0 && options.classes != 1,
                "ComplexityOptions::hashes and classes must be at least 2 (classes may be 0: chosen by the vocabulary)");

  template <class Env>
  struct Layer {
    static constexpr std::string_view name = "complexity";
    static constexpr Index width = Env::width, vocab = Env::vocab;
    static constexpr bool causal = true, rewinds = true;
    static constexpr Index window = options.window, projected = options.projected, rank = options.rank;
    static constexpr Index features = ops::window_features;
    static constexpr Index classes = smaller(vocab, options.classes > 0 ? options.classes
                                                    : vocab <= 4096     ? vocab
                                                                        : options.hashes);
    static constexpr Index hashes = smaller(vocab, options.hashes);
    static constexpr Index residues = smaller(vocab, options.residues), pairs = residues * residues;
    static_assert(vocab > 1, "control::Complexity needs a vocabulary");
    /// Rows of the rings: what a row looks back at, and what a sequence may take back.
    static constexpr Index ring = larger(window - 1, 2) + Env::rewind;
    static constexpr bool joins = options.joining > 0;
    static constexpr bool retimed = Timing::reach > 0;
    static constexpr Index own_ring = Timing::reach + Env::rewind;
    template <class T>
    using Recent = ops::RecentFeaturesKernel<T, features, options.joining, options.steps, ring>;
    static constexpr Index joined = joins ? Recent<float>::size : 0;  ///< elements of ψ

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, projected, width> projection;
      Array<T, vocab, rank> first, second;  ///< of the token before, and of the one before that
      Array<T, pairs, rank> pair;           ///< of both together
      Weight<T, Storage, classes, rank> output;
      Array<T, classes> output_bias;
      Array<T, features> mean, variance, weight;
      Array<T, 1> bias;
      [[no_unique_address]] Optional<joins, Weight<T, Storage, width, larger(1, joined)>, 151> join;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      f(at / "projection" / "weight", Trait::frozen(inverse_root(width)), p.projection...);
      f(at / "predictor" / "first" / "weight", Trait::weight(0.1f), p.first...);
      f(at / "predictor" / "second" / "weight", Trait::weight(0.1f), p.second...);
      f(at / "predictor" / "pair" / "weight", Trait::weight(0.1f), p.pair...);
      // Long rows: then what tables must reach to tell tokens apart is near, and rare pairs, which move seldom, get there.
      f(at / "predictor" / "output" / "weight", Trait::weight(4 * inverse_root(rank)), p.output...);
      f(at / "predictor" / "output" / "bias", Trait::bias(), p.output_bias...);
      f(at / "mean", Trait::controlled(Update::integral, options.rate, 0.5f), p.mean...);
      f(at / "variance", Trait::controlled(Update::integral, options.rate, 0.0625f), p.variance...);
      f(at / "weight", Trait::gain(options.start / options.speed), p.weight...);
      f(at / "bias", Trait::bias(), p.bias...);
      if constexpr (joins) f(at / "join" / "weight", Trait::weight(0), p.join...);
    }

    /// Rings by position.
    template <class T>
    struct State {
      Array<T, ring, projected> z;
      Array<T, ring> surprisal, gain;
      [[no_unique_address]] Optional<retimed, Array<T, larger(1, own_ring)>, 150> own;
      Array<std::int32_t, ring> token, syntax;
    };

    template <class T>
    struct Tape {
      T *z, *one, *two;                                       ///< [rows, projected], [rows, rank] twice: of both predictors
      T *surprisal, *gain;                                    ///< [rows]
      T *feature, *own, *value;                               ///< [rows, features], [rows] before and after Timing
      T* recent;                                              ///< ψ: [rows, joined]
      std::int32_t *syntax, *target, *first, *second, *pair;  ///< [rows]
      T *d = nullptr, *loss = nullptr;                        ///< [rows], [1]
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : z(arena.template take<T>(e.rows * projected)),
            one(arena.template take<T>(e.rows * rank)),
            two(arena.template take<T>(e.rows * rank)),
            surprisal(arena.template take<T>(e.rows)),
            gain(arena.template take<T>(e.rows)),
            feature(arena.template take<T>(e.rows * features)),
            own(arena.template take<T>(e.rows)),
            value(retimed ? arena.template take<T>(e.rows) : own),
            recent(joins ? arena.template take<T>(e.rows * joined) : nullptr),
            syntax(arena.template take<std::int32_t>(e.rows)),
            target(arena.template take<std::int32_t>(e.rows)),
            first(arena.template take<std::int32_t>(e.rows)),
            second(arena.template take<std::int32_t>(e.rows)),
            pair(arena.template take<std::int32_t>(e.rows)) {
        if (!e.training) return;
        d = arena.template take<T>(e.rows);
        loss = arena.template take<T>(1);
      }
    };

    /// Logits exist for so many rows at a time.
    static constexpr Index piece = 256;
    template <class T>
    struct Scratch {
      T *logits, *d_hidden;  ///< [piece, classes]; backward: [piece, rank]
      double* loss;          ///< [piece]
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows, bool backward)
          : logits(arena.template take<T>(smaller(rows, piece) * classes)),
            d_hidden(backward ? arena.template take<T>(rows * rank) : nullptr),
            loss(arena.template take<double>(smaller(rows, piece))) {}
    };
    template <class T>
    struct JoinScratch {
      T* added;  ///< [rows, width]
      HYBRIDMOE_FUNCTION constexpr JoinScratch(auto& arena, Index rows) : added(arena.template take<T>(rows * width)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      const Extent part{smaller(e.rows, piece), e.sequences, e.training};
      const Index predictor = planned_bytes<Scratch<T>>(e.rows, e.training) + product_workspace<T, Storage, classes, rank>(part);
      const Index join =
          joins ? planned_bytes<JoinScratch<T>>(e.rows) + product_workspace<T, Storage, width, larger(1, joined)>(e) : 0;
      return larger(larger(product_workspace<T, Storage, projected, width>({e.rows, e.sequences, false}), predictor), join);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p,
                                           const SourceInput<T, width>& input, Rows<T, width> x, States<State<T>> states,
                                           const Tape<T>& tape) {
      const Space& space = call.space;
      const Batch& batch = call.batch;
      const Index rows = batch.rows, items = divide_up(rows, ops::predict_block);
      State<T>* const state = reinterpret_cast<State<T>*>(states.base);
      const ops::History<std::int32_t, 1, ring> token{input.token, states ? reinterpret_cast<std::byte*>(&state->token) : nullptr,
                                                      states.stride};
      const ops::History<std::int32_t, 1, ring> syntax{
          tape.syntax, states ? reinterpret_cast<std::byte*>(&state->syntax) : nullptr, states.stride};
      const ops::History<T, projected, ring> z{tape.z, states ? reinterpret_cast<std::byte*>(&state->z) : nullptr, states.stride};
      const ops::History<T, 1, ring> surprisal{tape.surprisal, states ? reinterpret_cast<std::byte*>(&state->surprisal) : nullptr,
                                               states.stride};
      const ops::History<T, 1, ring> gain{tape.gain, states ? reinterpret_cast<std::byte*>(&state->gain) : nullptr,
                                          states.stride};

      space.each(batch.sequences, ops::SyntaxKernel<Classes, ring>{batch, input.token, syntax, tape.syntax});
      Project<Space, T>::forward(space, call.arena, rows, input.embedding.data, p.projection, nullptr, tape.z);
      space.each(items, ops::DirectionKernel<T, width, projected>{rows, input.embedding.data, tape.z});
      space.each(items, ops::PredictContextKernel<vocab, classes, residues, ring>{batch, token, tape.target, tape.first,
                                                                                  tape.second, tape.pair});
      space.each(items, ops::PredictHiddenKernel<T, rank>{rows, tape.first, tape.second, tape.pair, p.first.data, p.second.data,
                                                          p.pair.data, tape.one, tape.two});
      predict(call, p, tape.target, tape.one, tape.gain, static_cast<T*>(nullptr));
      predict(call, p, tape.target, tape.two, tape.surprisal, tape.gain);
      if (tape.loss != nullptr)
        space.each(
            1, ops::PredictorLossKernel<T>{rows, double{options.predictor} * log_classes, tape.surprisal, tape.gain, tape.loss});

      using Features = ops::WindowFeaturesKernel<T, vocab, window, options.recent, projected, hashes, options.steps, ring>;
      space.each(divide_up(rows, Features::block),
                 Features{batch, token, z, surprisal, gain, tape.syntax, ops::n_log_n<T, window>(), tape.feature});
      space.each(divide_up(rows, ops::squash_block),
                 ops::SquashKernel<T, features>{rows, squash(p), tape.feature, tape.own, retimed ? nullptr : tape.d});
      if constexpr (joins) {
        space.each(divide_up(rows, ops::squash_block), Recent<T>{batch, squash(p), tape.feature, surprisal, gain, tape.recent});
        Arena arena = call.arena;
        const JoinScratch<T> s(arena, rows);
        Join<Space, T>::forward(space, arena, rows, tape.recent, p.join, nullptr, s.added);
        ops::add(space, rows * width, static_cast<const T*>(s.added), x.data);
      }
      if constexpr (retimed) {
        using Own = ops::History<T, 1, own_ring>;
        const Own own{tape.own, states ? reinterpret_cast<std::byte*>(&state->own) : nullptr, states.stride};
        space.each(divide_up(rows, ops::squash_block), ops::RetimeKernel<T, Timing, Own>{batch, own, tape.value, tape.d});
        if (states) space.each(batch.sequences, ops::KeepKernel<T, 1, own_ring>{batch, own});
      }
      if (!states) return;
      space.each(batch.sequences, ops::KeepKernel<std::int32_t, 1, ring>{batch, token});
      space.each(batch.sequences, ops::KeepKernel<std::int32_t, 1, ring>{batch, syntax});
      space.each(batch.sequences, ops::KeepKernel<T, projected, ring>{batch, z});
      space.each(batch.sequences, ops::KeepKernel<T, 1, ring>{batch, surprisal});
      space.each(batch.sequences, ops::KeepKernel<T, 1, ring>{batch, gain});
    }

    template <class T>
    HYBRIDMOE_FUNCTION static void streams(const Tape<T>& tape, Index, Side& side) {
      const T* const c = tape.value;
      side.set<stream::Complexity>(c, options.uses ? tape.d : nullptr, 1);
      side.set<stream::Gain>(c, tape.d, 1);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, const SourceInput<T, width>&,
                                            const Tape<T>& tape, Rows<const T, width> dx, Rows<T, width>,
                                            Parameters<T, Flat>& gradient) {
      using Squashed = ops::SquashBackwardKernel<T, features, Timing>;
      const Space& space = call.space;
      const Index rows = call.batch.rows;
      space.each(Squashed::items,
                 Squashed{call.batch, squash(p), static_cast<T>(call.auxiliary), tape.feature, tape.value, tape.d,
                          gradient.weight.data, gradient.bias.data, gradient.mean.data, gradient.variance.data});
      if constexpr (joins) Join<Space, T>::backward_weight(space, call.arena, rows, tape.recent, dx.data, gradient.join, nullptr);
      if (call.auxiliary == 0 || options.predictor == 0) return;
      Arena arena = call.arena;
      const Scratch<T> s(arena, rows, true);
      const T scale = static_cast<T>(call.auxiliary * double{options.predictor} / static_cast<double>(larger(1, rows)));
      using Scatter = ops::ScatterRows<T, std::int32_t, rank>;
      for (int order = 1; order <= 2; ++order) {
        const T* const all = order == 1 ? tape.one : tape.two;
        ops::zero(space, rows * rank, s.d_hidden);
        for (Index from = 0; from < rows; from += piece) {
          const Index count = smaller(piece, rows - from);
          const T* const hidden = all + from * rank;
          Output<Space, T>::forward(space, arena, count, hidden, p.output, p.output_bias.data, s.logits);
          space.each(count, ops::CrossEntropy<T, classes>{s.logits, tape.target + from, s.loss, scale});
          Output<Space, T>::backward_weight(space, arena, count, hidden, s.logits, gradient.output, gradient.output_bias.data);
          Output<Space, T>::backward_input(space, arena, count, s.logits, p.output, s.d_hidden + from * rank);
        }
        space.each(divide_up(rows, ops::predict_block), ops::PredictHiddenBackwardKernel<T, rank>{rows, all, s.d_hidden});
        space.each(Scatter::ranges, Scatter{rows, vocab, tape.first, s.d_hidden, gradient.first.data});
      }
      space.each(Scatter::ranges, Scatter{rows, vocab, tape.second, s.d_hidden, gradient.second.data});
      space.each(Scatter::ranges, Scatter{rows, pairs, tape.pair, s.d_hidden, gradient.pair.data});
    }

    /// options.predictor times the predictors' mean cross-entropies, in nats.
    template <class T>
    HYBRIDMOE_FUNCTION static const T* losses(const Tape<T>& tape) {
      return tape.loss;
    }

    // Accounting.
    /// What a token meets: everything but the other tokens' rows of the predictors' tables.
    static constexpr Spread active_parameters() {
      constexpr Index met = projected * width + 3 * rank + classes * (rank + 1) + 3 * features + 1 + joined * width;
      return {met, met, met + (2 * (vocab - 1) + pairs - 1) * rank};
    }
    /// The window's statistics; the products with P (which has no backward) and with the predictors' output, whose logits are
    /// computed again in backward.
    static constexpr Flops flops_per_token(Index context) {
      const double seen = static_cast<double>(smaller(context, window));
      const double statistics = seen * (4.0 * projected + 2) + 2.0 * width + 8.0 * rank + 4.0 * features;
      const double projection = 2.0 * projected * width, predictors = 2.0 * static_cast<double>(classes) * (2.0 * rank + 3);
      const double join = 2.0 * joined * width;  // whose input has no gradient
      return {statistics + projection + predictors + join, statistics + projection + 4 * predictors + 16.0 * rank + 2 * join};
    }
    /// An id counts as half an element.
    static constexpr Index recurrent_elements = (window - 1) * (projected + 2) + (window - 1) / 2 + Timing::reach;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    static constexpr double log_classes = ops::natural_log(classes);
    template <class Space, class T>
    using Project = ops::Matmul<Space, T, projected, width>;
    template <class Space, class T>
    using Output = ops::Matmul<Space, T, classes, rank>;
    template <class Space, class T>
    using Join = ops::Matmul<Space, T, width, larger(1, joined)>;

    /// 1/√n by Newton's iteration.
    static constexpr float inverse_root(Index n) {
      double root = 1;
      for (int i = 0; i < 64; ++i) root = 0.5 * (root + static_cast<double>(n) / root);
      return static_cast<float>(1 / root);
    }
    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static ops::Squash<T, features> squash(const Parameters<T, Storage>& p) {
      return {p.mean.data, p.variance.data, p.weight.data, p.bias.data, T(options.speed)};
    }
    /// surprisal[rows] by a predictor's h, in units of ln(classes), and off `gain`.
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void predict(const Call<Space>& call, const Parameters<T, Storage>& p, const std::int32_t* target,
                                           const T* hidden, T* surprisal, T* gain) {
      Arena arena = call.arena;
      const Index rows = call.batch.rows;
      const Scratch<T> s(arena, rows, false);
      for (Index from = 0; from < rows; from += piece) {
        const Index count = smaller(piece, rows - from);
        Output<Space, T>::forward(call.space, arena, count, hidden + from * rank, p.output, p.output_bias.data, s.logits);
        call.space.each(count, ops::CrossEntropy<T, classes>{s.logits, target + from, s.loss, T(0)});
        call.space.each(
            divide_up(count, ops::predict_block),
            ops::SurprisalKernel<T>{count, 1 / log_classes, s.loss, surprisal + from, gain == nullptr ? nullptr : gain + from});
      }
    }
  };
};

}  // namespace hybridmoe::control
