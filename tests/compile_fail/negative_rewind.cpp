// Rings that a negative rewind bound would make shorter than what rows look back at.
// expect: rewind must not be negative
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::LanguageSizes chosen{.vocab = 2, .width = 32, .context = 16, .rewind = -1};
#else
constexpr hm::LanguageSizes chosen{.vocab = 2, .width = 32, .context = 16, .rewind = 1};
#endif
struct Tiny : hm::LanguageModel<chosen, hm::Pattern<"GG">, hm::Slot<'G', FullBlock>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
