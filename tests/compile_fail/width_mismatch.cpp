// A layer made for another width than the model's; the message gives both.
// expect: a layer has another width than the model
// expect: got<24>
// expect: expected<32>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Copy {
  template <class Env>
#if defined(HYBRIDMOE_WRONG)
  struct Layer : CopyLayer<Env, 24> {
  };
#else
  struct Layer : CopyLayer<Env> {
  };
#endif
};
struct Tiny : ModelOf<Copy> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
