// Products of small tiles against a plain sum, for every kind of column count, many rows, and transposed operands.
#include <catch2/catch_test_macros.hpp>

#include <hybridmoe/ops/tile.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace hm = hybridmoe;
using hm::Index;

namespace {

/// Numbers in (−1, 1) that differ from place to place.
template <class T>
std::vector<T> numbers(Index count, unsigned seed) {
  std::vector<T> values(hm::to_size(count));
  unsigned state = seed * 2654435761u + 12345u;
  for (T& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<T>(state >> 8) / T(1 << 23) - T(1);
  }
  return values;
}

/// One product of both kinds, with gaps between rows that must stay as they are and NaN wherever nothing may be read.
template <class T, int columns>
void check(int rows, int depth, bool transposed) {
  INFO("rows " << rows << " depth " << depth << " columns " << columns << (transposed ? " transposed" : ""));
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const Index a_row = transposed ? 1 : depth + 3, a_k = transposed ? rows + 2 : 1, b_row = columns + 1, c_row = columns + 2;
  const std::vector<T> a_values = numbers<T>(rows * depth, 1), b_values = numbers<T>(depth * columns, 2);
  const std::vector<T> c_values = numbers<T>(rows * columns, 3);
  std::vector<T> a(hm::to_size((rows + 3) * (depth + 3)), nan), b(hm::to_size((depth + 1) * b_row), nan);
  std::vector<T> added(hm::to_size(rows * c_row), T(7)), assigned(hm::to_size(rows * c_row), nan);
  for (Index r = 0; r < rows; ++r)
    for (Index k = 0; k < depth; ++k) a[hm::to_size(r * a_row + k * a_k)] = a_values[hm::to_size(r * depth + k)];
  for (Index k = 0; k < depth; ++k)
    for (Index j = 0; j < columns; ++j) b[hm::to_size(k * b_row + j)] = b_values[hm::to_size(k * columns + j)];
  for (Index r = 0; r < rows; ++r)
    for (Index j = 0; j < columns; ++j) added[hm::to_size(r * c_row + j)] = c_values[hm::to_size(r * columns + j)];

  hm::ops::tile::multiply_add<T, columns>(rows, depth, a.data(), a_row, a_k, b.data(), b_row, added.data(), c_row);
  hm::ops::tile::multiply<T, columns>(rows, depth, a.data(), a_row, a_k, b.data(), b_row, assigned.data(), c_row);

  const double tolerance = (sizeof(T) == 4 ? 1e-6 : 1e-14) * (depth + 1);
  for (Index r = 0; r < rows; ++r) {
    for (Index j = 0; j < columns; ++j) {
      long double sum = 0;
      for (Index k = 0; k < depth; ++k)
        sum += static_cast<long double>(a_values[hm::to_size(r * depth + k)]) * b_values[hm::to_size(k * columns + j)];
      const double start = static_cast<double>(c_values[hm::to_size(r * columns + j)]);
      REQUIRE(std::abs(static_cast<double>(assigned[hm::to_size(r * c_row + j)]) - static_cast<double>(sum)) <= tolerance);
      REQUIRE(std::abs(static_cast<double>(added[hm::to_size(r * c_row + j)]) - static_cast<double>(sum) - start) <= tolerance);
    }
    for (Index j = columns; j < c_row; ++j) {
      REQUIRE(added[hm::to_size(r * c_row + j)] == T(7));
      REQUIRE(std::isnan(assigned[hm::to_size(r * c_row + j)]));
    }
  }
}

template <class T, int columns>
void check_rows_and_depths() {
  for (const int depth : {0, 1, 2, 7, 32, 65}) {
    for (int rows = 0; rows <= 14; ++rows) check<T, columns>(rows, depth, false);
    for (const int rows : {1, 5, 25, 48}) check<T, columns>(rows, depth, true);
  }
}

/// One row alone has the bits it has among many, wherever its columns lie in a register.
template <class T, int columns>
void check_bits() {
  constexpr int rows = 29, depth = 67;
  const std::vector<T> a = numbers<T>(rows * depth, 5), b = numbers<T>(depth * columns, 6);
  std::vector<T> together(rows * columns), alone(columns);
  hm::ops::tile::multiply<T, columns>(rows, depth, a.data(), depth, 1, b.data(), columns, together.data(), columns);
  for (int r = 0; r < rows; ++r) {
    hm::ops::tile::multiply<T, columns>(1, depth, a.data() + r * depth, depth, 1, b.data(), columns, alone.data(), columns);
    for (int j = 0; j < columns; ++j) REQUIRE(alone[hm::to_size(j)] == together[hm::to_size(r * columns + j)]);
    // A sum broken in two parts continues in the same order.
    hm::ops::tile::multiply<T, columns>(1, 30, a.data() + r * depth, depth, 1, b.data(), columns, alone.data(), columns);
    hm::ops::tile::multiply_add<T, columns>(1, depth - 30, a.data() + r * depth + 30, depth, 1, b.data() + 30 * columns, columns,
                                            alone.data(), columns);
    for (int j = 0; j < columns; ++j) {
      REQUIRE(alone[hm::to_size(j)] == together[hm::to_size(r * columns + j)]);
      T chain = 0;
      for (int k = 0; k < depth; ++k)
        chain = hm::ops::tile::fused(a[hm::to_size(r * depth + k)], b[hm::to_size(k * columns + j)], chain);
      REQUIRE(chain == alone[hm::to_size(j)]);
    }
  }
}

}  // namespace

TEST_CASE("tile products equal a plain sum and touch nothing else") {
  check_rows_and_depths<float, 32>();
  check_rows_and_depths<float, 64>();
  check_rows_and_depths<float, 44>();
  check_rows_and_depths<float, 10>();
  check_rows_and_depths<float, 1>();
  check_rows_and_depths<double, 32>();
  check_rows_and_depths<double, 23>();
  check_rows_and_depths<double, 10>();
}

TEST_CASE("tile products give a row the same bits in any company") {
  check_bits<float, 32>();
  check_bits<float, 47>();
  check_bits<double, 32>();
  check_bits<double, 15>();
}
