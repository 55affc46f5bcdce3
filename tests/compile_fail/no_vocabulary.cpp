// expect: LanguageSizes::vocab, width, context and chunk must be positive
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::LanguageSizes chosen{.vocab = 0, .width = 32, .context = 16};
#else
constexpr hm::LanguageSizes chosen{.vocab = 2, .width = 32, .context = 16};
#endif
struct Tiny : hm::LanguageModel<chosen, hm::Pattern<"GG">, hm::Slot<'G', FullBlock>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
