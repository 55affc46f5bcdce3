// Products with weights against plain sums, in all storages, directions and sizes; their bits; what they may touch.
#include <catch2/catch_test_macros.hpp>

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/ops/matmul.hpp>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace hm = hybridmoe;
using hm::Index;

namespace {

/// Runs the items of each kernel from the last to the first: results must not notice.
struct Backwards {
  template <class Kernel>
  void each(Index count, const Kernel& kernel) const {
    for (Index i = count; i-- > 0;) kernel(i);
  }
  static constexpr int concurrency() { return 1; }
};
static_assert(hm::exec::ExecutionSpace<Backwards>);

template <class T>
constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

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

/// Scratch of exactly the declared size, full of NaN, on a cache line.
class Scratch {
 public:
  explicit Scratch(Index bytes)
      : bytes_(bytes),
        memory_(static_cast<std::byte*>(std::aligned_alloc(64, hm::to_size(hm::round_up(bytes + 1, 64)))), &std::free) {
    std::memset(memory_.get(), 0xff, hm::to_size(bytes));
  }
  hm::Arena arena() {
    reached_ = memory_.get();
    return {memory_.get(), memory_.get() + bytes_, &reached_};
  }
  bool kept() const { return reached_ <= memory_.get() + bytes_; }

 private:
  Index bytes_;
  std::unique_ptr<std::byte, void (*)(void*)> memory_;
  std::byte* reached_ = nullptr;
};

/// Rows of numbers with NaN before and after, which nothing may read and nothing may overwrite.
template <class T>
class Guarded {
 public:
  static constexpr Index margin = 64;
  explicit Guarded(std::vector<T> values)
      : count_(hm::to_index(values.size())), all_(hm::to_size(count_ + 2 * margin), not_a_number<T>) {
    for (Index i = 0; i < count_; ++i) data()[i] = values[hm::to_size(i)];
  }
  explicit Guarded(Index count) : Guarded(std::vector<T>(hm::to_size(count), not_a_number<T>)) {}
  T* data() { return all_.data() + margin; }
  const T* data() const { return all_.data() + margin; }
  T operator[](Index i) const { return data()[i]; }
  bool untouched() const {
    for (Index i = 0; i < margin; ++i)
      if (!std::isnan(data()[-1 - i]) || !std::isnan(data()[count_ + i])) return false;
    return true;
  }

 private:
  Index count_;
  std::vector<T> all_;
};

template <class T>
bool equal_bits(const T* a, const T* b, Index count) {
  return count == 0 || std::memcmp(a, b, hm::to_size(count) * sizeof(T)) == 0;
}

/// |got − expected| within the rounding of `terms` terms of size at most 1.
template <class T>
bool near(T got, long double expected, Index terms) {
  const long double unit = std::numeric_limits<T>::epsilon();
  return std::abs(static_cast<long double>(got) - expected) <= unit * (4.0L + static_cast<long double>(terms));
}

template <class T, Index out, Index in>
struct Weights {
  std::vector<T> values = numbers<T>(out * in, 3);
  std::unique_ptr<hm::Array<T, out, in>> flat = std::make_unique<hm::Array<T, out, in>>();
  std::unique_ptr<hm::Panels<T, out, in>> packed = std::make_unique<hm::Panels<T, out, in>>();
  Weights() {
    for (Index i = 0; i < out * in; ++i) flat->data[i] = values[hm::to_size(i)];
    for (T& value : packed->data) value = T(0);
    for (Index n = 0; n < out; ++n)
      for (Index k = 0; k < in; ++k) packed->data[(n / 32 * in + k) * 32 + n % 32] = values[hm::to_size(n * in + k)];
  }
};

template <class T, Index out, Index in>
void check(const Weights<T, out, in>& w, Index rows) {
  INFO("rows " << rows << " out " << out << " in " << in << " bytes " << sizeof(T));
  using Product = hm::ops::Matmul<hm::exec::Inline, T, out, in>;
  const hm::exec::Inline space;
  const Guarded<T> x(numbers<T>(rows * in, 1)), dy(numbers<T>(rows * out, 2)), bias(numbers<T>(out, 4));

  Guarded<T> flat(rows * out), packed(rows * out), biased(rows * out);
  Scratch scratch(Product::workspace_bytes(rows, false)), training(Product::workspace_bytes(rows, true));
  Product::forward(space, scratch.arena(), rows, x.data(), *w.flat, nullptr, flat.data());
  REQUIRE(scratch.kept());
  Product::forward(space, scratch.arena(), rows, x.data(), *w.packed, nullptr, packed.data());
  Product::forward(space, scratch.arena(), rows, x.data(), *w.packed, bias.data(), biased.data());
  REQUIRE((scratch.kept() && flat.untouched() && packed.untouched() && biased.untouched()));
  REQUIRE(equal_bits(flat.data(), packed.data(), rows * out));
  for (Index r = 0; r < rows; ++r) {
    for (Index n = 0; n < out; ++n) {
      long double sum = 0;
      for (Index k = 0; k < in; ++k) sum += static_cast<long double>(x[r * in + k]) * w.values[hm::to_size(n * in + k)];
      REQUIRE(near(flat[r * out + n], sum, in));
      REQUIRE(near(biased[r * out + n], sum + bias[n], in + 1));
    }
  }

  const std::vector<T> dx_before = numbers<T>(rows * in, 5);
  Guarded<T> dx(dx_before);
  Product::backward_input(space, training.arena(), rows, dy.data(), *w.flat, dx.data());
  REQUIRE((training.kept() && dx.untouched()));
  for (Index r = 0; r < rows; ++r) {
    for (Index k = 0; k < in; ++k) {
      long double sum = dx_before[hm::to_size(r * in + k)];
      for (Index n = 0; n < out; ++n) sum += static_cast<long double>(dy[r * out + n]) * w.values[hm::to_size(n * in + k)];
      REQUIRE(near(dx[r * in + k], sum, out + 1));
    }
  }

  const std::vector<T> dw_before = numbers<T>(out * in, 6), dbias_before = numbers<T>(out, 7);
  const auto dw = std::make_unique<hm::Array<T, out, in>>();
  for (Index i = 0; i < out * in; ++i) dw->data[i] = dw_before[hm::to_size(i)];
  Guarded<T> dbias(dbias_before);
  Product::backward_weight(space, training.arena(), rows, x.data(), dy.data(), *dw, dbias.data());
  REQUIRE((training.kept() && dbias.untouched()));
  for (Index n = 0; n < out; ++n) {
    long double column = dbias_before[hm::to_size(n)];
    for (Index r = 0; r < rows; ++r) column += dy[r * out + n];
    REQUIRE(near(dbias[n], column, rows + 1));
    for (Index k = 0; k < in; ++k) {
      long double sum = dw_before[hm::to_size(n * in + k)];
      for (Index r = 0; r < rows; ++r) sum += static_cast<long double>(dy[r * out + n]) * x[r * in + k];
      REQUIRE(near(dw->data[n * in + k], sum, rows + 1));
    }
  }
}

template <class T, Index out, Index in>
void check_sizes() {
  const Weights<T, out, in> w;
  for (const Index rows : {0, 1, 2, 7, 11, 12, 13, 50, 100}) check(w, rows);
}

/// Rows alone, a sum in two calls, and items in another order: the same bits.
template <class T, Index out, Index in>
void check_bits(Index rows) {
  INFO("rows " << rows << " out " << out << " in " << in);
  using Product = hm::ops::Matmul<hm::exec::Inline, T, out, in>;
  using Other = hm::ops::Matmul<Backwards, T, out, in>;
  const hm::exec::Inline space;
  const Weights<T, out, in> w;
  const std::vector<T> x = numbers<T>(rows * in, 1), dy = numbers<T>(rows * out, 2);
  Scratch scratch(Product::workspace_bytes(rows, true));
  std::vector<T> y(hm::to_size(rows * out)), dx = numbers<T>(rows * in, 3), line(hm::to_size(hm::larger(in, out)));
  std::vector<T> other_y = y, other_dx = dx;
  const std::vector<T> dx_before = dx;
  Product::forward(space, scratch.arena(), rows, x.data(), *w.flat, nullptr, y.data());
  Other::forward({}, scratch.arena(), rows, x.data(), *w.flat, nullptr, other_y.data());
  Product::backward_input(space, scratch.arena(), rows, dy.data(), *w.flat, dx.data());
  Other::backward_input({}, scratch.arena(), rows, dy.data(), *w.flat, other_dx.data());
  REQUIRE((equal_bits(y.data(), other_y.data(), rows * out) && equal_bits(dx.data(), other_dx.data(), rows * in)));
  for (Index r = 0; r < rows; r += 5) {
    for (const bool pack : {false, true}) {
      if (pack)
        Product::forward(space, scratch.arena(), 1, &x[hm::to_size(r * in)], *w.packed, nullptr, line.data());
      else
        Product::forward(space, scratch.arena(), 1, &x[hm::to_size(r * in)], *w.flat, nullptr, line.data());
      REQUIRE(equal_bits(line.data(), &y[hm::to_size(r * out)], out));
    }
    std::memcpy(line.data(), &dx_before[hm::to_size(r * in)], sizeof(T) * in);
    Product::backward_input(space, scratch.arena(), 1, &dy[hm::to_size(r * out)], *w.flat, line.data());
    REQUIRE(equal_bits(line.data(), &dx[hm::to_size(r * in)], in));
  }
  const auto whole = std::make_unique<hm::Array<T, out, in>>(), parts = std::make_unique<hm::Array<T, out, in>>();
  const auto other = std::make_unique<hm::Array<T, out, in>>();
  Product::backward_weight(space, scratch.arena(), rows, x.data(), dy.data(), *whole, nullptr);
  Other::backward_weight({}, scratch.arena(), rows, x.data(), dy.data(), *other, nullptr);
  const Index first = rows / 3;
  Product::backward_weight(space, scratch.arena(), first, x.data(), dy.data(), *parts, nullptr);
  Product::backward_weight(space, scratch.arena(), rows - first, x.data() + first * in, dy.data() + first * out, *parts, nullptr);
  REQUIRE((equal_bits(whole->data, parts->data, out * in) && equal_bits(whole->data, other->data, out * in)));
}

/// Groups of rows, each with its weight, against Matmul group by group (which the tests above hold to plain sums).
template <class T, Index groups, Index out, Index in>
void check_groups(const std::vector<Index>& sizes, Index beyond) {
  using Grouped = hm::ops::GroupedMatmul<hm::exec::Inline, T, groups, out, in>;
  using Other = hm::ops::GroupedMatmul<Backwards, T, groups, out, in>;
  using Product = hm::ops::Matmul<hm::exec::Inline, T, out, in>;
  const hm::exec::Inline space;
  std::vector<Index> offset{0};
  for (const Index size : sizes) offset.push_back(offset.back() + size);
  REQUIRE(sizes.size() == hm::to_size(groups));
  const Index used = offset.back(), rows = used + beyond;
  INFO("rows " << rows << " used " << used << " groups " << groups << " out " << out << " in " << in);

  std::vector<T> x_values = numbers<T>(rows * in, 1), dy_values = numbers<T>(rows * out, 2);
  for (Index i = used * in; i < rows * in; ++i) x_values[hm::to_size(i)] = not_a_number<T>;
  for (Index i = used * out; i < rows * out; ++i) dy_values[hm::to_size(i)] = not_a_number<T>;
  const Guarded<T> x(x_values), dy(dy_values);
  const auto w = std::make_unique<hm::Stacked<hm::Array<T, out, in>, groups>>();
  const auto panels = std::make_unique<hm::Stacked<hm::Panels<T, out, in>, groups>>();
  const std::vector<T> values = numbers<T>(groups * out * in, 8);
  for (Index g = 0; g < groups; ++g) {
    for (Index i = 0; i < out * in; ++i) w->item[g].data[i] = values[hm::to_size(g * out * in + i)];
    Product::pack(space, w->item[g], panels->item[g]);
  }

  const std::vector<T> y_before = numbers<T>(rows * out, 4), dx_before = numbers<T>(rows * in, 5);
  Guarded<T> flat(y_before), packed(y_before), other(y_before), dx(dx_before), other_dx(dx_before);
  std::vector<T> y = y_before, expected_dx = dx_before;
  const auto dw = std::make_unique<hm::Stacked<hm::Array<T, out, in>, groups>>();
  const auto other_dw = std::make_unique<hm::Stacked<hm::Array<T, out, in>, groups>>();
  const auto expected_dw = std::make_unique<hm::Stacked<hm::Array<T, out, in>, groups>>();
  for (Index g = 0; g < groups; ++g)
    for (Index i = 0; i < out * in; ++i)
      dw->item[g].data[i] = other_dw->item[g].data[i] = expected_dw->item[g].data[i] = T((g + i) % 7);

  Scratch scratch(Grouped::workspace_bytes(rows, false)), training(Grouped::workspace_bytes(rows, true));
  Grouped::forward(space, scratch.arena(), rows, offset.data(), x.data(), *w, flat.data());
  REQUIRE(scratch.kept());
  Grouped::forward(space, scratch.arena(), rows, offset.data(), x.data(), *panels, packed.data());
  Other::forward({}, scratch.arena(), rows, offset.data(), x.data(), *w, other.data());
  Grouped::backward_input(space, training.arena(), rows, offset.data(), dy.data(), *w, dx.data());
  REQUIRE(training.kept());
  Other::backward_input({}, training.arena(), rows, offset.data(), dy.data(), *w, other_dx.data());
  Grouped::backward_weight(space, training.arena(), rows, offset.data(), x.data(), dy.data(), *dw);
  REQUIRE(training.kept());
  Other::backward_weight({}, training.arena(), rows, offset.data(), x.data(), dy.data(), *other_dw);
  REQUIRE((flat.untouched() && packed.untouched() && dx.untouched()));

  Scratch one(Product::workspace_bytes(rows, true));
  for (Index g = 0; g < groups; ++g) {
    const Index from = offset[hm::to_size(g)], count = offset[hm::to_size(g + 1)] - from;
    const T *x_g = x.data() + from * in, *dy_g = dy.data() + from * out;
    Product::forward(space, one.arena(), count, x_g, w->item[g], nullptr, y.data() + from * out);
    Product::backward_input(space, one.arena(), count, dy_g, w->item[g], expected_dx.data() + from * in);
    Product::backward_weight(space, one.arena(), count, x_g, dy_g, expected_dw->item[g], nullptr);
  }
  REQUIRE(equal_bits(flat.data(), y.data(), rows * out));
  REQUIRE(equal_bits(packed.data(), y.data(), rows * out));
  REQUIRE(equal_bits(other.data(), y.data(), rows * out));
  REQUIRE(equal_bits(dx.data(), expected_dx.data(), rows * in));
  REQUIRE(equal_bits(other_dx.data(), expected_dx.data(), rows * in));
  for (Index g = 0; g < groups; ++g) {
    REQUIRE(equal_bits(dw->item[g].data, expected_dw->item[g].data, out * in));
    REQUIRE(equal_bits(other_dw->item[g].data, expected_dw->item[g].data, out * in));
  }
}

template <class T>
void check_all_groups() {
  check_groups<T, 4, 44, 10>({3, 0, 61, 1}, 5);
  check_groups<T, 4, 44, 10>({0, 0, 200, 0}, 0);
  check_groups<T, 4, 10, 44>({0, 0, 0, 0}, 9);
  check_groups<T, 4, 10, 44>({0, 0, 0, 0}, 0);
  check_groups<T, 5, 101, 20>({1, 1, 1, 1, 1}, 0);
  check_groups<T, 1, 33, 300>({50}, 1);
  check_groups<T, 3, 96, 64>({48, 49, 47}, 2);
}

}  // namespace

TEST_CASE("products equal plain sums") {
  check_sizes<float, 101, 20>();
  check_sizes<float, 72, 20>();  // one row: three panels at a time, the last one cut
  check_sizes<float, 44, 10>();
  check_sizes<float, 10, 44>();
  check_sizes<float, 1, 1>();
  check_sizes<float, 64, 32>();
  check_sizes<float, 33, 300>();
  check_sizes<double, 101, 20>();
  check_sizes<double, 7, 45>();
  check_sizes<double, 64, 32>();
}

TEST_CASE("products of many rows and of large weights, which are done in parts") {
  check(Weights<float, 600, 1000>(), 3);
  check(Weights<float, 3, 1030>(), 1100);
  check(Weights<double, 20, 17>(), 433);
}

TEST_CASE("products of rows that fall on the same lines of a cache, which are copied") {
  check(Weights<float, 101, 1024>(), 13);
  check(Weights<float, 1024, 97>(), 30);
  check(Weights<double, 130, 512>(), 211);
}

TEST_CASE("products keep their bits in any company and in any order of work") {
  check_bits<float, 101, 20>(100);
  check_bits<float, 44, 10>(13);
  check_bits<float, 96, 300>(150);
  check_bits<float, 10, 1030>(1100);
  check_bits<double, 101, 20>(100);
  check_bits<double, 33, 270>(61);
  check_bits<float, 101, 2048>(53);
}

TEST_CASE("pack makes the panels") {
  const Weights<float, 101, 45> w;
  const auto packed = std::make_unique<hm::Panels<float, 101, 45>>();
  for (float& value : packed->data) value = not_a_number<float>;
  hm::ops::Matmul<hm::exec::Inline, float, 101, 45>::pack({}, *w.flat, *packed);
  REQUIRE(equal_bits(packed->data, w.packed->data, hm::Panels<float, 101, 45>::size));
  const Weights<double, 65, 31> wide;
  const auto packed_wide = std::make_unique<hm::Panels<double, 65, 31>>();
  hm::ops::Matmul<hm::exec::Inline, double, 65, 31>::pack({}, *wide.flat, *packed_wide);
  REQUIRE(equal_bits(packed_wide->data, wide.packed->data, hm::Panels<double, 65, 31>::size));
}

TEST_CASE("grouped products are the products of the groups") {
  check_all_groups<float>();
  check_all_groups<double>();
  check_groups<float, 3, 700, 300>({2, 0, 5}, 1);
  check_groups<float, 2, 5, 1030>({700, 500}, 3);
  check_groups<float, 3, 101, 1024>({50, 0, 101}, 2);
}
