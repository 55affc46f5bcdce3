// Kokkos' spaces and teams inside its kernels against exec::Inline, to the bit.

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "exec/kernels.hpp"
#include "support/impossible_memory.hpp"
#include "support/numbers.hpp"
#include "support/spaces.hpp"

using namespace test;
namespace exec = hybridmoe::exec;

namespace {

/// What Chain leaves, computed in memory of the place.
template <class Place>
std::vector<double> outcome(const Place& place, Index count) {
  const Index depth = 24;
  const auto x = numbers(depth, 1), w = numbers(count * depth, 2);
  exec::Buffer<Place> memory(place, (depth + count * depth + 3 * count) * 8);
  exec::Buffer<Place> hits(place, 3 * Index(sizeof(int)));
  REQUIRE(memory);
  REQUIRE(hits);
  auto* at = memory.template as<double>();
  memory.copy_in(x.data(), depth * 8);
  memory.copy_in(w.data(), count * depth * 8, depth * 8);
  double* a = at + depth + count * depth;
  place.run(Chain<double>{count, depth, at, at + depth, a, a + count, a + 2 * count, hits.template as<int>()});
  std::vector<double> result(std::size_t(count) + 3);
  memory.copy_out(result.data(), count * 8, (depth + count * depth + 2 * count) * 8);
  int counted[3] = {};
  hits.copy_out(counted, sizeof counted);
  std::copy(counted, counted + 3, result.end() - 3);
  return result;
}

template <class Place>
constexpr bool on_device = false;
#if defined(KOKKOS_ENABLE_CUDA)
template <>
constexpr bool on_device<exec::On<Kokkos::Cuda>> = true;
#endif

}  // namespace

TEST_CASE("every space computes what Inline computes") {
  for (const Index count : {Index{0}, Index{1}, Index{2}, Index{63}, Index{500}}) {
    const auto expected = outcome(exec::Inline{}, count);
    for_each_space([&](const auto& place, const char* name) {
      INFO(name << ", " << count << " items");
      const auto got = outcome(place, count);
      if (on_device<std::decay_t<decltype(place)>>) {  // a device's compiler fuses other products
        for (std::size_t i = 0; i < got.size(); ++i)
          CHECK(std::abs(got[i] - expected[i]) <= 1e-12 * std::abs(expected[i]) + 1e-11);
      } else {
        CHECK(got == expected);
      }
    });
  }
}

TEST_CASE("buffers of every space keep what is copied in") {
  for_each_space([&](const auto& place, const char* name) {
    INFO(name);
    using Buffer = exec::Buffer<std::decay_t<decltype(place)>>;
    using Memory = exec::Memory<std::decay_t<decltype(place)>>;
    const auto in = numbers(300'000, 7);  // larger than a huge page
    const Index bytes = Index(in.size()) * 8;
    Buffer first(place, bytes), second(place, bytes);
    REQUIRE(first);
    std::vector<double> out(in.size(), -1);
    first.copy_out(out.data(), bytes);
    CHECK(std::all_of(out.begin(), out.end(), [](double v) { return v == 0; }));
    first.copy_in(in.data(), bytes);
    Memory::copy(place, second.data(), first.data(), bytes);
    first.zero();
    second.copy_out(out.data(), bytes);
    CHECK(out == in);
    first.copy_out(out.data(), 8, bytes - 8);
    CHECK(out[0] == 0);
    CHECK(!Buffer(place, Index{1} << 60));
  });
}

#if defined(KOKKOS_ENABLE_OPENMP)
TEST_CASE("threads share the items out, and unequal ones too") {
  const exec::On<Kokkos::OpenMP> space;
  CHECK(space.concurrency() == Kokkos::OpenMP().concurrency());
  CHECK(exec::On<Kokkos::Serial>{}.concurrency() == 1);
  for (const Index count : {Index{1}, Index{5}, Index{81}, Index{100'000}}) {
    std::vector<int> hits(std::size_t(count) + 1);
    space.each(count, Hit{hits.data()});
    CHECK(std::count(hits.begin(), hits.end(), 1) == count);
    CHECK(hits.back() == 0);
  }
}

TEST_CASE("work goes to the caller's instance") {
  if (Kokkos::OpenMP().concurrency() < 2) return;  // one thread cannot be parted
  auto parts = Kokkos::Experimental::partition_space(Kokkos::OpenMP(), 1, 1);
  for (const auto& part : parts) {
    const exec::On<Kokkos::OpenMP> space{part};
    CHECK(space.concurrency() == part.concurrency());
    CHECK(outcome(space, 100) == outcome(exec::Inline{}, 100));
    space.fence();
  }
}

TEST_CASE("teams of every size that the space allows compute Inline's bits") {
  const auto expected = outcome(exec::Inline{}, 123);
  const int most = Kokkos::OpenMP().concurrency();
  for (int size = 1; size <= most; ++size) {
    INFO("team of " << size);
    CHECK(outcome(exec::Teams<Kokkos::OpenMP>{{}, size}, 123) == expected);
  }
  CHECK(outcome(exec::Teams<Kokkos::OpenMP>{{}, most + 100}, 123) == expected);  // as many as there are
  CHECK(outcome(exec::Teams<Kokkos::Serial>{{}, 2}, 123) == expected);
}

namespace {
using Member = Kokkos::TeamPolicy<Kokkos::OpenMP>::member_type;

/// A simulation's own kernel: one agent per team, each with its own data.
struct Agents {
  Index count, depth;
  const double *x, *w;
  double *a, *b, *y;
  int* hits;
  void operator()(const Member& member) const {
    const Index agent = member.league_rank();
    Chain<double>{count, depth, x, w, a + agent * count, b + agent * count, y + agent * count, hits + agent * 3}(
        exec::Team<Member>{member});
  }
};
}  // namespace

TEST_CASE("many teams of somebody else's kernel run side by side") {
  const Index agents = 13, count = 40, depth = 24;
  const auto x = numbers(depth, 1), w = numbers(count * depth, 2);
  const auto expected = outcome(exec::Inline{}, count);
  std::vector<double> a(std::size_t(agents * count)), b(a), y(a);
  std::vector<int> hits(std::size_t(agents * 3));
  for (const int size : {1, 2}) {
    if (size > Kokkos::OpenMP().concurrency()) continue;
    std::fill(y.begin(), y.end(), 0.0);
    std::fill(hits.begin(), hits.end(), 0);
    Kokkos::parallel_for("agents", Kokkos::TeamPolicy<Kokkos::OpenMP>(int(agents), size),
                         Agents{count, depth, x.data(), w.data(), a.data(), b.data(), y.data(), hits.data()});
    for (Index agent = 0; agent < agents; ++agent) {
      CHECK(std::equal(expected.begin(), expected.end() - 3, y.begin() + agent * count));
      CHECK(hits[std::size_t(agent * 3)] == 7);
    }
  }
}
#endif
