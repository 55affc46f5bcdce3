#pragma once
/// @file eigen.hpp
/// Eigen's matrices in and out, without copies: Map a tensor to compute on it with Eigen (`map(rows, n) = matrix` copies any
/// expression in); rows_of takes a row-major matrix as it lies. Needs Eigen.

#include <Eigen/Core>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/core/tensor.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::interop {

/// Eigen's type of a row-major matrix. (Eigen insists that a single column is column-major; both orders are the same there.)
template <class T, Index rows, Index columns>
using RowMajor = Eigen::Matrix<T, static_cast<int>(rows), static_cast<int>(columns),
                               columns == 1 && rows != 1 ? Eigen::ColMajor : Eigen::RowMajor>;

template <class T, Index rows, Index columns>
using MapOf = Eigen::Map<
    std::conditional_t<std::is_const_v<T>, const RowMajor<std::remove_const_t<T>, rows, columns>, RowMajor<T, rows, columns>>>;

/// [count, width]
template <class T, Index width>
MapOf<T, Eigen::Dynamic, width> map(Rows<T, width> rows, Index count) {
  return {rows.data, count, width};
}

/// A matrix [out, in], or a vector as one column.
template <class T, Index rows, Index columns>
MapOf<T, rows, columns> map(Array<T, rows, columns>& array) {
  return MapOf<T, rows, columns>(array.data);
}
template <class T, Index rows, Index columns>
MapOf<const T, rows, columns> map(const Array<T, rows, columns>& array) {
  return MapOf<const T, rows, columns>(array.data);
}
template <class T, Index size>
MapOf<T, size, 1> map(Array<T, size>& array) {
  return MapOf<T, size, 1>(array.data);
}
template <class T, Index size>
MapOf<const T, size, 1> map(const Array<T, size>& array) {
  return MapOf<const T, size, 1>(array.data);
}

/// The rows of a matrix of `width` columns as they lie: a Matrix, or a Map without gaps. Column-major ones do not compile.
template <Index width, class Derived>
auto rows_of(Eigen::DenseBase<Derived>& matrix) {
  static_assert(bool(Derived::IsRowMajor) || width == 1, "the matrix has to be Eigen::RowMajor; assign others to map(rows, n)");
  using Element = std::remove_pointer_t<decltype(matrix.derived().data())>;
  using Answer = Result<Rows<Element, width>>;
  if (matrix.cols() != width) return Answer(Error{Code::bad_argument, "the matrix has another width", {}, matrix.cols(), width});
  if (bool(Derived::IsRowMajor) && matrix.rows() > 1 && matrix.derived().outerStride() != width)
    return Answer(Error{Code::bad_argument, "the matrix has gaps between its rows", {}, matrix.derived().outerStride(), width});
  if (matrix.derived().innerStride() != 1)
    return Answer(Error{Code::bad_argument, "the matrix has gaps between its elements", {}, matrix.derived().innerStride(), 1});
  return Answer(Rows<Element, width>{matrix.derived().data()});
}
template <Index width, class Derived>
auto rows_of(const Eigen::DenseBase<Derived>& matrix) {
  static_assert(bool(Derived::IsRowMajor) || width == 1, "the matrix has to be Eigen::RowMajor; assign others to map(rows, n)");
  using Element = const typename Derived::Scalar;
  using Answer = Result<Rows<Element, width>>;
  auto rows = rows_of<width>(const_cast<Eigen::DenseBase<Derived>&>(matrix));
  if (!rows) return Answer(std::move(rows).error());
  return Answer(Rows<Element, width>{rows->data});
}

}  // namespace hybridmoe::interop
