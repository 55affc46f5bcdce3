// expect: missing forward(call, p, x, y, states, tape)
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Copy {
  template <class Env>
  struct Layer : CopyLayer<Env> {
#if defined(HYBRIDMOE_WRONG)
    static void forward() = delete;
#endif
  };
};
struct Tiny : ModelOf<Copy> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
