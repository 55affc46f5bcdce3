#pragma once
// The complexity estimator by its definition, in loops that share nothing with the library's kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace test {

struct ComplexityReference {
  std::size_t width = 0, vocab = 40;
  std::size_t window = 64, recent = 16, projected = 16, rank = 32, hashes = 256, classes = 0, residues = 32;

  using Tensor = std::function<const double*(const std::string&)>;

  static std::size_t class_of(std::int64_t token, std::size_t count, std::size_t tokens) {
    if (count >= tokens) return static_cast<std::size_t>(token);
    const double fraction =
        static_cast<double>((static_cast<std::uint64_t>(token) * 2654435761u) % (std::uint64_t{1} << 32)) / 4294967296.0;
    return static_cast<std::size_t>(fraction * static_cast<double>(count));
  }

  /// [rows][6]
  template <class Classes>
  std::vector<std::vector<double>> features(const std::vector<int>& token, const std::vector<double>& x,
                                            const Tensor& tensor) const {
    const std::size_t rows = token.size();
    std::vector<std::vector<double>> result(rows, std::vector<double>(6));
    const std::vector<double> s = surprisal(token, tensor, 2), alone = surprisal(token, tensor, 1);
    const std::vector<std::vector<double>> z = directions(x, rows, tensor("complexity.projection.weight"));
    for (std::size_t t = 0; t < rows; ++t) {
      const std::size_t n = std::min(t + 1, window), first = t + 1 - n;
      std::map<std::size_t, int> counts;
      for (std::size_t j = first; j <= t; ++j) ++counts[class_of(token[j], hashes, vocab)];
      for (const auto& [id, count] : counts) {
        const double p = count / static_cast<double>(n);
        if (n > 1) result[t][0] -= p * std::log(p) / std::log(static_cast<double>(n));
      }
      const std::size_t last = std::min(t + 1, recent);
      for (std::size_t j = t + 1 - last; j <= t; ++j) {
        result[t][1] += s[j] / static_cast<double>(last);
        result[t][2] += (alone[j] - s[j]) / static_cast<double>(last);
      }
      // A variance is half the mean square of all differences.
      for (std::size_t i = first; i <= t; ++i)
        for (std::size_t j = first; j <= t; ++j)
          for (std::size_t k = 0; k < projected; ++k)
            result[t][3] += std::pow(z[i][k] - z[j][k], 2) / (2.0 * static_cast<double>(n * n * projected));
      int depth = 0, since = 0;
      bool quoted = false;
      for (std::size_t j = 0; j <= t; ++j) {
        const bool quote = Classes::quotes(token[j]);
        depth += Classes::opens(token[j]) - Classes::closes(token[j]) + (quote ? (quoted ? -1 : 1) : 0);
        depth = std::clamp(depth, 0, 15);
        if (quote) quoted = !quoted;
        since = Classes::terminates(token[j]) ? 0 : since + 1;
      }
      result[t][4] = depth / 15.0;
      result[t][5] = std::min(since, 63) / 63.0;
    }
    return result;
  }

  std::size_t pair_of(std::int64_t before, std::int64_t last) const {
    const auto rest = [this](std::int64_t id) {
      std::size_t n = static_cast<std::size_t>(id);
      while (n >= residues) n -= residues;
      return n;
    };
    return rest(before) * residues + rest(last);
  }

  /// −ln p of every token over ln(classes), by as many tokens before it.
  std::vector<double> surprisal(const std::vector<int>& token, const Tensor& tensor, int order) const {
    const double *a = tensor("complexity.predictor.first.weight"), *b = tensor("complexity.predictor.second.weight");
    const double* pair = tensor("complexity.predictor.pair.weight");
    const double *u = tensor("complexity.predictor.output.weight"), *bias = tensor("complexity.predictor.output.bias");
    std::vector<double> result;
    for (std::size_t t = 0; t < token.size(); ++t) {
      std::vector<double> logit(classes);
      for (std::size_t c = 0; c < classes; ++c) {
        logit[c] = bias[c];
        for (std::size_t k = 0; k < rank; ++k) {
          double h = 0;
          if (t > 0) h += a[static_cast<std::size_t>(token[t - 1]) * rank + k];
          if (t > 1 && order > 1)
            h += b[static_cast<std::size_t>(token[t - 2]) * rank + k] + pair[pair_of(token[t - 2], token[t - 1]) * rank + k];
          logit[c] += u[c * rank + k] * std::tanh(h);
        }
      }
      double sum = 0;
      for (const double l : logit) sum += std::exp(l);
      const double p = std::exp(logit[class_of(token[t], classes, vocab)]) / sum;
      result.push_back(-std::log(p) / std::log(static_cast<double>(classes)));
    }
    return result;
  }

  std::vector<std::vector<double>> directions(const std::vector<double>& x, std::size_t rows, const double* p) const {
    std::vector<std::vector<double>> z(rows, std::vector<double>(projected));
    for (std::size_t t = 0; t < rows; ++t) {
      double square = 1e-12 * static_cast<double>(width);
      for (std::size_t c = 0; c < width; ++c) square += x[t * width + c] * x[t * width + c];
      const double rms = std::sqrt(square / static_cast<double>(width));
      for (std::size_t k = 0; k < projected; ++k)
        for (std::size_t c = 0; c < width; ++c) z[t][k] += p[k * width + c] * x[t * width + c] / rms;
    }
    return z;
  }

  /// c of features.
  static double squash(const std::vector<double>& f, const Tensor& tensor) {
    double sum = tensor("complexity.bias")[0];
    for (std::size_t i = 0; i < 6; ++i)
      sum += tensor("complexity.weight")[i] * (f[i] - tensor("complexity.mean")[i]) /
             std::sqrt(std::max(tensor("complexity.variance")[i], 0.0) + 1e-3);
    return 1 / (1 + std::exp(-sum));
  }
};

}  // namespace test
