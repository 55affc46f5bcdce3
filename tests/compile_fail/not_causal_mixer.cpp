// expect: a decoder needs causal layers
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Copy {
  template <class Env>
  struct Layer : CopyLayer<Env> {
#if defined(HYBRIDMOE_WRONG)
    static constexpr bool causal = false;
#endif
  };
};
struct Tiny : ModelOf<Copy> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
