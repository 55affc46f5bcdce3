// Something that no environment can bind, in a mixer's place.
// expect: is not a layer: it has no member template Layer<Environment>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Sizes {};
#if defined(HYBRIDMOE_WRONG)
using Mixer = Sizes;
#else
using Mixer = hm::attention::Full<heads>;
#endif
struct Tiny : ModelOf<Mixer> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
