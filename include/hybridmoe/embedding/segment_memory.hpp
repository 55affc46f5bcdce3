#pragma once
/// @file segment_memory.hpp
/// State, tape and scratch of embedding::Segments; S is its SegmentShape.

#include <hybridmoe/core/visit.hpp>
#include <hybridmoe/embedding/segment_shape.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::embedding {

/// What a sequence carries. Rings by position: embeddings, u, boundary keys, counts, log Ω of open segments; rings by the
/// segments' numbers: vectors of phrases and sentences, and of each scale W' v and (if normed) its mean square.
template <class S, class T>
struct SegmentState {
  Array<T, S::embeddings, S::width> embedding;
  Array<T, S::tokens, S::width> token;
  [[no_unique_address]] Optional<S::learned, Array<T, S::latest, S::pair>, 156> key;
  [[no_unique_address]] Optional<S::learned, Array<T, S::latest, S::scales>, 157> open;
  Array<T, S::vectors(0), S::size> phrase;
  Array<T, S::vectors(1), S::size> sentence;
  Array<T, S::uses(0), S::width> phrase_output;
  Array<T, S::uses(1), S::width> sentence_output;
  Array<T, S::uses(2), S::width> paragraph_output;
  [[no_unique_address]] Optional<S::normed, Array<T, S::uses(0), 1>, 158> phrase_square;
  [[no_unique_address]] Optional<S::normed, Array<T, S::uses(1), 1>, 159> sentence_square;
  [[no_unique_address]] Optional<S::normed, Array<T, S::uses(2), 1>, 160> paragraph_square;
  Array<ops::SegmentCount, S::latest, 1> count;
};

/// What forward leaves for backward, and uses itself.
template <class S, class T>
struct SegmentTape {
  T *mixed = nullptr, *inverse = nullptr, *u;                               ///< tokens
  T *query = nullptr, *key = nullptr, *cosine = nullptr, *logit = nullptr;  ///< boundaries
  T *open, *closing;                                                        ///< [rows, scales] log Ω
  ops::ClosedSegments<T> segments;
  T *pooled_tokens, *pooled, *raw, *segment_inverse;   ///< [phrases, width], [segments, …]
  T *token_share = nullptr, *segment_share = nullptr;  ///< [rows], [segments]
  T *square = nullptr, *scaled = nullptr, *output;     ///< [segments, …]
  T *context, *d_context = nullptr;                    ///< [rows, 2·size]
  HYBRIDMOE_FUNCTION constexpr SegmentTape(auto& arena, Extent e)
      : u(arena.template take<T>(e.rows * S::width)),
        open(arena.template take<T>(e.rows * S::scales)),
        closing(arena.template take<T>(e.rows * S::scales)),
        segments(arena, S::own_limits(), S::size, e.rows, e.sequences, e.training),
        pooled_tokens(arena.template take<T>(S::phrases(e) * S::width)),
        pooled(arena.template take<T>(segments.capacity * S::size)),
        raw(arena.template take<T>(segments.capacity * S::size)),
        segment_inverse(arena.template take<T>(segments.capacity)),
        output(arena.template take<T>(segments.capacity * S::width)),
        context(arena.template take<T>(e.rows * 2 * S::size)) {
    if (S::learned) {
      query = arena.template take<T>(e.rows * S::pair);
      key = arena.template take<T>(e.rows * S::pair);
      cosine = arena.template take<T>(e.rows);
      logit = arena.template take<T>(e.rows * S::scales);
    }
    if (S::normed) {
      square = arena.template take<T>(segments.capacity);
      scaled = arena.template take<T>(segments.capacity * S::size);
    }
    if (!e.training) return;
    mixed = arena.template take<T>(e.rows * S::width);
    inverse = arena.template take<T>(e.rows);
    token_share = arena.template take<T>(e.rows);
    segment_share = arena.template take<T>(segments.capacity);
    d_context = arena.template take<T>(e.rows * 2 * S::size);
  }
};

/// Scratch of backward.
template <class S, class T>
struct SegmentScratch {
  T *weight, *d_output, *d_raw, *d_pooled_tokens, *d_pooled, *slope, *segment_slope, *d_u;
  T *row_d_square = nullptr, *row_d_exponent = nullptr, *d_square = nullptr, *d_scaled = nullptr;
  T *d_cosine = nullptr, *d_sharpness = nullptr, *d_query = nullptr, *d_key = nullptr;
  HYBRIDMOE_FUNCTION constexpr SegmentScratch(auto& arena, Extent e)
      : weight(arena.template take<T>(e.rows * S::scales)),
        d_output(arena.template take<T>(S::all(e) * S::width)),
        d_raw(arena.template take<T>(S::all(e) * S::size)),
        d_pooled_tokens(arena.template take<T>(S::phrases(e) * S::width)),
        d_pooled(arena.template take<T>(S::all(e) * S::size)),
        slope(arena.template take<T>(e.rows)),
        segment_slope(arena.template take<T>(S::all(e))),
        d_u(arena.template take<T>(e.rows * S::width)) {
    if (S::normed) {
      row_d_square = arena.template take<T>(e.rows * S::scales);
      row_d_exponent = arena.template take<T>(e.rows * S::scales);
      d_square = arena.template take<T>(S::all(e));
      d_scaled = arena.template take<T>(S::all(e) * S::size);
    }
    if (S::learned) {
      d_cosine = arena.template take<T>(e.rows);
      d_sharpness = arena.template take<T>(e.rows);
      d_query = arena.template take<T>(e.rows * S::pair);
      d_key = arena.template take<T>(e.rows * S::pair);
    }
  }
};

/// Rows of the call joined to those that the states keep.
template <class S, class T>
struct SegmentPast {
  using State = SegmentState<S, T>;
  Batch batch;
  ops::NumberedRows<T> embedding, token, key, open, vector[2], output[S::scales], square[S::scales];
  ops::NumberedRows<ops::SegmentCount> count;

  HYBRIDMOE_FUNCTION SegmentPast(const Batch& batch_, const T* e, States<State> states, const SegmentTape<S, T>& tape)
      : batch(batch_) {
    each(e, tape,
         [&]<class Element, class Ring>(ops::NumberedRows<Element>& to, const Element* rows, const Index* first,
                                        const Index* before, Ring State::*ring) {
           to = {rows,          Ring::shape[1], first,     before, base_of<const std::byte>(states, ring),
                 states.stride, Ring::shape[0], batch.slot};
         });
  }
  /// Leaves the last rows in the states, after everything was read.
  template <class Space>
  HYBRIDMOE_FUNCTION void keep(const Space& space, const T* e, States<State> states, const SegmentTape<S, T>& tape) {
    each(e, tape,
         [&]<class Element, class Ring>(ops::NumberedRows<Element>&, const Element* rows, const Index* first, const Index* before,
                                        Ring State::*ring) {
           space.each(batch.sequences, ops::KeepRowsKernel<Element, Ring::shape[1], Ring::shape[0]>{
                                           rows, first, before, base_of<std::byte>(states, ring), states.stride, batch.slot});
         });
  }

 private:
  template <class Byte, class Ring>
  HYBRIDMOE_FUNCTION static Byte* base_of(States<State> states, Ring State::*ring) {
    return states ? reinterpret_cast<Byte*>(&(states[0].*ring)) : nullptr;
  }
  /// f(joined rows, the call's rows, their first and number, ring) for everything that a state keeps.
  template <class F>
  HYBRIDMOE_FUNCTION void each(const T* e, const SegmentTape<S, T>& tape, const F& f) {
    const auto by_position = [&]<class Element>(ops::NumberedRows<Element>& to, const Element* rows, auto ring) {
      f(to, rows, batch.begin, batch.start, ring);
    };
    const auto by_number = [&](Index scale, ops::NumberedRows<T>& to, const T* rows, auto ring) {
      f(to, rows, tape.segments.first_of(scale, batch.sequences), tape.segments.before_of(scale, batch.sequences), ring);
    };
    by_position(embedding, e, &State::embedding);
    by_position(token, static_cast<const T*>(tape.u), &State::token);
    if constexpr (S::learned) by_position(key, static_cast<const T*>(tape.key), &State::key);
    if constexpr (S::learned) by_position(open, static_cast<const T*>(tape.open), &State::open);
    by_position(count, static_cast<const ops::SegmentCount*>(tape.segments.count), &State::count);
    by_number(0, vector[0], tape.segments.vector, &State::phrase);
    by_number(1, vector[1], tape.segments.vector, &State::sentence);
    by_number(0, output[0], tape.output, &State::phrase_output);
    by_number(1, output[1], tape.output, &State::sentence_output);
    by_number(2, output[2], tape.output, &State::paragraph_output);
    if constexpr (S::normed) {
      by_number(0, square[0], tape.square, &State::phrase_square);
      by_number(1, square[1], tape.square, &State::sentence_square);
      by_number(2, square[2], tape.square, &State::paragraph_square);
    }
  }
};

}  // namespace hybridmoe::embedding
