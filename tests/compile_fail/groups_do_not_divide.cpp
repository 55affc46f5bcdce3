// expect: Mamba2Sizes::groups must divide Mamba2Sizes::heads
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::ssm::Mamba2Sizes scan{.heads = 4, .head = 16, .state = 16, .groups = 3};
#else
constexpr hm::ssm::Mamba2Sizes scan{.heads = 4, .head = 16, .state = 16, .groups = 2};
#endif
struct Tiny : ModelOf<hm::ssm::Mamba2<scan>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
