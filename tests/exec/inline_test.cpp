// exec::Inline, exec::Team on plain threads, exec::Buffer: what needs no Kokkos.

#include <catch2/catch_test_macros.hpp>

#include <barrier>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include <hybridmoe/exec/buffer.hpp>
#include <hybridmoe/exec/team.hpp>

#include "exec/kernels.hpp"
#include "support/impossible_memory.hpp"
#include "support/numbers.hpp"

using namespace test;
namespace exec = hybridmoe::exec;

namespace {

/// A member of a team of std::threads: Team asks for no more than this.
struct ThreadMember {
  int rank, size;
  std::barrier<>* all;
  int team_rank() const { return rank; }
  int team_size() const { return size; }
  void team_barrier() const { all->arrive_and_wait(); }
};
static_assert(exec::ExecutionSpace<exec::Team<ThreadMember>>);

struct Results {
  std::vector<double> a, b, y;
  std::vector<int> hits;
  explicit Results(Index count) : a(std::size_t(count)), b(a), y(a), hits(3) {}
};

Chain<double> chain(const std::vector<double>& x, const std::vector<double>& w, Results& r) {
  return {Index(r.a.size()), Index(x.size()), x.data(), w.data(), r.a.data(), r.b.data(), r.y.data(), r.hits.data()};
}

/// The same work as a plain loop.
template <class Kernel>
void plainly(Index count, const Kernel& kernel) {
  for (Index i = 0; i < count; ++i) kernel(i);
}

}  // namespace

TEST_CASE("Inline runs every item once, in order of kernels") {
  const auto x = numbers(37, 1), w = numbers(37 * 37, 2);
  Results got(37), expected(37);
  exec::Inline{}.run(chain(x, w, got));
  const auto c = chain(x, w, expected);
  for (int round = 0; round < 20; ++round) {
    plainly(37, Dot<double>{37, x.data(), w.data(), c.a});
    plainly(37, Unequal<double>{c.a, c.b});
    plainly(37, SumOfAll<double>{37, c.b, c.y});
  }
  for (std::size_t i = 0; i < 37; ++i) CHECK(std::abs(got.y[i] - expected.y[i]) < 1e-11);
  CHECK(got.hits == std::vector<int>{7, 7, 6});
}

TEST_CASE("an item's bits do not depend on constants that the compiler knows at a call") {
  // Called in place, g++ makes a copy of this kernel for depth 3 that fuses other products than the copy for any depth.
  const auto x = cast<float>(numbers(3, 3)), w = cast<float>(numbers(64 * 3, 4));
  std::vector<float> together(64), apart(64);
  const volatile Index unknown = 3;
  exec::Inline{}.each(64, Dot<float>{unknown, x.data(), w.data(), together.data()});
  for (Index i = 0; i < 64; ++i) exec::Inline{}.each(1, Dot<float>{3, x.data(), w.data() + i * 3, apart.data() + i});
  CHECK(std::memcmp(together.data(), apart.data(), 64 * sizeof(float)) == 0);
}

TEST_CASE("a team of any size computes Inline's bits") {
  const auto x = numbers(29, 5), w = numbers(50 * 29, 6);
  Results expected(50);
  exec::Inline{}.run(chain(x, w, expected));
  for (const int size : {1, 2, 3, 4, 7}) {
    Results got(50);
    std::barrier all(size);
    const auto work = chain(x, w, got);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank)
      threads.emplace_back([&, rank] { exec::Team<ThreadMember>{{rank, size, &all}}.run(work); });
    for (std::thread& thread : threads) thread.join();
    INFO("team of " << size);
    CHECK(got.y == expected.y);
    CHECK(got.hits == expected.hits);
  }
}

TEST_CASE("buffers are zeroed, aligned, movable and know when they are empty") {
  using Buffer = exec::Buffer<exec::Inline>;
  CHECK(!Buffer{});
  for (const Index bytes : {Index{1}, Index{100}, Index{1} << 21, (Index{1} << 22) + 8}) {
    Buffer buffer(exec::Inline{}, bytes);
    REQUIRE(buffer);
    CHECK(buffer.bytes() == bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % (bytes >= (1 << 21) ? 1u << 21 : 64u) == 0);
    CHECK(buffer.data()[0] == std::byte{0});
    CHECK(buffer.data()[bytes - 1] == std::byte{0});
    std::vector<char> in(std::size_t(bytes), 'x'), out(in.size());
    buffer.copy_in(in.data(), bytes);
    buffer.copy_out(out.data(), bytes);
    CHECK(in == out);
    Buffer moved(std::move(buffer));
    CHECK(moved.data()[bytes - 1] == std::byte{'x'});
    buffer = std::move(moved);
    REQUIRE(buffer);
    buffer.zero();
    CHECK(buffer.data()[bytes - 1] == std::byte{0});
  }
  const Buffer impossible(exec::Inline{}, Index{1} << 60);
  CHECK(!impossible);
  CHECK(impossible.bytes() == 0);
}

TEST_CASE("parts of a buffer are copied where asked") {
  exec::Buffer<exec::Inline> buffer(exec::Inline{}, 16);
  const double values[2] = {1.5, -2};
  buffer.copy_in(&values[0], 8, 8);
  buffer.copy_in(&values[1], 8, 0);
  CHECK(buffer.as<double>()[0] == -2);
  CHECK(buffer.as<double>()[1] == 1.5);
  double back = 0;
  buffer.copy_out(&back, 8, 8);
  CHECK(back == 1.5);
}
