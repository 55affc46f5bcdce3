// A window that does not reach back to where key tokens were chosen.
// expect: attention::Window::least must be at least Store::block + ramp
#include <hybridmoe/hybridmoe.hpp>

#include <hybridmoe/attention/adaptive.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::Index least = 16;
#else
constexpr hm::Index least = 24;
#endif
using Mixer = hm::attention::KeyTokens<heads, hm::attention::Window{.least = least, .most = 64, .ramp = 8},
                                       hm::attention::Store{.entries = 16, .candidates = 2, .block = 16}>;
struct Tiny : ModelOf<Mixer> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
