// Eigen's matrices in and out without copies.

#include <catch2/catch_test_macros.hpp>

#include <hybridmoe/interop/eigen.hpp>

#include "support/numbers.hpp"

using hybridmoe::Array;
using hybridmoe::Code;
using hybridmoe::Index;
using hybridmoe::Rows;
namespace interop = hybridmoe::interop;

TEST_CASE("rows are a matrix of static width") {
  auto numbers = test::numbers(5 * 3, 1);
  const Rows<double, 3> rows{numbers.data()};
  auto matrix = interop::map(rows, 5);
  static_assert(decltype(matrix)::ColsAtCompileTime == 3);
  CHECK(matrix.rows() == 5);
  for (Index r = 0; r < 5; ++r)
    for (Index c = 0; c < 3; ++c) CHECK(matrix(r, c) == numbers[std::size_t(3 * r + c)]);
  matrix(4, 2) = 7;
  CHECK(rows[4][2] == 7);

  Eigen::MatrixXd columns = Eigen::MatrixXd::Random(5, 3);  // column-major: assigning brings it in
  interop::map(rows, 5) = columns;
  for (Index r = 0; r < 5; ++r)
    for (Index c = 0; c < 3; ++c) CHECK(rows[r][c] == columns(r, c));

  const Rows<const double, 3> constant = rows;
  CHECK(interop::map(constant, 5)(3, 1) == rows[3][1]);
  const Rows<double, 1> narrow{numbers.data()};
  CHECK(interop::map(narrow, 15).cols() == 1);
  CHECK(interop::map(narrow, 15)(7, 0) == numbers[7]);
}

TEST_CASE("arrays are matrices and vectors of static size") {
  Array<float, 2, 4> weight{};
  interop::map(weight) << 1, 2, 3, 4, 5, 6, 7, 8;
  CHECK(weight[5] == 6);
  const Array<float, 2, 4>& constant = weight;
  CHECK(interop::map(constant)(1, 3) == 8);
  Array<float, 4> x{};
  interop::map(x) << 1, 1, 1, 1;
  const Eigen::Vector2f y = interop::map(weight) * interop::map(x);
  CHECK(y(0) == 10);
  CHECK(y(1) == 26);
  Array<float, 1, 4> one_row{};
  Array<float, 4, 1> one_column{};
  interop::map(one_row).setConstant(2);
  interop::map(one_column) = interop::map(one_row).transpose();
  CHECK(one_column[3] == 2);
}

TEST_CASE("a row-major matrix is taken as it lies") {
  interop::RowMajor<double, Eigen::Dynamic, Eigen::Dynamic> matrix = Eigen::MatrixXd::Random(6, 8);
  auto rows = interop::rows_of<8>(matrix);
  REQUIRE(rows);
  CHECK((*rows)[5] + 7 == &matrix(5, 7));
  const auto& constant = matrix;
  const auto read_only = interop::rows_of<8>(constant);
  REQUIRE(read_only);
  static_assert(std::is_same_v<decltype(read_only->data), const double*>);
  CHECK((*read_only)[0] == matrix.data());

  const auto wrong = interop::rows_of<7>(matrix);
  REQUIRE(!wrong);
  CHECK(wrong.error().code == Code::bad_argument);
  CHECK(wrong.error().got == 8);
  CHECK(wrong.error().expected == 7);

  auto part = matrix.leftCols(4);  // a block of a wider matrix: its rows have gaps
  REQUIRE(!interop::rows_of<4>(part));
  auto first = matrix.leftCols(1);  // one column, but still by rows
  REQUIRE(!interop::rows_of<1>(first));
  auto single = matrix.col(0);  // Eigen has it by columns, with gaps
  REQUIRE(!interop::rows_of<1>(single));
  auto upper = matrix.topRows(2);
  CHECK(interop::rows_of<8>(upper));
  Eigen::VectorXd vector = Eigen::VectorXd::Random(5);
  const auto column = interop::rows_of<1>(vector);
  REQUIRE(column);
  CHECK((*column)[3][0] == vector(3));
}
