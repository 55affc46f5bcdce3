// Products of the CUDA space against sums written out in double. Needs a GPU to run, none to compile.

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <hybridmoe/cuda.hpp>

#include "support/numbers.hpp"

namespace hm = hybridmoe;
using hm::Index;
using Space = hm::exec::On<Kokkos::Cuda>;

// The front door has to select the tiles: only they name their space.
static_assert(std::is_same_v<hm::ops::Matmul<Space, float, 8, 8>::Space, Space>);
static_assert(std::is_same_v<hm::ops::GroupedMatmul<Space, double, 2, 8, 8>::Space, Space>);

namespace {

/// Numbers in the device's memory.
template <class T>
struct OnDevice {
  hm::exec::Buffer<Space> buffer;
  explicit OnDevice(const std::vector<T>& values) : buffer(Space{}, Index(values.size() * sizeof(T))) {
    buffer.copy_in(values.data(), buffer.bytes());
  }
  T* data() const { return buffer.as<T>(); }
  std::vector<T> back() const {
    std::vector<T> values(std::size_t(buffer.bytes()) / sizeof(T));
    buffer.copy_out(values.data(), buffer.bytes());
    return values;
  }
};

template <class T>
void close(const std::vector<T>& got, const std::vector<double>& expected) {
  double spread = 0, worst = 0;
  for (const double e : expected) spread = std::max(spread, std::abs(e));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(double(got[i]) - expected[i]);
    worst = difference <= worst ? worst : difference;  // a NaN stays
  }
  CHECK(worst <= (sizeof(T) == 8 ? 1e-12 : 1e-5) * spread);
}

/// Element (n, k) of a weight [out, in] moves to its place in panels.
template <class T>
std::vector<T> panels_of(const std::vector<T>& w, Index groups, Index out, Index in) {
  const Index size = hm::round_up(out, hm::panel_width) * in;
  std::vector<T> panels(std::size_t(groups * size));
  for (Index g = 0; g < groups; ++g)
    for (Index n = 0; n < out; ++n)
      for (Index k = 0; k < in; ++k)
        panels[std::size_t(g * size + (n / 32 * in + k) * 32 + n % 32)] = w[std::size_t((g * out + n) * in + k)];
  return panels;
}

template <class T, Index out, Index in>
void one_weight(Index rows) {
  using Product = hm::ops::Matmul<Space, T, out, in>;
  const auto x = test::cast<T>(test::numbers(rows * in, 1)), dy = test::cast<T>(test::numbers(rows * out, 2));
  const auto w = test::cast<T>(test::numbers(out * in, 3)), bias = test::cast<T>(test::numbers(out, 4));
  const auto start_dx = test::cast<T>(test::numbers(rows * in, 5)), start_dw = test::cast<T>(test::numbers(out * in, 6));
  std::vector<double> y(std::size_t(rows * out)), dx(start_dx.begin(), start_dx.end()), dw(start_dw.begin(), start_dw.end());
  std::vector<double> dbias(bias.begin(), bias.end());
  for (Index r = 0; r < rows; ++r)
    for (Index n = 0; n < out; ++n) {
      double sum = bias[std::size_t(n)];
      for (Index k = 0; k < in; ++k) {
        sum += double(x[std::size_t(r * in + k)]) * w[std::size_t(n * in + k)];
        dx[std::size_t(r * in + k)] += double(dy[std::size_t(r * out + n)]) * w[std::size_t(n * in + k)];
        dw[std::size_t(n * in + k)] += double(dy[std::size_t(r * out + n)]) * x[std::size_t(r * in + k)];
      }
      y[std::size_t(r * out + n)] = sum;
      dbias[std::size_t(n)] += dy[std::size_t(r * out + n)];
    }

  const Space space;
  const OnDevice<T> x_(x), dy_(dy), w_(w), panels(panels_of(w, 1, out, in)), bias_(bias);
  const OnDevice<T> y_(std::vector<T>(y.size(), T(NAN))), again(std::vector<T>(y.size(), T(NAN))),
      apart(std::vector<T>(y.size(), T(NAN)));
  const OnDevice<T> dx_(start_dx), dw_(start_dw), dbias_(bias);
  const auto& weight = *reinterpret_cast<const hm::Array<T, out, in>*>(w_.data());
  const auto& packed = *reinterpret_cast<const hm::Panels<T, out, in>*>(panels.data());
  Product::forward(space, {}, rows, x_.data(), weight, bias_.data(), y_.data());
  Product::forward(space, {}, rows, x_.data(), packed, bias_.data(), again.data());
  for (Index r = 0; r < rows; ++r)
    Product::forward(space, {}, 1, x_.data() + r * in, packed, bias_.data(), apart.data() + r * out);
  Product::backward_input(space, {}, rows, dy_.data(), weight, dx_.data());
  Product::backward_weight(space, {}, rows, x_.data(), dy_.data(), *reinterpret_cast<hm::Array<T, out, in>*>(dw_.data()),
                           dbias_.data());
  close(y_.back(), y);
  CHECK(again.back() == y_.back());  // panels give the same bits,
  CHECK(apart.back() == y_.back());  // and so does one row at a time
  close(dx_.back(), dx);
  close(dw_.back(), dw);
  close(dbias_.back(), dbias);
}

template <class T, Index groups, Index out, Index in>
void experts(const std::vector<Index>& offset, Index rows) {
  using Product = hm::ops::GroupedMatmul<Space, T, groups, out, in>;
  const auto x = test::cast<T>(test::numbers(rows * in, 1)), dy = test::cast<T>(test::numbers(rows * out, 2));
  const auto w = test::cast<T>(test::numbers(groups * out * in, 3));
  std::vector<double> y(std::size_t(rows * out), 7), dx(std::size_t(rows * in), 7), dw(w.size(), 7);
  for (Index g = 0; g < groups; ++g)
    for (Index r = offset[std::size_t(g)]; r < offset[std::size_t(g + 1)]; ++r)
      for (Index n = 0; n < out; ++n) {
        double sum = 0;
        for (Index k = 0; k < in; ++k) {
          const auto at = std::size_t((g * out + n) * in + k);
          sum += double(x[std::size_t(r * in + k)]) * w[at];
          dx[std::size_t(r * in + k)] += double(dy[std::size_t(r * out + n)]) * w[at];
          dw[at] += double(dy[std::size_t(r * out + n)]) * x[std::size_t(r * in + k)];
        }
        y[std::size_t(r * out + n)] = sum;
      }

  const Space space;
  const OnDevice<T> x_(x), dy_(dy), w_(w), panels(panels_of(w, groups, out, in));
  const OnDevice<Index> offset_(offset);
  const OnDevice<T> y_(std::vector<T>(y.size(), T(7))), again(std::vector<T>(y.size(), T(7)));
  const OnDevice<T> dx_(std::vector<T>(dx.size(), T(7))), dw_(std::vector<T>(dw.size(), T(7)));
  const auto& weight = *reinterpret_cast<const hm::Stacked<hm::Array<T, out, in>, groups>*>(w_.data());
  Product::forward(space, {}, rows, offset_.data(), x_.data(), weight, y_.data());
  Product::forward(space, {}, rows, offset_.data(), x_.data(),
                   *reinterpret_cast<const hm::Stacked<hm::Panels<T, out, in>, groups>*>(panels.data()), again.data());
  Product::backward_input(space, {}, rows, offset_.data(), dy_.data(), weight, dx_.data());
  Product::backward_weight(space, {}, rows, offset_.data(), x_.data(), dy_.data(),
                           *reinterpret_cast<hm::Stacked<hm::Array<T, out, in>, groups>*>(dw_.data()));
  close(y_.back(), y);
  CHECK(again.back() == y_.back());
  close(dx_.back(), dx);
  close(dw_.back(), dw);
}

}  // namespace

TEST_CASE("products with one weight, any number of rows") {
  one_weight<float, 40, 24>(5);
  one_weight<float, 96, 130>(1);
  one_weight<double, 65, 37>(70);
  one_weight<double, 64, 64>(64);
}

TEST_CASE("products with experts, empty ones and rows of none among them") {
  experts<float, 4, 40, 24>({0, 3, 3, 90, 95}, 100);
  experts<double, 3, 65, 37>({0, 0, 20, 20}, 20);
}
