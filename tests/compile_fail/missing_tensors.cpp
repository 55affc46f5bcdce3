// expect: missing Parameters<T, Storage>: a layer names its tensors there
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Copy {
  template <class Env>
  struct Layer : CopyLayer<Env> {
#if defined(HYBRIDMOE_WRONG)
    using Parameters = void;
#endif
  };
};
struct Tiny : ModelOf<Copy> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
