// expect: position::Rotary turns pairs: its dims must be even and at most LatentHeads::rotary
#include <hybridmoe/attention/latent.hpp>
#include <hybridmoe/hybridmoe.hpp>

#include "parts.hpp"

#if defined(HYBRIDMOE_WRONG)
constexpr hm::attention::LatentHeads chosen{.heads = 2, .latent = 16, .rotary = 5, .size = 8, .value = 8};
#else
constexpr hm::attention::LatentHeads chosen{.heads = 2, .latent = 16, .rotary = 6, .size = 8, .value = 8};
#endif
struct Tiny : ModelOf<hm::attention::Latent<chosen>> {};
void run(const hm::Call<hm::exec::Inline>& call, const float* buffer, const std::int32_t* token, std::byte* states,
         float* logits) {
  Tiny::forward<hm::Flat>(call, buffer, token, states, Tiny::state_stride<float>(), nullptr, 0, logits);
}
