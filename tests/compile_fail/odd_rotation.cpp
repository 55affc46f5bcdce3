// expect: position::Rotary turns pairs
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::Heads chosen{.query = 2, .kv = 2, .size = 7};
#else
constexpr hm::Heads chosen{.query = 2, .kv = 2, .size = 8};
#endif
struct Tiny : ModelOf<hm::attention::Full<chosen>> {};
void run(const hm::Call<hm::exec::Inline>& call, const float* buffer, const std::int32_t* token, std::byte* states,
         float* logits) {
  Tiny::forward<hm::Flat>(call, buffer, token, states, Tiny::state_stride<float>(), nullptr, 0, logits);
}
