// SwiGLU and GELU MLPs against loops over the formulas in double, gradients by the chain rule over whole Jacobians.

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <hybridmoe/channel/gelu.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
using hm::Index;
using test::numbers;
using Vector = std::vector<double>;

namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double squared_relu(double x) { return x > 0 ? x * x : 0; }
double slope(double (*f)(double), double x) { return (f(x + 1e-5) - f(x - 1e-5)) / 2e-5; }

using Tensors = std::map<std::string, Vector>;

/// One row through the MLP; adds the gradients of Σ y·dy to dx and to the tensors of `gradient`.
Vector reference_row(const Tensors& p, Index width, Index hidden, double (*f)(double), const double* x, const double* dy,
                     double* dx, Tensors& gradient) {
  const auto product = [](const Tensors& all, const std::string& name, const Vector& in) {
    const Vector& w = all.at(name + ".weight");
    const std::size_t out = w.size() / in.size();
    Vector y(out);
    for (std::size_t o = 0; o < out; ++o) {
      y[o] = all.count(name + ".bias") == 0 ? 0 : all.at(name + ".bias")[o];
      for (std::size_t k = 0; k < in.size(); ++k) y[o] += w[o * in.size() + k] * in[k];
    }
    return y;
  };
  const auto product_backward = [&](const std::string& name, const Vector& in, const Vector& dout) {
    const Vector& w = p.at(name + ".weight");
    Vector din(in.size(), 0.0);
    for (std::size_t o = 0; o < dout.size(); ++o) {
      if (gradient.count(name + ".bias") != 0) gradient[name + ".bias"][o] += dout[o];
      for (std::size_t k = 0; k < in.size(); ++k) {
        din[k] += dout[o] * w[o * in.size() + k];
        gradient[name + ".weight"][o * in.size() + k] += dout[o] * in[k];
      }
    }
    return din;
  };
  const bool gated = p.count("gate.weight") != 0;
  const Vector in(x, x + width), up = product(p, "up", in), gate = gated ? product(p, "gate", in) : Vector{};
  Vector h(hm::to_size(hidden)), dup(h.size()), dgate(h.size());
  for (std::size_t i = 0; i < h.size(); ++i) h[i] = gated ? f(gate[i]) * up[i] : f(up[i]);
  const Vector dh = product_backward("down", h, Vector(dy, dy + width));
  for (std::size_t i = 0; i < h.size(); ++i) {
    dup[i] = gated ? dh[i] * f(gate[i]) : dh[i] * slope(f, up[i]);
    if (gated) dgate[i] = dh[i] * up[i] * slope(f, gate[i]);
  }
  for (const auto& [name, d] : {std::pair{"up", dup}, std::pair{"gate", dgate}}) {
    if (std::string(name) == "gate" && !gated) continue;
    const Vector part = product_backward(name, in, d);
    for (std::size_t i = 0; i < part.size(); ++i) dx[i] += part[i];
  }
  return product(p, "down", h);
}

template <class Description, class T, Index width>
void check(Index hidden, Index rows, double (*f)(double), const std::vector<std::string>& names, double tolerance) {
  using Layer = typename Description::template Layer<hm::Environment<width, 64>>;
  using P = typename Layer::template Parameters<T, hm::Flat>;
  const auto p = std::make_unique<P>(), gradient = std::make_unique<P>();
  const auto x = numbers(rows * width, 1), dy = numbers(rows * width, 2);
  Tensors tensors, expected;
  std::vector<std::string> seen;
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& tensor, auto& slopes) {
        const Index size = tensor.size, last = tensor.shape.back();
        seen.push_back(name.text());
        const Vector values = numbers(size, seen.size() + 10, tensor.rank == 2 ? 1 / std::sqrt(static_cast<double>(last)) : 0.3);
        for (Index i = 0; i < size; ++i) {
          tensor[i] = static_cast<T>(values[hm::to_size(i)]);
          slopes[i] = T(1);
        }
        tensors[name.text()] = values;
        expected[name.text()] = Vector(values.size(), 1.0);
      },
      hm::Name{}, *p, *gradient);
  REQUIRE(seen == names);

  Vector y_expected, dx_expected(x.size(), 2.0);
  for (Index row = 0; row < rows; ++row) {
    const Vector y = reference_row(tensors, width, hidden, f, x.data() + row * width, dy.data() + row * width,
                                   dx_expected.data() + row * width, expected);
    y_expected.insert(y_expected.end(), y.begin(), y.end());
  }

  const auto xt = test::cast<T>(x), dyt = test::cast<T>(dy);
  std::vector<T> y(x.size(), std::numeric_limits<T>::quiet_NaN()), dx(x.size(), T(2));
  const hm::Extent extent{rows, 1, true};
  using Tape = typename Layer::template Tape<T>;
  std::vector<std::byte> memory(
      hm::to_size(hm::planned_bytes<Tape>(extent) + Layer::template workspace_bytes<T, hm::Flat>(extent)));
  hm::Arena arena{memory.data(), memory.data() + memory.size()};
  const Tape tape(arena, extent);
  hm::Call<hm::exec::Inline> call;
  call.batch.rows = rows;
  call.training = true;
  call.arena = arena;
  const auto near = [&](const T* got, const Vector& wanted, double spread) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      INFO("element " << i);
      REQUIRE_THAT(static_cast<double>(got[i]), Catch::Matchers::WithinAbs(wanted[i], tolerance * spread));
    }
  };
  Layer::forward(call, *p, hm::Rows<const T, width>{xt.data()}, hm::Rows<T, width>{y.data()}, {}, tape);
  near(y.data(), y_expected, 1);
  Layer::backward(call, *p, hm::Rows<const T, width>{xt.data()}, tape, hm::Rows<const T, width>{dyt.data()},
                  hm::Rows<T, width>{dx.data()}, *gradient);
  near(dx.data(), dx_expected, 1);
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& slopes) {
        INFO(name.text());
        near(slopes.data, expected[name.text()], std::sqrt(static_cast<double>(rows)));
      },
      hm::Name{}, *gradient);
}

const std::vector<std::string> gated{"gate.weight", "up.weight", "down.weight"};
const std::vector<std::string> gated_biased{"gate.weight", "gate.bias", "up.weight", "up.bias", "down.weight", "down.bias"};
const std::vector<std::string> plain{"up.weight", "down.weight"};
const std::vector<std::string> plain_biased{"up.weight", "up.bias", "down.weight", "down.bias"};

template <class T>
void check_all(double tolerance) {
  namespace channel = hm::channel;
  check<channel::SwiGlu<64>, T, 24>(64, 19, silu, gated, tolerance);  // one product for gate and up
  check<channel::SwiGlu<20>, T, 16>(20, 5, silu, gated, tolerance);   // two products
  check<channel::SwiGlu<32, true>, T, 16>(32, 7, silu, gated_biased, tolerance);
  check<channel::SwiGlu<6, true>, T, 8>(6, 1, silu, gated_biased, tolerance);
  check<channel::GeGlu<32>, T, 16>(32, 3, gelu_tanh, gated, tolerance);
  check<channel::Gelu<48>, T, 12>(48, 9, gelu_tanh, plain_biased, tolerance);
  check<channel::Gelu<40, channel::GeluForm::erf, false>, T, 20>(40, 4, gelu_erf, plain, tolerance);
  check<channel::SquaredRelu<24>, T, 20>(24, 4, squared_relu, plain, tolerance);
}

}  // namespace

// The reference's slopes are central differences, good to 1e-9.
TEST_CASE("MLPs agree with their formulas in double") { check_all<double>(2e-8); }
TEST_CASE("MLPs agree with their formulas in float") { check_all<float>(2e-5); }

TEST_CASE("activations agree with the standard library far out, and are finite everywhere") {
  using namespace hm::ops::activation;
  for (double x = -60; x <= 60; x += 0.01) {
    const float a = static_cast<float>(x);
    const double tolerance = 4e-7 * (1 + std::abs(x));
    const double exact = static_cast<double>(a);
    INFO("x = " << a);
    REQUIRE_THAT(static_cast<double>(Silu::value(a)), Catch::Matchers::WithinAbs(silu(exact), tolerance));
    REQUIRE_THAT(static_cast<double>(GeluTanh::value(a)), Catch::Matchers::WithinAbs(gelu_tanh(exact), tolerance));
    REQUIRE_THAT(static_cast<double>(GeluErf::value(a)), Catch::Matchers::WithinAbs(gelu_erf(exact), tolerance));
    REQUIRE_THAT(static_cast<double>(Silu::both(a).slope), Catch::Matchers::WithinAbs(slope(silu, exact), tolerance));
    REQUIRE_THAT(static_cast<double>(GeluTanh::both(a).slope), Catch::Matchers::WithinAbs(slope(gelu_tanh, exact), tolerance));
    REQUIRE_THAT(static_cast<double>(GeluErf::both(a).slope), Catch::Matchers::WithinAbs(slope(gelu_erf, exact), tolerance));
  }
  for (const float x : {-1e4f, 1e4f, -200.0f, 200.0f, 0.0f}) {
    for (const auto& pair : {Silu::both(x), GeluTanh::both(x), GeluErf::both(x)}) {
      CHECK(pair.value == std::max(x, 0.0f));
      CHECK(pair.slope == (x > 0 ? 1.0f : x < 0 ? 0.0f : 0.5f));
    }
  }
}

TEST_CASE("an MLP counts its parameters and operations") {
  using Layer = hm::channel::SwiGlu<64>::Layer<hm::Environment<24, 16>>;
  STATIC_REQUIRE(Layer::active_parameters() == hm::Spread::always(3 * 64 * 24));
  STATIC_REQUIRE(hm::element_count<Layer::Parameters<float, hm::Flat>, float> == 3 * 64 * 24);
  STATIC_REQUIRE(Layer::flops_per_token(10).training == 6.0 * 3 * 64 * 24);
  using Biased = hm::channel::Gelu<10>::Layer<hm::Environment<8, 16>>;
  STATIC_REQUIRE(hm::element_count<Biased::Parameters<double, hm::Flat>, double> == 2 * 80 + 18);
  STATIC_REQUIRE(Biased::active_parameters().most == 178);
}
