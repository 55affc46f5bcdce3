// A consumer with Kokkos: the same, on its default space.
#include <hybridmoe/kokkos.hpp>

#include <cstdio>

namespace hm = hybridmoe;

constexpr hm::Heads heads{.query = 2, .kv = 1, .size = 8};
struct Tiny : hm::LanguageModel<hm::LanguageSizes{.vocab = 16, .width = 16, .context = 8}, hm::Pattern<"GG">,
                                hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<32>>>> {};

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  using Space = hm::exec::On<Kokkos::DefaultHostExecutionSpace>;
  using Model = hm::Model<Tiny, hm::f32, Space>;
  const Model model{hm::Seed{7}};
  auto session = hm::generate::Session<Model>::create(model);
  const std::int32_t token = 3;
  if (!session || !session->feed(0, std::span<const std::int32_t>(&token, 1))) return 1;
  std::printf("consumer: %lld parameters\n", static_cast<long long>(hm::Account<Tiny>::parameters()));
  return 0;
}
