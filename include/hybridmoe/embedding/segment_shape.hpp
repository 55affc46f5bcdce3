#pragma once
/// @file segment_shape.hpp
/// Options of embedding::Segments, and the numbers that follow from them.

#include <hybridmoe/core/options.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/ops/segment_cuts.hpp>
#include <hybridmoe/ops/segment_pool.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::embedding {

struct SegmentOptions {
  SegmentLimits limits = SegmentLimits{};
  Index width = 0;      ///< elements of a segment's vector (0: a quarter of the model's width)
  Index boundary = 32;  ///< elements in which neighbouring tokens are compared
  float token = 0.02f;  ///< λ at the start: as much as embeddings start with
  float speed = 30;     ///< of λ and κ in training (Trait::speed): they say how much of the neighbours every layer sees
  float rate = 0.05f;   ///< by which a boundary bias follows (mean length − aim)/aim of a step
};

struct BoundariesTag {};
struct HierarchyTag {};

/// Where segments end: learned (default); or, for comparison, fixed lengths, or lengths that are a hash of the position. The
/// latter two have no boundary tensors, and log Ω = 0.
struct Learned : BoundariesTag, ops::LearnedCuts {};
struct Fixed : BoundariesTag, ops::FixedCuts {};
struct Random : BoundariesTag, ops::RandomCuts {};

/// Vectors enter the stack's input as they are (default), or normalised across scales: γ_s⊙v_s r_s^{−α_s} ρ^{α_s−1}, ρ² = mean of
/// r_s² over the scales present, α learned from 1 (each scale by itself) on.
struct PlainHierarchy : HierarchyTag {
  static constexpr bool normed = false;
};
struct NormedHierarchy : HierarchyTag {
  static constexpr bool normed = true;
};

/// The numbers that parameters, memory and kernels of a source share.
template <SegmentOptions options, class Cuts_, class Hierarchy, class Env>
struct SegmentShape {
  using Cuts = Cuts_;
  static constexpr SegmentLimits limits = options.limits;
  static constexpr Index width = Env::width;
  static constexpr Index size = options.width > 0 ? options.width : larger(1, width / 4);  ///< of a segment's vector
  static constexpr Index scales = SegmentLimits::scales, pair = options.boundary, back = Env::rewind;
  static constexpr bool learned = Cuts::learned, normed = Hierarchy::normed;

  /// Rows of the rings: what a row looks back to, and what may be taken back.
  static constexpr Index embeddings = ops::segment_taps + back, tokens = limits.phrase.most + back, latest = 1 + back;
  static constexpr Index vectors(Index scale) {  ///< as children of the scale above
    return limits.children(scale + 1) + limits.closings(scale, back);
  }
  static constexpr Index uses(Index scale) { return 1 + limits.closings(scale, back); }

  /// `limits` for code on a device, which may not read an object of a class.
  HYBRIDMOE_FUNCTION static constexpr SegmentLimits own_limits() {
    constexpr SegmentLimits copy = limits;
    return copy;
  }
  /// Most phrases and most segments that a call closes, and items of kernels over a scale's.
  HYBRIDMOE_FUNCTION static constexpr Index phrases(Extent e) { return own_limits().capacity(0, e.rows, e.sequences); }
  HYBRIDMOE_FUNCTION static constexpr Index all(Extent e) { return own_limits().capacity(e.rows, e.sequences); }
  HYBRIDMOE_FUNCTION static constexpr Index items(Index scale, Extent e) {
    return divide_up(own_limits().capacity(scale, e.rows, e.sequences), ops::segment_block);
  }
};

}  // namespace hybridmoe::embedding
