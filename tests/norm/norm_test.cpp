// RMSNorm and LayerNorm against loops written from the definitions, in double.

#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/norm/layer_norm.hpp>
#include <hybridmoe/norm/rms_norm.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
using hm::Index;
using test::numbers;

namespace {

struct Reference {
  std::vector<double> y, dx, dweight, dbias;
};

/// y and the gradients of Σ y·dy by the quotient rule on the whole Jacobian: ∂y_i/∂x_j, no algebra shared with the kernels.
Reference reference(Index rows, Index size, const std::vector<double>& x, const std::vector<double>& gain,
                    const std::vector<double>& bias, const std::vector<double>& dy, double epsilon, bool centred) {
  Reference r;
  r.y.assign(x.size(), 0);
  r.dx.assign(x.size(), 0);
  r.dweight.assign(hm::to_size(size), 0);
  r.dbias.assign(hm::to_size(size), 0);
  const double n = static_cast<double>(size);
  for (Index row = 0; row < rows; ++row) {
    const double* in = x.data() + row * size;
    const double* given = dy.data() + row * size;
    double mean = 0, variance = 0;
    for (Index i = 0; i < size; ++i) mean += centred ? in[i] / n : 0;
    for (Index i = 0; i < size; ++i) variance += (in[i] - mean) * (in[i] - mean) / n;
    const double root = std::sqrt(variance + epsilon);
    for (Index i = 0; i < size; ++i) {
      const auto at = hm::to_size(i);
      const double normal = (in[i] - mean) / root;
      r.y[hm::to_size(row * size + i)] = normal * gain[at] + bias[at];
      r.dweight[at] += given[i] * normal;
      r.dbias[at] += given[i];
      for (Index j = 0; j < size; ++j) {
        const double dcentred = (i == j ? 1.0 : 0.0) - (centred ? 1 / n : 0.0);
        const double droot = (in[j] - mean) / n / root;
        r.dx[hm::to_size(row * size + j)] += given[i] * gain[at] * (dcentred * root - (in[i] - mean) * droot) / (root * root);
      }
    }
  }
  return r;
}

template <class T>
void near(const T* got, const std::vector<double>& expected, double tolerance) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    INFO("element " << i);
    REQUIRE_THAT(static_cast<double>(got[i]), Catch::Matchers::WithinAbs(expected[i], tolerance));
  }
}

template <class Description, class T, Index width>
void check_layer(Index rows, double epsilon, bool centred, bool one_plus, double tolerance) {
  using Layer = typename Description::template Layer<hm::Environment<width, 64>>;
  typename Layer::template Parameters<T, hm::Flat> p{}, gradient{};
  const auto x = numbers(rows * width, 1, 1.5, 0.3), dy = numbers(rows * width, 2);
  const auto weight = numbers(width, 3, 0.3, one_plus ? 0.0 : 1.0), bias = numbers(width, 4);
  std::vector<double> gain(hm::to_size(width), 1.0), shift(hm::to_size(width), 0.0);
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& tensor, auto& slope) {
        const bool is_weight = name.text() == "weight";
        for (Index i = 0; i < width; ++i) {
          const double value = (is_weight ? weight : bias)[hm::to_size(i)];
          tensor[i] = static_cast<T>(value);
          slope[i] = T(10);  // gradients are added
          (is_weight ? gain : shift)[hm::to_size(i)] = value + (is_weight && one_plus ? 1.0 : 0.0);
        }
      },
      hm::Name{}, p, gradient);
  const Reference expected = reference(rows, width, x, gain, shift, dy, epsilon, centred);

  const auto xt = test::cast<T>(x), dyt = test::cast<T>(dy);
  std::vector<T> y(x.size(), std::numeric_limits<T>::quiet_NaN()), dx(x.size(), T(1));
  const hm::Extent extent{rows, 1, true};
  const Index tape_bytes = hm::planned_bytes<typename Layer::template Tape<T>>(extent);
  const Index scratch = Layer::template workspace_bytes<T, hm::Flat>(extent);
  std::vector<std::byte> memory(hm::to_size(tape_bytes + scratch) + 64);
  hm::Arena arena{memory.data(), memory.data() + memory.size()};
  const typename Layer::template Tape<T> tape(arena, extent);
  hm::Call<hm::exec::Inline> call;
  call.batch.rows = rows;
  call.training = true;
  call.arena = arena;
  Layer::forward(call, p, hm::Rows<const T, width>{xt.data()}, hm::Rows<T, width>{y.data()}, {}, tape);
  near(y.data(), expected.y, tolerance);
  Layer::backward(call, p, hm::Rows<const T, width>{xt.data()}, tape, hm::Rows<const T, width>{dyt.data()},
                  hm::Rows<T, width>{dx.data()}, gradient);
  auto dx_expected = expected.dx;
  for (double& value : dx_expected) value += 1;
  near(dx.data(), dx_expected, tolerance);
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& slope) {
        auto sums = name.text() == "weight" ? expected.dweight : expected.dbias;
        for (double& value : sums) value += 10;
        near(slope.data, sums, tolerance * static_cast<double>(rows));
      },
      hm::Name{}, gradient);
}

template <class T>
void check_layers(double tolerance) {
  namespace norm = hm::norm;
  check_layer<norm::Rms<>, T, 40>(3, 1e-5, false, false, tolerance);
  check_layer<norm::Rms<norm::Epsilon<1, 1'000'000>, norm::Gain::one_plus_weight>, T, 32>(1, 1e-6, false, true, tolerance);
  check_layer<norm::Rms<norm::Epsilon<1, 10>, norm::Gain::none>, T, 7>(70, 0.1, false, false, tolerance);
  check_layer<norm::LayerNorm<>, T, 40>(3, 1e-5, true, false, tolerance);
  check_layer<norm::LayerNorm<norm::Epsilon<1, 1'000'000'000'000>, norm::Shift::weight>, T, 33>(500, 1e-12, true, false,
                                                                                                tolerance);
  check_layer<norm::LayerNorm<norm::Epsilon<1, 10>, norm::Shift::none>, T, 5>(2, 0.1, true, false, tolerance);
}

}  // namespace

TEST_CASE("norms agree with their definitions in double") { check_layers<double>(1e-11); }
TEST_CASE("norms agree with their definitions in float") { check_layers<float>(3e-5); }

TEST_CASE("norms of hand-computed vectors") {
  // x = (3, 4): mean of squares 12.5. x = (1, 3): mean 2, variance 1.
  using Rms = hm::ops::Norm<hm::exec::Inline, double, 2>;
  using Layer = hm::ops::Norm<hm::exec::Inline, double, 2, 1, 1, true>;
  const double x[2] = {3, 4}, z[2] = {1, 3}, weight[2] = {2, 1}, bias[2] = {0, 0.5};
  double y[2];
  Rms::forward({}, 1, {x, 2}, {.weight = weight}, 0.0, {y, 2}, {});
  CHECK(std::abs(y[0] - 6 / std::sqrt(12.5)) < 1e-15);
  CHECK(std::abs(y[1] - 4 / std::sqrt(12.5)) < 1e-15);
  Layer::forward({}, 1, {z, 2}, {weight, bias}, 3.0, {y, 2}, {});
  CHECK(y[0] == -1.0);
  CHECK(y[1] == 1.0);
}

TEST_CASE("heads inside wider rows are normed on their own, in place and with gains of their own") {
  // 3 heads of 20 at column 10 of rows of 100, in double; each head against the reference of one vector.
  constexpr Index rows = 30, heads = 3, size = 20, stride = 100, first = 10;
  using Op = hm::ops::Norm<hm::exec::Inline, double, size, heads, heads>;
  const auto x = numbers(rows * stride, 5), dy = numbers(rows * stride, 6), weight = numbers(heads * size, 7, 0.2, 1.0);
  auto y = x, dx = dy;
  std::vector<double> inverse(hm::to_size(rows * heads)), dweight(weight.size(), 0.25);
  Op::forward({}, rows, {y.data() + first, stride}, {.weight = weight.data()}, 1e-6, {y.data() + first, stride},
              {.inverse = inverse.data()});
  std::vector<std::byte> scratch(hm::to_size(Op::workspace_bytes(rows, true, false)));
  Op::backward<true>({}, {scratch.data(), scratch.data() + scratch.size()}, rows, {x.data() + first, stride},
                     {.weight = weight.data()}, {.inverse = inverse.data()}, {dx.data() + first, stride},
                     {dx.data() + first, stride}, {.weight = dweight.data()});
  std::vector<double> dweight_expected(weight.size(), 0.25);
  for (Index row = 0; row < rows; ++row) {
    for (Index h = 0; h < heads; ++h) {
      const auto from = hm::to_size(row * stride + first + h * size);
      const auto piece = [&](const std::vector<double>& all, std::size_t at) {
        return std::vector<double>(all.begin() + static_cast<std::ptrdiff_t>(at),
                                   all.begin() + static_cast<std::ptrdiff_t>(at) + size);
      };
      const Reference one = reference(1, size, piece(x, from), piece(weight, hm::to_size(h * size)),
                                      std::vector<double>(size, 0.0), piece(dy, from), 1e-6, false);
      near(y.data() + from, one.y, 1e-12);
      near(dx.data() + from, one.dx, 1e-12);
      for (Index i = 0; i < size; ++i) dweight_expected[hm::to_size(h * size + i)] += one.dweight[hm::to_size(i)];
    }
    for (Index i = 0; i < first; ++i) REQUIRE(y[hm::to_size(row * stride + i)] == x[hm::to_size(row * stride + i)]);
    for (Index i = first + heads * size; i < stride; ++i)
      REQUIRE(dx[hm::to_size(row * stride + i)] == dy[hm::to_size(row * stride + i)]);
  }
  near(dweight.data(), dweight_expected, 1e-11);
}

TEST_CASE("parameters of norms hold what their options say") {
  using Env = hm::Environment<48, 16>;
  namespace norm = hm::norm;
  STATIC_REQUIRE(hm::element_count<norm::Rms<>::Layer<Env>::Parameters<float, hm::Flat>, float> == 48);
  STATIC_REQUIRE(
      hm::element_count<norm::Rms<norm::Epsilon<1, 10>, norm::Gain::none>::Layer<Env>::Parameters<float, hm::Flat>, float> == 0);
  STATIC_REQUIRE(hm::element_count<norm::LayerNorm<>::Layer<Env>::Parameters<double, hm::Packed>, double> == 96);
  STATIC_REQUIRE(
      hm::element_count<norm::LayerNorm<norm::Epsilon<1, 10>, norm::Shift::weight>::Layer<Env>::Parameters<double, hm::Flat>,
                        double> == 48);
  STATIC_REQUIRE(norm::Epsilon<1, 100'000>::value<float> == 1e-5f);
  STATIC_REQUIRE(norm::Epsilon<1, 1'000'000'000'000>::value<double> == 1e-12);
}
