// A router made for another width of stream::Context than the segments of its model have; the message gives both.
// expect: a layer or router reads a stream of another width than the model's source gives
// expect: stream::Context
// expect: got<24>
// expect: expected<16>
#include <hybridmoe/channel/hybrid_moe.hpp>
#include <hybridmoe/embedding/segments.hpp>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

constexpr hm::Index segment = 8;
#if defined(HYBRIDMOE_WRONG)
constexpr hm::router::DynamicOptions routing{.target = 1, .context = 3 * segment};
#else
constexpr hm::router::DynamicOptions routing{.target = 1, .context = 2 * segment};
#endif
constexpr hm::Experts experts{.count = 4, .active = {0, 2}, .hidden = 16};
using Channel = hm::channel::HybridMoe<experts, hm::channel::SharedPlus{.hidden = 16}, hm::router::Dynamic<routing>>;
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"G">, hm::Slot<'G', hm::Block<hm::attention::Full<heads>, Channel>>,
                                hm::Sources<hm::embedding::Segments<hm::embedding::SegmentOptions{.width = segment}>>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
