// A whole model through the front door for Kokkos: every host space gives the bits of exec::Inline, in training and decoding.

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <type_traits>
#include <vector>

#include <hybridmoe/kokkos.hpp>

#include "support/spaces.hpp"

namespace hm = hybridmoe;
using hm::Index;

namespace {

constexpr hm::Heads heads{.query = 2, .kv = 1, .size = 16};
using Experts = hm::channel::Moe<hm::Experts{.count = 4, .active = 2, .hidden = 16}>;
struct Tiny
    : hm::LanguageModel<hm::LanguageSizes{.vocab = 256, .width = 32, .context = 64, .chunk = 16}, hm::Pattern<"GLS">,
                        hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<48>>>,
                        hm::Slot<'L', hm::Block<hm::attention::Local<heads, 16>, Experts>>,
                        hm::Slot<'S', hm::Block<hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 4, .head = 16, .state = 16}>>>> {};

struct Outcome {
  std::vector<double> losses;
  std::vector<float> parameters;
  std::vector<std::int32_t> tokens;
  bool operator==(const Outcome&) const = default;
};

template <class Space>
Outcome outcome(const Space& space) {
  Outcome result;
  std::string words;
  for (int i = 0; i < 30; ++i) words += "Whatever the number of threads, number " + std::to_string(i * i) + " is the same. ";
  const auto text = hm::train::Text::bytes(words);
  hm::Model<Tiny, float, Space> model{hm::Seed{7}, space};
  REQUIRE(model);
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, {.batch = 3, .length = 50, .dropout = 0.1f});
  INFO((trainer ? std::string() : trainer.error().message()));
  REQUIRE(trainer);
  for (int step = 0; step < 3; ++step) {
    const auto report = trainer->step();
    REQUIRE(report);
    result.losses.push_back(report->loss);
  }
  result.parameters.resize(std::size_t(model.elements));
  model.download(result.parameters.data());

  const auto packed = hm::pack(model);
  auto session = hm::generate::Session<std::decay_t<decltype(packed)>>::create(packed, {.sequences = 2});
  REQUIRE(session);
  const std::int32_t prompt[] = {'t', 'h', 'e', ' '};
  const auto written = hm::generate::generate(*session, {.prompt = prompt, .tokens = 40}, {.temperature = 0},
                                              [&](std::int32_t token) { return result.tokens.push_back(token), true; });
  REQUIRE(written);
  CHECK(result.tokens.size() == 40);
  return result;
}

}  // namespace

TEST_CASE("a model trains and writes alike on every space") {
  const Outcome expected = outcome(hm::exec::Inline{});
  CHECK(expected.losses[0] > 5);
  CHECK(expected.losses[2] < expected.losses[0]);
#if defined(KOKKOS_ENABLE_SERIAL)
  CHECK(outcome(hm::exec::On<Kokkos::Serial>{}) == expected);
#endif
#if defined(KOKKOS_ENABLE_OPENMP)
  CHECK(outcome(hm::exec::On<Kokkos::OpenMP>{}) == expected);
  if (Kokkos::OpenMP().concurrency() > 1) {  // half of the threads, as a host program may lend them
    const auto parts = Kokkos::Experimental::partition_space(Kokkos::OpenMP(), 1, 1);
    CHECK(outcome(hm::exec::On<Kokkos::OpenMP>{parts[1]}) == expected);
  }
#endif
#if defined(KOKKOS_ENABLE_CUDA)
  using Device = hm::exec::On<Kokkos::Cuda>;
  static_assert(std::is_same_v<hm::ops::Matmul<Device, float, 8, 8>::Space, Device>);  // the tiles, not the generic body
  const Outcome got = outcome(Device{});
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(got.losses[i] - expected.losses[i]) < 1e-4);
#endif
}
