// A layer that can run but not be trained.
// expect: missing backward(call, p, x, tape, dy, dx, gradient)
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Copy {
  template <class Env>
  struct Layer : CopyLayer<Env> {
#if defined(HYBRIDMOE_WRONG)
    static void backward() = delete;
#endif
  };
};
struct Tiny : ModelOf<Copy> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
