#pragma once
// Multi-head latent attention from its definition: keys and values of every head are formed, normalised and turned one by one,
// every score, weight and sum stands by itself, in double.

#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace test {

struct LatentReference {
  using Numbers = std::vector<double>;
  using Tensor = std::function<const double*(const std::string&)>;  ///< finds a tensor of the layer by its name

  std::size_t width = 0, heads = 0, latent = 0, rotary = 0, size = 0, value = 0, rank = 0;
  double base = 0;  ///< of the rotation; 0: none
  bool adjacent = false, normed = false, gain = false;
  double epsilon = 1e-6, factor = 1;

  /// One sequence from position 0: x [rows, width] → [rows, width].
  Numbers forward(const Numbers& x, const Tensor& tensor) const {
    const std::size_t rows = x.size() / width;
    std::vector<std::vector<Numbers>> query(rows), key(rows), values(rows);  // by row and head
    for (std::size_t t = 0; t < rows; ++t) {
      const Numbers row(x.begin() + at(t * width), x.begin() + at((t + 1) * width));
      Numbers from = row;
      if (rank > 0) from = normalised(times(tensor("query_down.weight"), row, 0, rank), tensor("query_down_norm.weight"), 1e-6);
      const Numbers down = times(tensor("down.weight"), row, 0, latent + rotary);
      const Numbers c = normalised(part(down, 0, latent), tensor("down_norm.weight"), 1e-6);
      const Numbers shared = turned(qk(part(down, latent, rotary), nullptr), t);
      for (std::size_t h = 0; h < heads; ++h) {
        const Numbers q = times(tensor("query.weight"), from, h * (size + rotary), size + rotary);
        query[t].push_back(joined(qk(part(q, 0, size), gain ? tensor("query_norm.weight") : nullptr),
                                  turned(qk(part(q, size, rotary), nullptr), t)));
        const Numbers k = times(tensor("key.weight"), c, h * size, size);
        key[t].push_back(joined(qk(k, gain ? tensor("key_norm.weight") : nullptr), shared));
        values[t].push_back(times(tensor("value.weight"), c, h * value, value));
      }
    }
    Numbers y;
    for (std::size_t t = 0; t < rows; ++t) {
      Numbers mixed;
      for (std::size_t h = 0; h < heads; ++h) {
        Numbers weight, sum(value, 0.0);
        double total = 0;
        for (std::size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (std::size_t i = 0; i < size + rotary; ++i) score += query[t][h][i] * key[s][h][i];
          weight.push_back(std::exp(score * factor / std::sqrt(static_cast<double>(size + rotary))));
          total += weight.back();
        }
        for (std::size_t s = 0; s <= t; ++s)
          for (std::size_t i = 0; i < value; ++i) sum[i] += weight[s] / total * values[s][h][i];
        mixed = joined(mixed, sum);
      }
      y = joined(y, times(tensor("output.weight"), mixed, 0, width));
    }
    return y;
  }

 private:
  static std::ptrdiff_t at(std::size_t i) { return static_cast<std::ptrdiff_t>(i); }
  static Numbers part(const Numbers& x, std::size_t from, std::size_t count) {
    return Numbers(x.begin() + at(from), x.begin() + at(from + count));
  }
  static Numbers joined(Numbers a, const Numbers& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  /// Rows from … from+count−1 of a matrix, times x.
  static Numbers times(const double* matrix, const Numbers& x, std::size_t from, std::size_t count) {
    Numbers y(count, 0.0);
    for (std::size_t o = 0; o < count; ++o)
      for (std::size_t i = 0; i < x.size(); ++i) y[o] += matrix[(from + o) * x.size() + i] * x[i];
    return y;
  }
  static Numbers normalised(Numbers x, const double* weight, double small) {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double root = std::sqrt(squares / static_cast<double>(x.size()) + small);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= (weight == nullptr ? 1.0 : weight[i]) / root;
    return x;
  }
  Numbers qk(const Numbers& x, const double* weight) const { return normed ? normalised(x, weight, epsilon) : x; }
  Numbers turned(Numbers x, std::size_t time) const {
    if (base == 0) return x;
    for (std::size_t i = 0; i < rotary / 2; ++i) {
      const double angle = static_cast<double>(time) / std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(rotary));
      double &a = x[adjacent ? 2 * i : i], &b = x[adjacent ? 2 * i + 1 : i + rotary / 2];
      const double x0 = a, x1 = b;
      a = x0 * std::cos(angle) - x1 * std::sin(angle);
      b = x0 * std::sin(angle) + x1 * std::cos(angle);
    }
    return x;
  }
};

}  // namespace test
