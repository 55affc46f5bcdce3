// Views of Kokkos in and out without copies.

#include <catch2/catch_test_macros.hpp>

#include <hybridmoe/exec/on.hpp>
#include <hybridmoe/interop/kokkos_view.hpp>

#include "support/numbers.hpp"

using hybridmoe::Array;
using hybridmoe::Code;
using hybridmoe::Index;
using hybridmoe::Rows;
namespace interop = hybridmoe::interop;
namespace exec = hybridmoe::exec;
using Host = Kokkos::HostSpace;

TEST_CASE("rows are an unmanaged row-major view, and back") {
  auto numbers = test::cast<float>(test::numbers(6 * 4, 1));
  const Rows<float, 4> rows{numbers.data()};
  auto view = interop::view_of(rows, 6);
  static_assert(decltype(view)::rank == 2 && decltype(view)::rank_dynamic == 1);
  static_assert(std::is_same_v<decltype(view)::array_layout, Kokkos::LayoutRight>);
  CHECK(view.extent(0) == 6);
  CHECK(view.use_count() == 0);  // it does not own
  for (std::size_t r = 0; r < 6; ++r)
    for (std::size_t c = 0; c < 4; ++c) CHECK(&view(r, c) == &numbers[4 * r + c]);
  const auto back = interop::rows_of<4>(view);
  REQUIRE(back);
  CHECK(back->data == rows.data);

  const Rows<const float, 4> constant = rows;
  const auto constant_view = interop::view_of(constant, 6);
  CHECK(constant_view(5, 3) == numbers.back());
  CHECK(interop::rows_of<4>(constant_view)->data == numbers.data());
}

TEST_CASE("arrays are views of their shape, and back") {
  Array<double, 2, 3, 4> array{};
  for (Index i = 0; i < 24; ++i) array[i] = double(i);
  const auto view = interop::view_of(array);
  static_assert(decltype(view)::rank == 3 && decltype(view)::rank_dynamic == 0);
  CHECK(view(1, 2, 3) == 23);
  CHECK(view(1, 0, 2) == 14);
  const auto back = interop::array_of<Array<double, 2, 3, 4>>(view);
  REQUIRE(back);
  CHECK(*back == &array);
  const Array<double, 2, 3, 4>& constant = array;
  const auto read_only = interop::array_of<Array<double, 2, 3, 4>>(interop::view_of(constant));
  static_assert(std::is_same_v<std::decay_t<decltype(*read_only)>, const Array<double, 2, 3, 4>*>);
  CHECK(*read_only == &array);

  const auto wrong = interop::array_of<Array<double, 2, 4, 3>>(view);
  REQUIRE(!wrong);
  CHECK(wrong.error().got == 3);
  CHECK(wrong.error().expected == 4);
}

TEST_CASE("a simulation's own views come in, or say why not") {
  const Kokkos::View<double**, Kokkos::LayoutRight, Host> field("velocities", 7, 5);
  field(6, 4) = 3;
  const auto rows = interop::rows_of<5>(field);
  REQUIRE(rows);
  CHECK((*rows)[6][4] == 3);
  CHECK(interop::rows_of<5>(Kokkos::View<const double**, Kokkos::LayoutRight, Host>(field)));

  const auto wide = interop::rows_of<6>(field);
  REQUIRE(!wide);
  CHECK(wide.error().message() == "velocities: the view's rows have another width (got 5, expected 6)");

  const Kokkos::View<double**, Kokkos::LayoutLeft, Host> left("left", 7, 5);
  const auto refused = interop::rows_of<5>(left);
  REQUIRE(!refused);
  CHECK(refused.error().code == Code::bad_argument);
  const auto part = Kokkos::subview(field, Kokkos::ALL, std::pair<int, int>(0, 3));
  CHECK(!interop::rows_of<3>(part));
  const auto some_rows = Kokkos::subview(field, std::pair<int, int>(2, 4), Kokkos::ALL);
  REQUIRE(interop::rows_of<5>(some_rows));
  CHECK((*interop::rows_of<5>(some_rows))[0] == &field(2, 0));
  const Kokkos::View<double**, Kokkos::LayoutLeft, Host> single("single", 1, 5);  // one row: both layouts are the same
  CHECK(interop::rows_of<5>(single));
}

TEST_CASE("a buffer of a space is a view in that space's memory") {
  using Space = exec::On<Kokkos::DefaultHostExecutionSpace>;
  exec::Buffer<Space> buffer(Space{}, 80);
  const auto view = interop::view_of<float>(buffer);
  CHECK(view.extent(0) == 20);
  CHECK(static_cast<void*>(view.data()) == static_cast<void*>(buffer.data()));
  Kokkos::deep_copy(Kokkos::DefaultHostExecutionSpace(), view, 2.5f);
  buffer.space().fence();
  float last = 0;
  buffer.copy_out(&last, 4, 76);
  CHECK(last == 2.5f);
}
