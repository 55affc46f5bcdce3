// A layer that does not say what it costs.
// expect: missing accounting
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Copy {
  template <class Env>
  struct Layer : CopyLayer<Env> {
#if defined(HYBRIDMOE_WRONG)
    static void flops_per_token() = delete;
#endif
  };
};
struct Tiny : ModelOf<Copy> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
