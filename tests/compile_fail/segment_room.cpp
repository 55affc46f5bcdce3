// Attention to segments, within a mixer, that has room for fewer than the model's source may close.
// expect: a layer has no room for all segments that the model's source may close
#include <hybridmoe/attention/cross_scale.hpp>
#include <hybridmoe/attention/together.hpp>
#include <hybridmoe/embedding/segments.hpp>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

constexpr hm::SegmentLimits limits{.phrase = {2, 5}, .sentence = {15, 25}, .paragraph = {100, 200}};
#if defined(HYBRIDMOE_WRONG)
constexpr hm::attention::CrossScaleOptions seen{};  // phrases of three tokens at least
#else
constexpr hm::attention::CrossScaleOptions seen{.limits = limits};
#endif
using Mixer = hm::attention::Together<hm::attention::Full<heads>, hm::attention::CrossScale<heads, seen>>;
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"G">, hm::Slot<'G', hm::Block<Mixer>>,
                                hm::Sources<hm::embedding::Segments<hm::embedding::SegmentOptions{.limits = limits}>>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
