// A letter of the pattern that no slot binds; the message names the letter and its place.
// expect: the layer pattern uses a letter that no Slot<> defines
// expect: letter<'X'>
// expect: at_position<2>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
using Letters = hm::Pattern<"GGXG">;
#else
using Letters = hm::Pattern<"GGGG">;
#endif
struct Tiny : hm::LanguageModel<sizes, Letters, hm::Slot<'G', FullBlock>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
