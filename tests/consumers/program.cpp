// What every consumer builds: a model as a type, run on the calling thread.
#include <hybridmoe/hybridmoe.hpp>
#include <hybridmoe/io/checksum.hpp>

#include <cstdio>

namespace hm = hybridmoe;

constexpr hm::Heads heads{.query = 2, .kv = 1, .size = 8};
struct Tiny : hm::LanguageModel<hm::LanguageSizes{.vocab = 16, .width = 16, .context = 8}, hm::Pattern<"GG">,
                                hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<32>>>> {};

int main() {
  const hm::Model<Tiny, hm::f32> model{hm::Seed{7}};
  auto session = hm::generate::Session<hm::Model<Tiny, hm::f32>>::create(model);
  const std::int32_t token = 3;
  if (!session || !session->feed(0, std::span<const std::int32_t>(&token, 1))) return 1;
  std::printf("consumer: %lld parameters\n", static_cast<long long>(hm::Account<Tiny>::parameters()));
  return 0;
}
