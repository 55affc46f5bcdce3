// expect: or the limits cannot be kept
#include <hybridmoe/embedding/segments.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
// After 8 tokens a paragraph may not be cut yet, and one more sentence may make 14.
constexpr hm::SegmentLimits limits{.phrase = {2, 3}, .sentence = {4, 6}, .paragraph = {9, 12}};
#else
constexpr hm::SegmentLimits limits{.phrase = {2, 3}, .sentence = {4, 6}, .paragraph = {9, 15}};
#endif
struct Source : hm::embedding::Segments<hm::embedding::SegmentOptions{.limits = limits}> {};
static_assert(sizeof(Source) > 0);
