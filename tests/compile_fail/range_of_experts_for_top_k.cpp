// A number of experts that varies by token needs a router that can choose it.
// expect: router::TopK gives every token equally many experts
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::Experts experts{.count = 4, .active = {1, 3}, .hidden = 16};
#else
constexpr hm::Experts experts{.count = 4, .active = 3, .hidden = 16};
#endif
using MoeBlock = hm::Block<hm::attention::Full<heads>, hm::channel::Moe<experts>>;
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"GG">, hm::Slot<'G', MoeBlock>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
