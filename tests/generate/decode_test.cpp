// Ten thousand decoding steps: not one heap allocation, and the process does not grow.
#include <cstdio>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/generate/sampler.hpp>
#include <hybridmoe/generate/session.hpp>
#include <hybridmoe/ssm/mamba2.hpp>
#include <support/allocations.hpp>

namespace hm = hybridmoe;
using hm::Index;

constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 8};
using Routed = hm::channel::Moe<hm::Experts{.count = 4, .active = 2, .hidden = 16}, hm::router::TopK<>, hm::channel::SwiGlu<16>>;
struct Long
    : hm::LanguageModel<hm::LanguageSizes{.vocab = 64, .width = 32, .context = 10'240}, hm::Pattern<"GLLS">,
                        hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<48>>>,
                        hm::Slot<'L', hm::Block<hm::attention::Local<heads, 32>, Routed>>,
                        hm::Slot<'S', hm::Block<hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 4, .head = 16, .state = 8}>>>> {};

namespace {

/// Pages of the process that are in memory.
long resident_pages() {
  long total = 0, resident = -1;
  if (std::FILE* const file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &total, &resident) != 2) resident = -1;
    std::fclose(file);
  }
  return resident;
}

}  // namespace

TEST_CASE("10,000 decoding steps allocate nothing and memory stays flat") {
  const auto model = hm::pack(hm::Model<Long, float>{hm::Seed{11}});
  auto session = hm::generate::Session<std::remove_const_t<decltype(model)>>::create(model, {.sequences = 1});
  REQUIRE(session);
  hm::generate::Sampler sampler(Long::vocab);
  std::int32_t token = 1;
  const auto decode = [&](Index steps) {
    for (Index step = 0; step < steps; ++step) {
      if (!session->feed(0, std::span<const std::int32_t>(&token, 1))) return false;
      const auto next =
          sampler(session->logits(0), session->history(0), {.temperature = 0.8, .top_k = 20, .repetition_penalty = 1.1}, 0,
                  static_cast<std::uint64_t>(session->length(0)));
      if (!next) return false;
      token = *next;
    }
    return true;
  };
  REQUIRE(decode(200));
  const long pages = resident_pages();
  const auto before = test::allocations();
  REQUIRE(decode(10'000));
  CHECK(test::allocations() == before);
  CHECK(session->length(0) == 10'200);
  REQUIRE(pages > 0);
  // The kernel counts pages in batches; a leak of a hundred bytes a step would show.
  CHECK(resident_pages() - pages <= 256);
}
