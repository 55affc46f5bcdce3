// expect: a Slot<> must bind its letter to a Block<mixer, channel, options...>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
using Letter = hm::Slot<'G', hm::attention::Full<heads>>;
#else
using Letter = hm::Slot<'G', hm::Block<hm::attention::Full<heads>>>;
#endif
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"GG">, Letter> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
