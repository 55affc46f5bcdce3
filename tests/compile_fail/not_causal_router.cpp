// A router that sees the whole sequence (expert choice) does not decode.
// expect: a decoder needs causal layers: this mixer or router looks at later tokens
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

struct Choosing {
  template <class Env, hm::Index count, hm::Index least, hm::Index most>
  struct Layer : hm::router::TopK<>::Layer<Env, count, least, most> {
#if defined(HYBRIDMOE_WRONG)
    static constexpr bool causal = false;
#endif
  };
};
constexpr hm::Experts experts{.count = 4, .active = 2, .hidden = 16};
using MoeBlock = hm::Block<hm::attention::Full<heads>, hm::channel::Moe<experts, Choosing>>;
struct Tiny : hm::LanguageModel<sizes, hm::Pattern<"GG">, hm::Slot<'G', MoeBlock>> {};
static_assert(hm::Account<Tiny>::parameters() > 0);
