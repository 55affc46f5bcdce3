// expect: the layer pattern is empty
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
using Letters = hm::Pattern<"", hm::layers<2>>;
#else
using Letters = hm::Pattern<"G", hm::layers<2>>;
#endif
struct Tiny : hm::LanguageModel<sizes, Letters, hm::Slot<'G', FullBlock>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
