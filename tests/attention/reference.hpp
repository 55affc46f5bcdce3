#pragma once
// Softmax attention from its definition: every score, every weight and every sum by itself, in double.

#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace test {

/// What the reference has to know of a mode.
struct AttentionReference {
  using Numbers = std::vector<double>;
  using Tensor = std::function<const double*(const std::string&)>;  ///< finds a tensor of the layer by its name

  std::size_t width = 0, heads = 0, kv = 0, size = 0;
  std::size_t window = 1u << 30;
  std::function<double(std::size_t, std::size_t)> reach = {};  ///< if given: the weight of a key (second) for a row (first)
  double base = 0;                                             ///< of the rotation; 0: none
  std::size_t turned = 0;
  bool adjacent = false, normed = false, gain = false, input_bias = false, output_bias = false;
  double epsilon = 1e-6;

  /// One sequence from position 0: x [rows, width] → [rows, width].
  Numbers forward(const Numbers& x, const Tensor& tensor) const {
    const std::size_t rows = x.size() / width;
    const Numbers query = prepared("query", x, heads, tensor), key = prepared("key", x, kv, tensor);
    const Numbers value = product(x, "value", width, kv * size, input_bias, tensor);
    Numbers mixed(rows * heads * size, 0.0);
    for (std::size_t t = 0; t < rows; ++t)
      for (std::size_t h = 0; h < heads; ++h) {
        const std::size_t group = h / (heads / kv);
        const std::size_t first = t + 1 > window ? t + 1 - window : 0;
        Numbers weight;
        double total = 0;
        for (std::size_t s = first; s <= t; ++s) {
          double score = 0;
          for (std::size_t i = 0; i < size; ++i) score += query[(t * heads + h) * size + i] * key[(s * kv + group) * size + i];
          weight.push_back(std::exp(score / std::sqrt(static_cast<double>(size))) * (reach ? reach(t, s) : 1.0));
          total += weight.back();
        }
        for (std::size_t s = first; s <= t; ++s)
          for (std::size_t i = 0; i < size; ++i)
            mixed[(t * heads + h) * size + i] += weight[s - first] / total * value[(s * kv + group) * size + i];
      }
    return product(mixed, "output", heads * size, width, output_bias, tensor);
  }

 private:
  static Numbers product(const Numbers& x, const std::string& name, std::size_t in, std::size_t out, bool biased,
                         const Tensor& tensor) {
    const double* const w = tensor(name + ".weight");
    const double* const bias = biased ? tensor(name + ".bias") : nullptr;
    const std::size_t rows = x.size() / in;
    Numbers y(rows * out);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t o = 0; o < out; ++o) {
        double sum = bias == nullptr ? 0 : bias[o];
        for (std::size_t i = 0; i < in; ++i) sum += w[o * in + i] * x[r * in + i];
        y[r * out + o] = sum;
      }
    return y;
  }

  /// Projected, normed and turned heads.
  Numbers prepared(const std::string& name, const Numbers& x, std::size_t count, const Tensor& tensor) const {
    Numbers y = product(x, name, width, count * size, input_bias, tensor);
    for (std::size_t v = 0; v < y.size() / size; ++v) {
      double* const head = y.data() + v * size;
      if (normed) {
        double squares = 0;
        for (std::size_t i = 0; i < size; ++i) squares += head[i] * head[i];
        const double root = std::sqrt(squares / static_cast<double>(size) + epsilon);
        for (std::size_t i = 0; i < size; ++i) head[i] *= (gain ? tensor(name + "_norm.weight")[i] : 1.0) / root;
      }
      if (base == 0) continue;
      const auto time = static_cast<double>(v / count);
      for (std::size_t i = 0; i < turned / 2; ++i) {
        const double angle = time / std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(turned));
        double &a = head[adjacent ? 2 * i : i], &b = head[adjacent ? 2 * i + 1 : i + turned / 2];
        const double x0 = a, x1 = b;
        a = x0 * std::cos(angle) - x1 * std::sin(angle);
        b = x0 * std::sin(angle) + x1 * std::cos(angle);
      }
    }
    return y;
  }
};

}  // namespace test
