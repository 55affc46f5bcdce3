// expect: Experts::active must lie between 0 and Experts::count
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::Experts experts{.count = 4, .active = 5, .hidden = 16};
#else
constexpr hm::Experts experts{.count = 4, .active = 2, .hidden = 16};
#endif
using MoeBlock = hm::Block<hm::attention::Full<heads>, hm::channel::Moe<experts>>;
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"GG">, hm::Slot<'G', MoeBlock>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
