// expect: compile without it
#if defined(HYBRIDMOE_WRONG)
#define __FAST_MATH__ 1
#endif
#include <hybridmoe/core/scalar.hpp>

static_assert(sizeof(hybridmoe::f32) == 4);
