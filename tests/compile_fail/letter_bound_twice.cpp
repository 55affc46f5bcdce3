// expect: two Slot<>s define the same letter
// expect: letter<'G'>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
using Second = hm::Slot<'G', hm::Block<hm::attention::Local<heads, 8>>>;
#else
using Second = hm::Slot<'L', hm::Block<hm::attention::Local<heads, 8>>>;
#endif
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"GG">, hm::Slot<'G', FullBlock>, Second> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
