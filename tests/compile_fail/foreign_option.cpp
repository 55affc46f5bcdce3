// An option that belongs to another part of the model.
// expect: an option of this attention mode is none of
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
using Mixer = hm::attention::Full<heads, hm::block::Parallel>;
#else
using Mixer = hm::attention::Full<heads, hm::attention::NormedQueryKey<> >;
#endif
struct Tiny : ModelOf<Mixer> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
