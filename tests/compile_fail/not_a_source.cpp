// A layer where a source is wanted.
// expect: a member of Sources<> is not a source
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
using Source = hm::norm::Rms<>;
#else
using Source = hm::control::Complexity<>;
#endif
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"G">, hm::Slot<'G', FullBlock>, hm::Sources<Source>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
