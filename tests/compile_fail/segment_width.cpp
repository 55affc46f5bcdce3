// Attention to segments whose vectors are of another width than those that the model's source makes.
// expect: a layer or router reads a stream of another width than the model's source gives
// expect: stream::Segments
// expect: got<12>
// expect: expected<8>
#include <hybridmoe/attention/cross_scale.hpp>
#include <hybridmoe/embedding/segments.hpp>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::attention::CrossScaleOptions seen{.segment = 12};
#else
constexpr hm::attention::CrossScaleOptions seen{};  // a quarter of the model's width, as the source
#endif
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"G">, hm::Slot<'G', hm::Block<hm::attention::CrossScale<heads, seen>>>,
                                hm::Sources<hm::embedding::Segments<>>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
