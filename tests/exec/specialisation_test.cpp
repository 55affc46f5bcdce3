// Layers reach an operation through a class template that a space may specialise: the specialisation has to be what runs.

#include <catch2/catch_test_macros.hpp>

#include <vector>

#include <hybridmoe/hybridmoe.hpp>

#include "support/numbers.hpp"

namespace hm = hybridmoe;
using hm::Index;

namespace test {

/// A space of the test's own: Inline, and it counts.
struct Counting {
  int* products;
  int* kernels;
  template <class Kernel>
  void each(Index count, const Kernel& kernel) const {
    ++*kernels;
    hm::exec::Inline{}.each(count, kernel);
  }
  static int concurrency() { return 1; }
};
static_assert(hm::exec::ExecutionSpace<Counting>);

}  // namespace test

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Its own product: half of what it should be, so that no other body gives these numbers.
template <class T, Index out, Index in>
struct Matmul<::test::Counting, T, out, in> {
  static constexpr Index workspace_bytes(Index, bool) { return 0; }
  template <class W>
  static void forward(const ::test::Counting& space, Arena arena, Index rows, const T* x, const W& w, const T* bias, T* y) {
    ++*space.products;
    Matmul<exec::Inline, T, out, in>::forward(exec::Inline{}, arena, rows, x, w, bias, y);
    for (Index i = 0; i < rows * out; ++i) y[i] *= T(0.5);
  }
};

}  // namespace hybridmoe::ops

TEST_CASE("a layer runs the space's own product") {
  using Layer = hm::attention::Full<hm::Heads{.query = 2, .kv = 2, .size = 4}>::Layer<hm::Environment<8, 16>>;
  using Parameters = Layer::Parameters<double, hm::Flat>;
  const Index rows = 5;
  const hm::Extent extent{rows, 1, true};
  auto numbers = test::numbers(hm::element_count<Parameters, double>, 1);
  const auto& parameters = *reinterpret_cast<const Parameters*>(numbers.data());
  const auto x = test::numbers(rows * 8, 2);
  hm::BatchPlan plan;
  plan.add(0, 0, rows);

  const auto run = [&](const auto& space) {
    using Space = std::decay_t<decltype(space)>;
    std::vector<double> y(x.size());
    std::vector<std::byte> tape_memory(1 << 16), scratch(1 << 16);
    hm::Arena tape_arena{tape_memory.data(), tape_memory.data() + tape_memory.size()};
    const Layer::Tape<double> tape(tape_arena, extent);
    hm::Call<Space> call{.space = space, .batch = plan.view(plan.data())};
    call.arena = {scratch.data(), scratch.data() + scratch.size()};
    call.training = true;
    Layer::forward(call, parameters, hm::Rows<const double, 8>{x.data()}, hm::Rows<double, 8>{y.data()},
                   hm::States<Layer::State<double>>{}, tape);
    return y;
  };

  int products = 0, kernels = 0;
  const auto own = run(test::Counting{&products, &kernels});
  const auto generic = run(hm::exec::Inline{});
  CHECK(products == 4);  // queries, keys, values, output
  CHECK(kernels > 0);    // everything else came through each()
  bool differs = false;
  for (std::size_t i = 0; i < own.size(); ++i) differs = differs || own[i] != generic[i];
  CHECK(differs);
}
