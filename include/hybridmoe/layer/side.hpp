#pragma once
/// @file side.hpp
/// What a layer may read beside the residual stream: named streams of values per row, made by a model's sources
/// (layer/source.hpp) before the stack runs, each with a place where layers add its gradient. A stream that nobody provides is
/// absent, and a layer then takes the neutral value that it documents: so each layer works alone, in any model.

#include <hybridmoe/core/index.hpp>
#include <hybridmoe/ops/segments.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// The streams of the library. `number` is a stream's place in Side; numbers from `own` on are for users' streams.
namespace stream {

/// c in (0, 1): how much a row gains from computing. [rows, 1]
struct Complexity {
  static constexpr int number = 0;
};
/// What a controller decided for every layer and row: [rows, fields·layers + scales]; see Decision. Neutral: 1, norm 0.
struct Decisions {
  static constexpr int number = 1;
};
/// Vectors of the last closed phrase and sentence before each row, zeros before the first: [rows, 2·segment width].
struct Context {
  static constexpr int number = 2;
};
/// Closed segments of each sequence. Its value is one structure (embedding/), not an array by rows.
struct Segments {
  static constexpr int number = 3;
};
/// The compute budget in [0, 1] of each row: [rows, 1]; given by the caller. Neutral: 1. Has no gradient.
struct Budget {
  static constexpr int number = 4;
};
/// The performance target in [0, 1] of each row (1: spend the budget): [rows, 1]; given by the caller. Neutral: 1. Has no
/// gradient.
struct Target {
  static constexpr int number = 5;
};

/// The complexity again: its gradient is what c is to learn from what computing more was worth to a row, apart from what its
/// readers want of it. [rows, 1]
struct Gain {
  static constexpr int number = 6;
};

inline constexpr int own = 8;     ///< the first number that is free for users
inline constexpr int count = 12;  ///< how many streams there may be

}  // namespace stream

/// What a source chooses of its streams and their readers are compiled for. Sources say what they give, layers what they take; a
/// model in which the two differ does not compile (model/check.hpp). Where either says nothing, anything goes.
struct StreamShapes {
  Index width[stream::count] = {};  ///< by number: elements of a row, of a segment's vector in stream::Segments; 0: nothing said
  SegmentLimits limits{};           ///< of stream::Segments

  template <class Stream>
  constexpr StreamShapes with(Index columns, const SegmentLimits& lengths = {}) const {
    StreamShapes result = *this;
    result.width[Stream::number] = columns;
    if (Stream::number == stream::Segments::number) result.limits = lengths;
    return result;
  }
  /// These and those; what both speak of is as in `later`.
  constexpr StreamShapes and_then(const StreamShapes& later) const {
    StreamShapes result = *this;
    for (int n = 0; n < stream::count; ++n)
      if (later.width[n] != 0) result.width[n] = later.width[n];
    if (later.width[stream::Segments::number] != 0) result.limits = later.limits;
    return result;
  }
  /// The first stream that a source of these shapes gives in another width than a layer of those takes; none: −1.
  constexpr int differs(const StreamShapes& taken) const {
    for (int n = 0; n < stream::count; ++n)
      if (width[n] != 0 && taken.width[n] != 0 && width[n] != taken.width[n]) return n;
    return -1;
  }
  /// Whether a layer has room for the segments that the source may close.
  constexpr bool fits(const StreamShapes& taken) const {
    constexpr int n = stream::Segments::number;
    return width[n] == 0 || taken.width[n] == 0 || limits.no_more_than(taken.limits);
  }
};

/// Where a layer's decisions lie in a row of stream::Decisions: at layer·fields + one of these. The scales' emphasis follows the
/// last layer's: at layers·fields + scale.
struct Decision {
  static constexpr Index window = 0;      ///< in (0, 1): how much of the window that the budget allows
  static constexpr Index experts = 1;     ///< in (0, 1): how many of the experts that the budget allows
  static constexpr Index slices = 2;      ///< in (0, 1): how much of the shared expert that the budget allows
  static constexpr Index key_tokens = 3;  ///< in [0, 1]: weight of key tokens in an adaptive attention layer
  static constexpr Index global = 4;      ///< in [0, 1]: weight of all tokens in an adaptive attention layer
  static constexpr Index norm = 5;        ///< added to the normalisation strength before its squashing
  static constexpr Index fields = 6;
  static constexpr Index scales = 3;  ///< phrase, sentence, paragraph
};

/// What layers used, for accounting and controllers: written, not read, by layers. [rows, fields·layers], at layer·fields + one
/// of these.
struct Used {
  static constexpr Index experts = 0;     ///< how many routed experts the row went through
  static constexpr Index weight = 1;      ///< the sum of their weights
  static constexpr Index slices = 2;      ///< how many slices of the shared expert, as the real number that was decided
  static constexpr Index window = 3;      ///< the window's size in keys, as the real number that was decided
  static constexpr Index key_tokens = 4;  ///< weight of key tokens
  static constexpr Index global = 5;      ///< weight of all tokens
  static constexpr Index fields = 6;
};

/// A stream as kernels see it. Absent if `value` is null.
template <class T>
struct StreamRows {
  const T* value = nullptr;  ///< [rows, width]
  T* gradient = nullptr;     ///< [rows, width], added to in backward; null where nobody wants it
  Index width = 0;

  HYBRIDMOE_FUNCTION explicit operator bool() const { return value != nullptr; }
  /// Element `column` of a row, or `otherwise` where the stream is absent.
  HYBRIDMOE_FUNCTION T at(Index row, Index column, T otherwise) const {
    return value == nullptr ? otherwise : value[row * width + column];
  }
  HYBRIDMOE_FUNCTION void add_gradient(Index row, Index column, T d) const {
    if (gradient != nullptr) gradient[row * width + column] += d;
  }
};

/// Where layers count how many rows went to each of their experts, if anybody asks. Added to, by layers.
struct Loads {
  Index* count = nullptr;  ///< [layers, width]; null: nobody asks
  Index width = 0;         ///< the most experts of a layer
  Index rows = 0;          ///< so many of the call's first rows are counted
};

/// The streams of a call, and where use is reported.
struct Side {
  const void* value[stream::count] = {};
  void* gradient[stream::count] = {};
  Index width[stream::count] = {};
  double most_budget = 1;  ///< a host value: no row's budget is higher, so what it closes need not be begun
  void* used = nullptr;    ///< [rows, used_width] of the call's number type, or null: nobody asks
  Index used_width = 0;
  Loads loads{};

  template <class Stream, class T>
  HYBRIDMOE_FUNCTION void set(const T* values, T* gradients, Index columns) {
    static_assert(Stream::number >= 0 && Stream::number < stream::count, "a stream's number must be below stream::count");
    value[Stream::number] = values;
    gradient[Stream::number] = gradients;
    width[Stream::number] = columns;
  }
  template <class Stream, class T>
  HYBRIDMOE_FUNCTION StreamRows<T> rows() const {
    constexpr int n = Stream::number;
    static_assert(n >= 0 && n < stream::count, "a stream's number must be below stream::count");
    return {static_cast<const T*>(value[n]), static_cast<T*>(gradient[n]), width[n]};
  }
  /// A stream that is one structure: null where absent.
  template <class Stream, class Structure>
  HYBRIDMOE_FUNCTION const Structure* structure() const {
    return static_cast<const Structure*>(value[Stream::number]);
  }
  /// Where `layer` reports field `field` of row 0, rows used_width apart; null: nobody asks.
  template <class T>
  HYBRIDMOE_FUNCTION T* report(Index layer, Index field) const {
    return used == nullptr ? nullptr : static_cast<T*>(used) + layer * Used::fields + field;
  }
};

}  // namespace hybridmoe
