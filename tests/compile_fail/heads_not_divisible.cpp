// expect: Heads::kv must divide Heads::query
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::Heads chosen{.query = 8, .kv = 3, .size = 8};
#else
constexpr hm::Heads chosen{.query = 8, .kv = 4, .size = 8};
#endif
struct Tiny : ModelOf<hm::attention::Full<chosen>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
