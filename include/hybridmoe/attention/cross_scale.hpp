#pragma once
/// @file cross_scale.hpp
/// Cross-scale attention: tokens attend to the segments that have closed before them, of all scales in one softmax:
///
///   logit_g = q·k_g/√size + log ε_s + log Ω_g + bias_{i,s} − slope_i·log(1 + t − end_g);  a null key: logit 0, value 0
///   k_g = W_k,s v_g and W_v,s v_g are computed once, when the segment closes;  y = W_o Σ, W_o zero at the start
///
/// Reads stream::Segments (embedding/segments.hpp; absent: y = 0) and the emphasis ε in stream::Decisions (neutral: 1; a scale
/// with ε = 0 is not computed).

#include <hybridmoe/attention/heads.hpp>
#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/cross_scale_backward.hpp>
#include <hybridmoe/ops/fill.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

struct CrossScaleOptions {
  ScaleKeys keys = ScaleKeys{};            ///< the last so many segments of each scale are seen
  SegmentLimits limits = SegmentLimits{};  ///< of the source; a state has room for what they allow
  Index segment = 0;                       ///< elements of a segment's vector (0: a quarter of the model's width)
};

/// The mixer. Tensors: query.weight, {phrase, sentence, paragraph}.{key, value}.weight, bias [heads, scales], slope [heads],
/// output.weight.
template <Heads heads, CrossScaleOptions options = CrossScaleOptions{}>
struct CrossScale {
  static constexpr bool positive = heads.query > 0 && heads.kv > 0 && heads.size > 0;
  static constexpr bool divides = positive && heads.query % heads.kv == 0;
  static constexpr bool keyed = options.keys.phrase > 0 && options.keys.sentence > 0 && options.keys.paragraph > 0;
  static constexpr bool sound = divides && keyed && options.limits.sound();
  template <bool asked>
  struct Requirements {
    static_assert(!asked || positive, "Heads::query, Heads::kv and Heads::size must be positive");
    static_assert(!asked || !positive || divides, "Heads::kv must divide Heads::query");
    static_assert(!asked || keyed, "attention::CrossScale needs at least one key of each scale");
    static_assert(!asked || options.limits.sound(), "CrossScaleOptions::limits are not possible limits of segments");
  };

  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width, scales = SegmentLimits::scales;
    static constexpr Index segment = options.segment > 0 ? options.segment : larger(1, width / 4);
    static constexpr int size = static_cast<int>(heads.size), kv = static_cast<int>(heads.kv),
                         query = static_cast<int>(heads.query);
    static constexpr Index inner = heads.query * heads.size, kv_inner = heads.kv * heads.size;
    static constexpr bool causal = true, rewinds = true;
    static constexpr StreamShapes takes = StreamShapes{}.with<stream::Segments>(segment, options.limits);

    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, inner, width> query;
      Stacked<Weight<T, Storage, kv_inner, segment>, scales> key, value;
      Array<T, heads.query, scales> bias;
      Array<T, heads.query> slope;
      Weight<T, Storage, width, inner> output;
    };

    static void visit(auto&& f, const Name& at, auto&... p) {
      constexpr std::string_view scale[] = {"phrase", "sentence", "paragraph"};
      f(at / "query" / "weight", Trait::weight(), p.query...);
      for (Index s = 0; s < scales; ++s) {
        f(at / scale[s] / "key" / "weight", Trait::weight(), p.key[s]...);
        f(at / scale[s] / "value" / "weight", Trait::weight(), p.value[s]...);
      }
      f(at / "bias", Trait::bias(), p.bias...);
      f(at / "slope", Trait::gain(0.5f), p.slope...);
      f(at / "output" / "weight", Trait{.start = Start::constant, .a = 0, .residual = true}, p.output...);
    }

    /// Tiles of a ring: the keys that are seen, those that a call or what was taken back may have closed, and one since they
    /// may begin within a tile.
    static constexpr Index tiles(Index s) {
      return ops::tiles_for(options.keys.at(s) + options.limits.closings(s, Env::chunk + Env::rewind)) + 1;
    }

    /// Rings by the segments' numbers.
    template <class T>
    struct State {
      Array<T, kv, tiles(0), size, ops::key_tile> phrase_keys, phrase_values;
      Array<T, kv, tiles(1), size, ops::key_tile> sentence_keys, sentence_values;
      Array<T, kv, tiles(2), size, ops::key_tile> paragraph_keys, paragraph_values;
      Array<T, tiles(0), ops::key_tile> phrase_omega;
      Array<T, tiles(1), ops::key_tile> sentence_omega;
      Array<T, tiles(2), ops::key_tile> paragraph_omega;
      Array<std::int32_t, tiles(0), ops::key_tile> phrase_end;
      Array<std::int32_t, tiles(1), ops::key_tile> sentence_end;
      Array<std::int32_t, tiles(2), ops::key_tile> paragraph_end;
    };

    template <class T>
    struct Tape {
      T *query, *mixed, *key, *value;  ///< [rows, inner] twice, [segments, kv_inner] twice
      T* log_total = nullptr;          ///< [rows, heads]
      ops::ScaleStores<T, size> stores;
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : query(arena.template take<T>(e.rows * inner)),
            mixed(arena.template take<T>(e.rows * inner)),
            key(arena.template take<T>(all(e) * kv_inner)),
            value(arena.template take<T>(all(e) * kv_inner)) {
        if (!e.training) return;
        log_total = arena.template take<T>(e.rows * heads.query);
        for (Index s = 0; s < scales; ++s) {
          const Index count = options.limits.capacity(s, e.rows, e.sequences) / ops::key_tile + e.sequences;
          ops::ScaleStore<T, size>& store = stores.scale[s];
          store.keys = arena.template take<T>(count * kv_inner * ops::key_tile);
          store.values = arena.template take<T>(count * kv_inner * ops::key_tile);
          store.log_omega = arena.template take<T>(count * ops::key_tile);
          store.end = arena.template take<std::int32_t>(count * ops::key_tile);
          store.tiles = count;
          store.head_stride = count * size * ops::key_tile;
        }
      }
    };

    template <class T>
    struct Scratch {
      T *d_mixed, *d_query, *d_key, *d_value, *d_omega, *d_emphasis, *d_head;
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e)
          : d_mixed(arena.template take<T>(e.rows * inner)),
            d_query(arena.template take<T>(e.rows * inner)),
            d_key(arena.template take<T>(all(e) * kv_inner)),
            d_value(arena.template take<T>(all(e) * kv_inner)),
            d_omega(arena.template take<T>(all(e) * heads.kv)),
            d_emphasis(arena.template take<T>(e.rows * heads.kv * scales)),
            d_head(arena.template take<T>(e.sequences * heads.query * (scales + 1))) {}
    };

    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      if (std::is_same_v<Storage, Packed> && !e.training) return 0;
      const Index products =
          larger(larger(product_workspace<T, Storage, inner, width>(e), product_workspace<T, Storage, width, inner>(e)),
                 Segment<exec::Inline, T>::workspace_bytes(all(e), e.training));
      return products + (e.training ? planned_bytes<Scratch<T>>(e) : 0);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      const Space& space = call.space;
      const Batch& batch = call.batch;
      const auto* const segments = call.side.template structure<stream::Segments, ops::ClosedSegments<T>>();
      if (segments == nullptr) return ops::zero(space, batch.rows * width, y.data);
      HYBRIDMOE_ASSERT(segments->size == segment && segments->limits.no_more_than(options.limits));
      const Extent e = Extent::of(batch, call.training);
      In<Space, T>::forward(space, call.arena, batch.rows, x.data, p.query, nullptr, tape.query);
      Segment<Space, T>::forward(space, call.arena, all(e), segments->offset, segments->vector, p.key, tape.key);
      Segment<Space, T>::forward(space, call.arena, all(e), segments->offset, segments->vector, p.value, tape.value);
      const auto input = input_of<T>(call, p, *segments, states, tape);
      space.each(divide_up(all(e), ops::segment_block),
                 ops::StoreSegmentsKernel<T, kv, size>{batch, *segments, tape.key, tape.value, input.stores});
      using Core = ops::CrossScaleKernel<T, query, kv, size, options.keys>;
      space.each(Core::items(batch), Core{input, tape.mixed, tape.log_total});
      Out<Space, T>::forward(space, call.arena, batch.rows, tape.mixed, p.output, nullptr, y.data);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Space& space = call.space;
      const Batch& batch = call.batch;
      const auto* const segments = call.side.template structure<stream::Segments, ops::ClosedSegments<T>>();
      if (segments == nullptr) return;
      const Extent e = Extent::of(batch, true);
      Arena arena = call.arena;
      const Scratch<T> s(arena, e);
      ops::zero(space, batch.rows * inner, s.d_mixed);
      Out<Space, T>::backward_input(space, arena, batch.rows, dy.data, p.output, s.d_mixed);
      Out<Space, T>::backward_weight(space, arena, batch.rows, tape.mixed, dy.data, gradient.output, nullptr);
      const auto input = input_of<T>(call, p, *segments, {}, tape);
      using Core = ops::CrossScaleBackwardKernel<T, query, kv, size, options.keys>;
      space.each(Core::items(batch), Core{input, tape.key, tape.mixed, tape.log_total, s.d_mixed, s.d_query, s.d_key, s.d_value,
                                          s.d_omega, s.d_emphasis, s.d_head});
      space.each(heads.query, ops::AddHeadsKernel<T, query>{batch.sequences, s.d_head, gradient.bias.data, gradient.slope.data});
      if (input.emphasis.gradient != nullptr)
        space.each(divide_up(batch.rows, ops::segment_rows),
                   ops::AddEmphasisKernel<T, kv>{batch.rows, input.emphasis, s.d_emphasis});
      if (segments->d_log_omega != nullptr)
        space.each(divide_up(all(e), ops::segment_block), ops::AddOmegaKernel<T, kv>{*segments, s.d_omega});
      const auto back = [&](const T* d, const auto& weight, auto& d_weight) {
        Segment<Space, T>::backward_weight(space, arena, all(e), segments->offset, segments->vector, d, d_weight);
        if (segments->d_vector != nullptr)
          Segment<Space, T>::backward_input(space, arena, all(e), segments->offset, d, weight, segments->d_vector);
      };
      back(s.d_key, p.key, gradient.key);
      back(s.d_value, p.value, gradient.value);
      In<Space, T>::backward_input(space, arena, batch.rows, s.d_query, p.query, dx.data);
      In<Space, T>::backward_weight(space, arena, batch.rows, x.data, s.d_query, gradient.query, nullptr);
    }

    // Accounting.
    static constexpr Index per_row = (inner + inner) * width, per_segment = 2 * kv_inner * segment;
    /// Every token meets query and output; one that closes a paragraph meets everything.
    static constexpr Spread active_parameters() {
      const Index most = per_row + scales * per_segment + heads.query * (scales + 1);
      return {per_row, most, most};
    }
    /// With segments as long as is aimed at: products, those with a segment's vector once in its length, and the mean over
    /// positions of scores and mixing (backward five such products against two).
    static constexpr Flops flops_per_token(Index context) {
      Flops sum = Flops::product(static_cast<double>(per_row));
      const double all = static_cast<double>(context), of_segment = static_cast<double>(per_segment);
      for (Index s = 0; s < scales; ++s) {
        const double aim = static_cast<double>(options.limits.at(s).aim());
        const double most = static_cast<double>(options.keys.at(s)), seen = all / aim < most ? all / aim : most;
        const double core = 4.0 * (seen - seen * seen * aim / (2 * all)) * static_cast<double>(inner);
        sum = sum + Flops{2 * of_segment / aim + core, 6 * of_segment / aim + 3.5 * core};
      }
      return sum;
    }
    /// The most forward FLOPs of one token, whatever the budget: one that closes a paragraph, with the shortest segments.
    static constexpr double capped_flops(Index context, double) {
      double seen = 0;
      for (Index s = 0; s < scales; ++s)
        seen += static_cast<double>(smaller(options.keys.at(s), context / options.limits.at(s).least));
      return 2.0 * static_cast<double>(per_row + scales * per_segment) + 4.0 * seen * static_cast<double>(inner);
    }
    /// Keys and values of the segments that are seen, with their Ω.
    static constexpr Index recurrent_elements =
        (options.keys.phrase + options.keys.sentence + options.keys.paragraph) * (2 * kv_inner + 1);
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    using In = ops::Matmul<Space, T, inner, width>;
    template <class Space, class T>
    using Out = ops::Matmul<Space, T, width, inner>;
    template <class Space, class T>
    using Segment = ops::GroupedMatmul<Space, T, scales, kv_inner, segment>;

    HYBRIDMOE_FUNCTION static constexpr Index all(Extent e) { return options.limits.capacity(e.rows, e.sequences); }

    template <class T, class Space>
    HYBRIDMOE_FUNCTION static auto input_of(const Call<Space>& call, const auto& p, const ops::ClosedSegments<T>& segments,
                                            States<State<T>> states, const Tape<T>& tape) {
      ops::ScaleStores<T, size> stores = tape.stores;
      if (states) {
        State<T>& first = states[0];
        stores = {{store_of<T>(first.phrase_keys, first.phrase_values, first.phrase_omega, first.phrase_end),
                   store_of<T>(first.sentence_keys, first.sentence_values, first.sentence_omega, first.sentence_end),
                   store_of<T>(first.paragraph_keys, first.paragraph_values, first.paragraph_omega, first.paragraph_end)},
                  states.stride,
                  call.batch.slot};
      }
      return ops::CrossScaleInput<T, query, kv, size, options.keys>{
          call.batch, segments,    stores,       ops::emphasis_of<T>(call.side.template rows<stream::Decisions, T>()),
          tape.query, p.bias.data, p.slope.data, T(1) / math::sqrt(T(heads.size))};
    }
    template <class T, class Keys>
    HYBRIDMOE_FUNCTION static ops::ScaleStore<T, size> store_of(Keys& keys, Keys& values, auto& omega, auto& end) {
      constexpr Index count = Keys::shape[1];
      return {keys.data, values.data, omega.data, end.data, count, count * size * ops::key_tile};
    }
  };
};

}  // namespace hybridmoe::attention
