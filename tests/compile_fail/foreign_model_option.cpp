// A block's option given to the model.
// expect: an option of LanguageModel is none of
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
using Option = hm::block::Norm<hm::norm::LayerNorm<> >;
#else
using Option = hm::FinalNorm<hm::norm::LayerNorm<> >;
#endif
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"G">, hm::Slot<'G', FullBlock>, Option> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
