// Tokens to experts and back, against a stable sort of the standard library and loops over pairs.

#include <algorithm>
#include <limits>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/ops/dispatch.hpp>
#include <router/routers.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;

namespace {

constexpr Index experts = 6, most = 3, width = 19;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// [rows, most] lists: expert e takes a row where a pseudo-random number lies below share[e], the first `most` of them.
std::vector<Index> lists(Index rows, const std::vector<double>& share, std::uint64_t seed) {
  std::vector<Index> result(to_size(rows * most), -1);
  const auto draws = test::numbers(rows * experts, seed);
  for (Index row = 0; row < rows; ++row) {
    Index filled = 0;
    for (Index e = 0; e < experts && filled < most; ++e)
      if (draws[to_size(row * experts + e)] < share[to_size(e)]) result[to_size(row * most + filled++)] = e;
  }
  return result;
}

struct Pair {
  Index expert, row, slot;
};

template <class Space>
struct Sorted {
  std::vector<Index> offset = std::vector<Index>(to_size(experts + 1), -7), source, place;
  Sorted(Index rows, const std::vector<Index>& expert) : source(to_size(rows * most), -7), place(to_size(rows * most), -7) {
    using Dispatch = hm::ops::Dispatch<Space, experts, most>;
    std::vector<std::byte> memory(to_size(Dispatch::workspace_bytes(rows)), std::byte{0xff});
    hm::Arena arena{memory.data(), memory.data() + memory.size()};
    Dispatch::sort(Space{}, arena, rows, expert.data(), offset.data(), source.data(), place.data());
  }
};

void check(Index rows, const std::vector<double>& share, std::uint64_t seed) {
  INFO("rows " << rows << " seed " << seed);
  const auto expert = lists(rows, share, seed);
  std::vector<Pair> pairs;
  for (Index row = 0; row < rows; ++row)
    for (Index i = 0; i < most; ++i)
      if (expert[to_size(row * most + i)] >= 0) pairs.push_back({expert[to_size(row * most + i)], row, i});
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.expert < b.expert; });

  const Sorted<hm::exec::Inline> sorted(rows, expert);
  const Sorted<test::Backwards> backwards(rows, expert);
  CHECK(sorted.offset == backwards.offset);
  CHECK(sorted.source == backwards.source);
  CHECK(sorted.place == backwards.place);

  const Index places = hm::to_index(pairs.size());
  for (Index e = 0; e <= experts; ++e)
    REQUIRE(sorted.offset[to_size(e)] == std::count_if(pairs.begin(), pairs.end(), [&](const Pair& p) { return p.expert < e; }));
  std::vector<Index> place(to_size(rows * most), -1);
  for (Index at = 0; at < places; ++at) {
    const Pair& pair = pairs[to_size(at)];
    place[to_size(pair.row * most + pair.slot)] = at;
    REQUIRE(sorted.source[to_size(at)] == pair.row);
  }
  REQUIRE(sorted.place == place);
  for (Index at = places; at < rows * most; ++at) REQUIRE(sorted.source[to_size(at)] == -7);

  // Rows there and back. What no pair owns starts as NaN and must stay unread.
  using Move = hm::ops::ExpertRows<hm::exec::Inline, double, width, most>;
  const hm::exec::Inline space;
  const Index* const count = sorted.offset.data() + experts;
  const auto x = test::numbers(rows * width, seed + 1), weight = test::numbers(rows * most, seed + 2);
  const auto dy = test::numbers(rows * width, seed + 3), start = test::numbers(rows * width, seed + 4);
  std::vector<double> gathered(to_size(rows * most * width), nan), y(x.size(), nan), added = start;
  Move::gather(space, rows, count, sorted.source.data(), x.data(), gathered.data());
  for (Index at = 0; at < rows * most; ++at)
    for (Index c = 0; c < width; ++c) {
      const double got = gathered[to_size(at * width + c)];
      if (at < places)
        REQUIRE(got == x[to_size(pairs[to_size(at)].row * width + c)]);
      else
        REQUIRE(got != got);
    }
  auto out = test::numbers(rows * most * width, seed + 5);
  for (Index i = places * width; i < hm::to_index(out.size()); ++i) out[to_size(i)] = nan;
  Move::combine<false>(space, rows, sorted.place.data(), weight.data(), out.data(), y.data());
  Move::combine<true>(space, rows, sorted.place.data(), weight.data(), out.data(), added.data());
  std::vector<double> dout(out.size(), nan), dweight(weight.size(), nan), dx = start;
  Move::combine_backward(space, rows, sorted.place.data(), weight.data(), out.data(), dy.data(), dout.data(), dweight.data());
  Move::gather_backward(space, rows, sorted.place.data(), out.data(), dx.data());

  std::vector<double> y_naive(x.size(), 0.0), dx_naive = start, dweight_naive(weight.size(), 0.0);
  for (Index at = 0; at < places; ++at) {
    const Pair& pair = pairs[to_size(at)];
    const std::size_t slot = to_size(pair.row * most + pair.slot);
    for (Index c = 0; c < width; ++c) {
      const double value = out[to_size(at * width + c)], slope = dy[to_size(pair.row * width + c)];
      y_naive[to_size(pair.row * width + c)] += weight[slot] * value;
      dx_naive[to_size(pair.row * width + c)] += value;
      dweight_naive[slot] += slope * value;
      REQUIRE(dout[to_size(at * width + c)] == weight[slot] * slope);
    }
  }
  using Catch::Matchers::WithinAbs;
  for (std::size_t i = 0; i < y.size(); ++i) {
    REQUIRE_THAT(y[i], WithinAbs(y_naive[i], 1e-13));
    REQUIRE_THAT(added[i], WithinAbs(start[i] + y_naive[i], 1e-13));
    REQUIRE_THAT(dx[i], WithinAbs(dx_naive[i], 1e-13));
  }
  for (std::size_t i = 0; i < dweight.size(); ++i) REQUIRE_THAT(dweight[i], WithinAbs(dweight_naive[i], 1e-13));
  Move::clear(space, rows, count, gathered.data());
  for (Index i = 0; i < rows * most * width; ++i) REQUIRE((gathered[to_size(i)] == 0) == (i < places * width));
}

}  // namespace

TEST_CASE("Pairs are sorted by expert, stably by row, whatever the number of rows") {
  const std::vector<double> mixed{0.5, -1, 0.2, -9, 1, -0.5};
  for (const Index rows : {0, 1, 2, 31, 32, 33, 255, 256, 257, 511, 513, 1000})
    check(rows, mixed, 10 + static_cast<std::uint64_t>(rows));
}

TEST_CASE("Extreme lists are dispatched: none anywhere, all to one expert, all slots used") {
  const double no = -9, yes = 9;
  check(300, {no, no, no, no, no, no}, 2);
  check(300, {no, no, no, yes, no, no}, 3);
  check(300, {yes, no, no, no, no, yes}, 4);
  check(300, {no, yes, yes, yes, yes, no}, 5);
}
