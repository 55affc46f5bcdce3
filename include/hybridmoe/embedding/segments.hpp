#pragma once
/// @file segments.hpp
/// Multi-scale embeddings: a source that cuts a sequence into phrases, sentences and paragraphs, strictly nested, with learned
/// boundaries inside hard limits, makes a vector of each closed segment, and gives them to the stack's input, to
/// stream::Context (last closed phrase and sentence of each row) and to stream::Segments (ops::ClosedSegments).
///
///   u_t = RMSNorm(e_t + Σ_{i=1..3} κ_i⊙e_{t−i})
///   p^s_t = σ(sharpness·(−cos(W_q u_t, W_k u_{t−1})) + bias_s); a segment is cut before t if it is long enough and p > ½, or
///   must be cut (ops/segment_cuts.hpp)
///   v_g = RMSNorm_s(W_s Σ softmax(a_s·child) child), children: tokens' u, phrases, sentences
///   Ω_g = p at a wanted cut (1 at a forced one) · Π over declined decisions (1 − p)
///   x⁰_t = e_t + λ⊙u_t + Σ_s ε_s W'_s v_{s, last closed}, W' zero at the start, ε the emphasis in stream::Decisions (neutral:
///   1); λ⊙u is the scale of the tokens themselves
///
/// A segment cut before t ends at t − 1 and is visible from row t on. The derivative is at fixed segmentation; log Ω in the
/// logits of attention teaches the boundaries, and bias_s follows the mean length (an integral controller).

#include <hybridmoe/embedding/segment_memory.hpp>
#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/layer/source.hpp>
#include <hybridmoe/ops/fill.hpp>
#include <hybridmoe/ops/segment_uses.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::embedding {

/// The source. Options: Learned, Fixed or Random; PlainHierarchy or NormedHierarchy.
template <SegmentOptions options = SegmentOptions{}, class... Options>
struct Segments {
  static constexpr SegmentLimits limits = options.limits;
  static_assert(limits.sound(),
                "SegmentLimits: lengths must be positive, a scale's least above the most of the scale below, and least <= most - "
                "most of the scale below + 1, or the limits cannot be kept");
  static_assert(options.width >= 0 && options.boundary > 0, "SegmentOptions::boundary must be positive");
  static_assert((has_a_tag<Options, BoundariesTag, HierarchyTag> && ...),
                "an option of embedding::Segments is none of: Learned, Fixed, Random, PlainHierarchy, NormedHierarchy");
  using Cuts = Option<BoundariesTag, Learned, Options...>;
  using Hierarchy = Option<HierarchyTag, PlainHierarchy, Options...>;

  template <class Env>
  struct Layer {
    static constexpr std::string_view name = "segments";
    static constexpr Index width = Env::width;
    static constexpr bool causal = true, rewinds = true;
    using Shape = SegmentShape<options, Cuts, Hierarchy, Env>;
    static constexpr Index size = Shape::size, scales = Shape::scales, pair = Shape::pair;
    static constexpr bool learned = Shape::learned, normed = Shape::normed;
    // (`template`: nvcc takes the first call's result for a dependent one.)
    static constexpr StreamShapes gives =
        StreamShapes{}.with<stream::Context>(2 * size).template with<stream::Segments>(size, limits);

    template <class T, class Storage>
    struct Parameters {
      Array<T, ops::segment_taps, width> taps;
      Array<T, width> token_norm, token_output;
      [[no_unique_address]] Optional<learned, Weight<T, Storage, pair, width>, 150> boundary;
      [[no_unique_address]] Optional<learned, Weight<T, Storage, pair, width>, 151> change;
      [[no_unique_address]] Optional<learned, Array<T, 1>, 152> sharpness;
      [[no_unique_address]] Optional<learned, Array<T, scales>, 153> bias;
      Array<T, width> phrase_query;
      Array<T, size> sentence_query, paragraph_query;
      Stacked<Weight<T, Storage, size, width>, 1> phrase;
      Stacked<Weight<T, Storage, size, size>, 1> sentence, paragraph;
      Stacked<Array<T, size>, scales> norm;
      [[no_unique_address]] Optional<normed, Stacked<Array<T, size>, scales>, 154> gain;
      [[no_unique_address]] Optional<normed, Array<T, scales>, 155> exponent;
      Stacked<Weight<T, Storage, width, size>, scales> output;
    };

    static void visit(auto&& f, const Name& at, auto&... p) {
      constexpr std::string_view scale[] = {"phrase", "sentence", "paragraph"};
      f(at / "taps", Trait::gain(0.25f).at_speed(options.speed), p.taps...);
      f(at / "token_norm" / "weight", Trait::gain(), p.token_norm...);
      f(at / "token_output", Trait::gain(options.token).at_speed(options.speed), p.token_output...);
      if constexpr (learned) {
        f(at / "boundary" / "weight", Trait::weight(), p.boundary...);
        // What is alike after W_q and W_k is alike from the first step on: W_k starts at W_q.
        f(at / "boundary" / "change", Trait{.start = Start::constant, .a = 0}, p.change...);
        f(at / "boundary" / "sharpness", Trait::gain(4.0f), p.sharpness...);
        f(at / "boundary" / "bias", Trait::controlled(Update::integral, options.rate), p.bias...);
      }
      f(at / scale[0] / "query", Trait::bias(), p.phrase_query...);
      f(at / scale[1] / "query", Trait::bias(), p.sentence_query...);
      f(at / scale[2] / "query", Trait::bias(), p.paragraph_query...);
      f(at / scale[0] / "weight", Trait::weight(), p.phrase[0]...);
      f(at / scale[1] / "weight", Trait::weight(), p.sentence[0]...);
      f(at / scale[2] / "weight", Trait::weight(), p.paragraph[0]...);
      for (Index s = 0; s < scales; ++s) {
        f(at / scale[s] / "norm" / "weight", Trait::gain(), p.norm[s]...);
        if constexpr (normed) f(at / scale[s] / "gain", Trait::gain(), p.gain[s]...);
        // A step of every entry moves W'v by D_s times as much as one moves an embedding: within fifty steps segments would bury
        // the tokens.
        constexpr Trait zero{.start = Start::constant, .a = 0, .residual = true, .speed = 2.0f / static_cast<float>(size)};
        f(at / scale[s] / "output" / "weight", zero, p.output[s]...);
      }
      if constexpr (normed) f(at / "exponent", Trait::gain(), p.exponent...);
    }

    template <class T>
    using State = SegmentState<Shape, T>;
    template <class T>
    using Tape = SegmentTape<Shape, T>;

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      if (std::is_same_v<Storage, Packed> && !e.training) return 0;
      using In = exec::Inline;
      const Index products = larger(larger(learned ? Pair<In, T>::workspace_bytes(e.rows, e.training) : 0,
                                           FromTokens<In, T>::workspace_bytes(Shape::phrases(e), e.training)),
                                    larger(FromSegments<In, T>::workspace_bytes(Shape::all(e), e.training),
                                           Out<In, T>::workspace_bytes(Shape::all(e), e.training)));
      return products + (e.training ? planned_bytes<SegmentScratch<Shape, T>>(e) : 0);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p,
                                           const SourceInput<T, width>& input, Rows<T, width> x, States<State<T>> states,
                                           const Tape<T>& tape) {
      const Space& space = call.space;
      const Batch& batch = call.batch;
      const Extent e = Extent::of(batch, call.training);
      const ops::ClosedSegments<T>& segments = tape.segments;
      SegmentPast<Shape, T> past(batch, input.embedding.data, states, tape);
      const Index blocks = divide_up(batch.rows, ops::segment_rows);

      space.each(blocks, ops::SegmentTokenKernel<T, width>{batch, past.embedding, p.taps.data, p.token_norm.data,
                                                           tape.mixed == nullptr ? tape.u : tape.mixed, tape.u, tape.inverse});
      space.each(blocks, ops::UseTokensKernel<T, width>{batch.rows, p.token_output.data, tape.u, x.data});
      if constexpr (learned) {
        Pair<Space, T>::forward(space, call.arena, batch.rows, tape.u, p.boundary, nullptr, tape.query);
        Pair<Space, T>::forward(space, call.arena, batch.rows, tape.u, p.change, nullptr, tape.key);
        ops::add(space, batch.rows * pair, static_cast<const T*>(tape.query), tape.key);
        space.each(blocks, ops::BoundaryKernel<T, pair>{batch, boundary_of(p, tape, past), tape.cosine, tape.logit});
      }
      space.each(batch.sequences, ops::CutKernel<T, limits, Cuts>{batch, tape.logit, past.count, past.open, segments.count,
                                                                  tape.open, tape.closing});
      space.each(1, ops::PlaceSegmentsKernel<T>{batch, past.count, segments.offset, segments.first, segments.before});
      using Describe = ops::DescribeSegmentsKernel<T>;
      space.each(divide_up(batch.rows, Describe::rows_per_item), Describe{batch, past.count, tape.closing, segments});

      space.each(Shape::items(0, e), ops::PoolKernel<T, width, limits.children(0)>{segments, 0, past.token, p.phrase_query.data,
                                                                                   tape.pooled_tokens, tape.token_share});
      FromTokens<Space, T>::forward(space, call.arena, Shape::phrases(e), segments.offset, tape.pooled_tokens, p.phrase,
                                    tape.raw);
      norm(space, 0, e, p, tape);
      const auto above = [&]<Index scale>(std::integral_constant<Index, scale>, const auto& query, const auto& weight) {
        space.each(Shape::items(scale, e),
                   ops::PoolKernel<T, size, limits.children(scale)>{segments, scale, past.vector[scale - 1], query.data,
                                                                    tape.pooled, tape.segment_share});
        FromSegments<Space, T>::forward(space, call.arena, Shape::all(e), segments.offset + scale, tape.pooled, weight, tape.raw);
        norm(space, scale, e, p, tape);
      };
      above(std::integral_constant<Index, 1>{}, p.sentence_query, p.sentence);
      above(std::integral_constant<Index, 2>{}, p.paragraph_query, p.paragraph);

      if constexpr (normed)
        space.each(divide_up(Shape::all(e), ops::segment_block),
                   ops::ScaleSegmentsKernel<T, size>{segments, gains_of<T>(p), tape.square, tape.scaled});
      Out<Space, T>::forward(space, call.arena, Shape::all(e), segments.offset, normed ? tape.scaled : segments.vector, p.output,
                             tape.output);
      space.each(blocks, ops::UseSegmentsKernel<T, width, size>{
                             batch, uses_of(p, tape, past), ops::emphasis_of<T>(call.side.template rows<stream::Decisions, T>()),
                             x.data, tape.context});
      if (states) past.keep(space, input.embedding.data, states, tape);
      if (!call.training) return;
      ops::zero(space, batch.rows * 2 * size, tape.d_context);
      ops::zero(space, segments.capacity, segments.d_log_omega);
      ops::zero(space, segments.capacity * size, segments.d_vector);
    }

    template <class T>
    HYBRIDMOE_FUNCTION static void streams(const Tape<T>& tape, Index, Side& side) {
      side.set<stream::Context>(static_cast<const T*>(tape.context), tape.d_context, 2 * size);
      side.value[stream::Segments::number] = &tape.segments;
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p,
                                            const SourceInput<T, width>& input, const Tape<T>& tape, Rows<const T, width> dx,
                                            Rows<T, width> d_embedding, Parameters<T, Flat>& gradient) {
      const Space& space = call.space;
      const Batch& batch = call.batch;
      const Extent e = Extent::of(batch, true);
      Arena arena = call.arena;
      const SegmentScratch<Shape, T> s(arena, e);
      const ops::ClosedSegments<T>& segments = tape.segments;
      const SegmentPast<Shape, T> past(batch, input.embedding.data, {}, tape);
      const Index blocks = divide_up(batch.rows, ops::segment_rows);

      // What rows took.
      space.each(blocks, ops::UseSegmentsBackwardKernel<T, width>{
                             batch, uses_of(p, tape, past), ops::emphasis_of<T>(call.side.template rows<stream::Decisions, T>()),
                             dx.data, s.weight, s.row_d_square, s.row_d_exponent});
      space.each(Shape::all(e), ops::GatherUsesKernel<T, width, size>{batch, segments, s.weight, dx.data, tape.d_context,
                                                                      s.row_d_square, s.d_output, s.d_square});
      Out<Space, T>::backward_weight(space, arena, Shape::all(e), segments.offset, normed ? tape.scaled : segments.vector,
                                     s.d_output, gradient.output);
      if constexpr (normed) ops::zero(space, Shape::all(e) * size, s.d_scaled);
      Out<Space, T>::backward_input(space, arena, Shape::all(e), segments.offset, s.d_output, p.output,
                                    normed ? s.d_scaled : segments.d_vector);
      if constexpr (normed) {
        space.each(divide_up(Shape::all(e), ops::segment_block),
                   ops::ScaleSegmentsBackwardKernel<T, size>{segments, gains_of<T>(p), s.d_scaled, s.d_square});
        for (Index scale = 0; scale < scales; ++scale)
          ops::sum_columns(space, size, 0, segments.offset + scale, ops::ProductTerm<T>{s.d_scaled, segments.vector, size},
                           gradient.gain[scale].data);
        space.each(1, ops::cpu::ColumnSumKernel<T>{batch.rows, scales, s.row_d_exponent, gradient.exponent.data});
      }

      // The hierarchy, from above.
      ops::zero(space, batch.rows, s.slope);
      ops::zero(space, Shape::all(e), s.segment_slope);
      ops::zero(space, batch.rows * width, s.d_u);
      const auto above = [&](Index scale, const auto& query, auto& d_query, const auto& weight, auto& d_weight) {
        norm_backward(space, scale, e, p, tape, s, gradient);
        FromSegments<Space, T>::backward_weight(space, arena, Shape::all(e), segments.offset + scale, tape.pooled, s.d_raw,
                                                d_weight);
        ops::zero(space, Shape::all(e) * size, s.d_pooled);
        FromSegments<Space, T>::backward_input(space, arena, Shape::all(e), segments.offset + scale, s.d_raw, weight, s.d_pooled);
        space.each(Shape::items(scale, e),
                   ops::PoolBackwardKernel<T, size>{segments, scale, past.vector[scale - 1], query.data, tape.pooled,
                                                    tape.segment_share, s.d_pooled, segments.d_vector, s.segment_slope});
        ops::sum_columns(space, size, 0, segments.offset + scale - 1,
                         ops::WeightedTerm<T>{s.segment_slope, segments.vector, size}, d_query.data);
      };
      above(2, p.paragraph_query, gradient.paragraph_query, p.paragraph, gradient.paragraph);
      above(1, p.sentence_query, gradient.sentence_query, p.sentence, gradient.sentence);
      norm_backward(space, 0, e, p, tape, s, gradient);
      FromTokens<Space, T>::backward_weight(space, arena, Shape::phrases(e), segments.offset, tape.pooled_tokens, s.d_raw,
                                            gradient.phrase);
      ops::zero(space, Shape::phrases(e) * width, s.d_pooled_tokens);
      FromTokens<Space, T>::backward_input(space, arena, Shape::phrases(e), segments.offset, s.d_raw, p.phrase,
                                           s.d_pooled_tokens);
      space.each(Shape::items(0, e),
                 ops::PoolBackwardKernel<T, width>{segments, 0, past.token, p.phrase_query.data, tape.pooled_tokens,
                                                   tape.token_share, s.d_pooled_tokens, s.d_u, s.slope});
      ops::sum_columns(space, width, batch.rows, nullptr, ops::WeightedTerm<T>{s.slope, tape.u, width},
                       gradient.phrase_query.data);

      // Boundaries.
      if constexpr (learned) {
        using Kernel = ops::CutBackwardKernel<T, limits, Cuts>;
        space.each(divide_up(batch.rows, Kernel::rows_per_item),
                   Kernel{batch, segments, tape.logit, tape.cosine, p.sharpness.data, s.d_cosine, s.d_sharpness});
        space.each(1, ops::cpu::ColumnSumKernel<T>{batch.rows, 1, s.d_sharpness, gradient.sharpness.data});
        space.each(blocks, ops::BoundaryBackwardKernel<T, pair>{batch, boundary_of(p, tape, past), tape.cosine, s.d_cosine,
                                                                s.d_query, s.d_key});
        Pair<Space, T>::backward_weight(space, arena, batch.rows, tape.u, s.d_query, gradient.boundary, nullptr);
        Pair<Space, T>::backward_weight(space, arena, batch.rows, tape.u, s.d_key, gradient.change, nullptr);
        Pair<Space, T>::backward_input(space, arena, batch.rows, s.d_query, p.boundary, s.d_u);
        Pair<Space, T>::backward_input(space, arena, batch.rows, s.d_key, p.change, s.d_u);
        if (call.auxiliary != 0)
          space.each(1, ops::LengthErrorKernel<T, limits>{segments, static_cast<T>(call.auxiliary), gradient.bias.data});
      }

      // Tokens.
      space.each(blocks, ops::UseTokensKernel<T, width>{batch.rows, p.token_output.data, dx.data, s.d_u});
      ops::sum_columns(space, width, batch.rows, nullptr, ops::ProductTerm<T>{dx.data, tape.u, width},
                       gradient.token_output.data);
      ops::sum_columns(space, width, batch.rows, nullptr, ops::GainTerm<T>{s.d_u, tape.mixed, tape.inverse, width},
                       gradient.token_norm.data);
      space.each(blocks, ops::SegmentTokenNormBackward<T, width>{batch.rows, tape.mixed, tape.inverse, p.token_norm.data, s.d_u});
      for (Index i = 0; i < ops::segment_taps; ++i)
        ops::sum_columns(space, width, batch.rows, nullptr,
                         ops::TapTerm<T>{batch.row_position, s.d_u, input.embedding.data, width, i + 1},
                         gradient.taps.data + i * width);
      space.each(blocks, ops::SegmentTapsBackward<T, width>{batch, p.taps.data, s.d_u, d_embedding.data});
    }

    // Accounting.
    static constexpr Index parameters = element_count<Parameters<float, Flat>, float>;
    /// Every token meets taps and its own scale; boundaries only where one may be; a token that closes a paragraph meets
    /// everything.
    static constexpr Spread active_parameters() { return {(ops::segment_taps + 2) * width, parameters, parameters}; }
    /// On average, with the lengths that are aimed at: a segment's products are done once, when it closes.
    static constexpr Flops flops_per_token(Index) {
      Flops sum{20.0 * width + 2.0 * width * scales, 2.5 * (20.0 * width + 2.0 * width * scales)};
      if (learned) sum = sum + Flops::product(2.0 * pair * width) + Flops{8.0 * pair, 20.0 * pair};
      for (Index s = 0; s < scales; ++s) {
        const double per_token = 1.0 / static_cast<double>(limits.at(s).aim());
        const double weights = static_cast<double>((s == 0 ? width : size) * size + width * size);
        const Flops products = Flops::product(weights);
        sum = sum + Flops{per_token * products.forward, per_token * products.training};
      }
      return sum;
    }
    /// The most forward FLOPs of one token, whatever the budget: one that closes a paragraph.
    static constexpr double capped_flops(Index, double) {
      const Index weights = (learned ? 2 * pair * width : 0) + (width + 2 * size) * size + scales * width * size;
      return 2.0 * static_cast<double>(weights) + (20.0 + 2.0 * scales) * width + 8.0 * pair +
             4.0 * static_cast<double>(limits.children(0) * width + (limits.children(1) + limits.children(2)) * size);
    }
    /// What a position carries without what rewinding adds.
    static constexpr Index recurrent_elements = (ops::segment_taps + limits.phrase.most + scales) * width + (learned ? pair : 0) +
                                                scales + (limits.children(1) + limits.children(2)) * size;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using Pair = ops::Matmul<Space, T, pair, width>;
    template <class Space, class T>
    using FromTokens = ops::GroupedMatmul<Space, T, 1, size, width>;
    template <class Space, class T>
    using FromSegments = ops::GroupedMatmul<Space, T, 1, size, size>;
    template <class Space, class T>
    using Out = ops::GroupedMatmul<Space, T, scales, width, size>;

    template <class T, class Storage>
    HYBRIDMOE_FUNCTION static ops::BoundaryInput<T> boundary_of(const Parameters<T, Storage>& p, const Tape<T>& tape,
                                                                const SegmentPast<Shape, T>& past) {
      return {tape.query, past.key, p.sharpness.data, p.bias.data};
    }
    template <class T>
    HYBRIDMOE_FUNCTION static const T* gains_of(const auto& p) {
      return ops::matmul::numbers<T>(p.gain);
    }
    template <class T>
    HYBRIDMOE_FUNCTION static ops::SegmentUses<T> uses_of(const auto& p, const Tape<T>& tape, const SegmentPast<Shape, T>& past) {
      ops::SegmentUses<T> uses{
          tape.segments.count, {}, {}, {past.vector[0], past.vector[1]}, first_element<const T, normed>(p.exponent)};
      for (Index s = 0; s < scales; ++s) {
        uses.output[s] = past.output[s];
        uses.square[s] = past.square[s];
      }
      return uses;
    }
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void norm(const Space& space, Index scale, Extent e, const Parameters<T, Storage>& p,
                                        const Tape<T>& tape) {
      space.each(Shape::items(scale, e),
                 ops::SegmentNormKernel<T, size>{tape.segments, scale, tape.raw, p.norm[scale].data, tape.segment_inverse});
    }
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void norm_backward(const Space& space, Index scale, Extent e, const Parameters<T, Flat>& p,
                                                 const Tape<T>& tape, const SegmentScratch<Shape, T>& s,
                                                 Parameters<T, Flat>& gradient) {
      ops::sum_columns(space, size, 0, tape.segments.offset + scale,
                       ops::GainTerm<T>{tape.segments.d_vector, tape.raw, tape.segment_inverse, size}, gradient.norm[scale].data);
      space.each(Shape::items(scale, e), ops::SegmentNormBackwardKernel<T, size>{
                                             tape.segments, scale, tape.raw, tape.segment_inverse, p.norm[scale].data, s.d_raw});
    }
  };
};

}  // namespace hybridmoe::embedding
