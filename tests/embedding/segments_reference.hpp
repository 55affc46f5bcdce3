#pragma once
// Multi-scale embeddings and attention to them from their definition: segments as ranges of tokens, probabilities as such, every
// row by itself, in double.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace test {

using Values = std::vector<double>;
using FindTensor = std::function<const double*(const std::string&)>;

struct SegmentReference {
  std::size_t width = 0, size = 0, pair = 0;
  std::size_t least[3] = {3, 15, 100}, most[3] = {5, 25, 200};
  std::size_t fixed[3] = {0, 0, 0};  ///< lengths from which segments are cut; 0: learned
  bool normed = false;
  std::string at = "segments.";
  FindTensor tensor{};

  struct Segment {
    std::size_t begin, end;  ///< tokens begin … end−1; seen by rows from `end` on
    double omega;
    Values vector;
  };
  struct Answer {
    std::vector<Segment> closed[3];
    Values x;        ///< [rows, width] the stack's input
    Values context;  ///< [rows, 2·size]
    std::size_t forced = 0, wanted = 0, declined = 0;
  };

  const double* find(const std::string& name) const { return tensor(at + name); }

  static double dot(const double* a, const double* b, std::size_t n) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
  }
  static Values normed_row(Values x, const double* gain) {
    const double root = std::sqrt(dot(x.data(), x.data(), x.size()) / static_cast<double>(x.size()) + 1e-6);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= gain[i] / root;
    return x;
  }
  static Values product(const double* w, const Values& x, std::size_t out) {
    Values y(out);
    for (std::size_t o = 0; o < out; ++o) y[o] = dot(w + o * x.size(), x.data(), x.size());
    return y;
  }

  /// One sequence from position 0. emphasis: [rows, 3], or empty for 1.
  Answer run(const Values& e, const Values& emphasis) const {
    const char* const scale[] = {"phrase", "sentence", "paragraph"};
    const std::size_t rows = e.size() / width;
    Answer answer;
    answer.x = e;
    answer.context.assign(rows * 2 * size, 0.0);

    std::vector<Values> u(rows);
    for (std::size_t t = 0; t < rows; ++t) {
      Values mixed(e.data() + t * width, e.data() + (t + 1) * width);
      for (std::size_t i = 1; i <= 3 && i <= t; ++i)
        for (std::size_t c = 0; c < width; ++c) mixed[c] += find("taps")[(i - 1) * width + c] * e[(t - i) * width + c];
      u[t] = normed_row(mixed, find("token_norm.weight"));
      for (std::size_t c = 0; c < width; ++c) answer.x[t * width + c] += find("token_output")[c] * u[t][c];
    }

    std::size_t open[3] = {0, 0, 0};
    double omega[3] = {1, 1, 1};
    for (std::size_t t = 1; t < rows; ++t) {
      for (std::size_t s = 0; s < 3; ++s) {
        const std::size_t n = t - open[s];
        if (n < least[s]) break;
        const bool must = s == 0 ? n == most[0] : n > most[s] - most[s - 1];
        bool want = fixed[s] > 0 && n >= fixed[s];
        if (!must && fixed[0] == 0) {
          Values changed(find("boundary.weight"), find("boundary.weight") + pair * width);
          for (std::size_t i = 0; i < changed.size(); ++i) changed[i] += find("boundary.change")[i];
          const Values q = product(find("boundary.weight"), u[t], pair), k = product(changed.data(), u[t - 1], pair);
          const double cosine = dot(q.data(), k.data(), pair) /
                                std::sqrt((dot(q.data(), q.data(), pair) + 1e-6) * (dot(k.data(), k.data(), pair) + 1e-6));
          const double p = 1 / (1 + std::exp(-(find("boundary.bias")[s] - *find("boundary.sharpness") * cosine)));
          want = p > 0.5;
          omega[s] *= want ? p : 1 - p;
          ++(want ? answer.wanted : answer.declined);
        }
        if (must) ++answer.forced;
        if (!must && !want) break;
        Segment segment{open[s], t, omega[s], {}};
        std::vector<const Values*> children;
        if (s == 0)
          for (std::size_t i = open[0]; i < t; ++i) children.push_back(&u[i]);
        else
          for (const Segment& child : answer.closed[s - 1])
            if (child.begin >= open[s]) children.push_back(&child.vector);
        const std::size_t wide = children[0]->size();
        Values pooled(wide, 0.0);
        double total = 0;
        for (const Values* child : children) {
          const double weight = std::exp(dot(find(std::string(scale[s]) + ".query"), child->data(), wide));
          total += weight;
          for (std::size_t c = 0; c < wide; ++c) pooled[c] += weight * (*child)[c];
        }
        for (double& value : pooled) value /= total;
        segment.vector = normed_row(product(find(std::string(scale[s]) + ".weight"), pooled, size),
                                    find(std::string(scale[s]) + ".norm.weight"));
        answer.closed[s].push_back(segment);
        open[s] = t;
        omega[s] = 1;
      }
    }

    for (std::size_t t = 0; t < rows; ++t) {
      const Segment* last[3] = {};
      double square[3] = {}, mean = 0, present = 0;
      for (std::size_t s = 0; s < 3; ++s) {
        for (const Segment& segment : answer.closed[s])
          if (segment.end <= t) last[s] = &segment;
        if (last[s] == nullptr) continue;
        if (s < 2)
          std::copy(last[s]->vector.begin(), last[s]->vector.end(),
                    answer.context.begin() + static_cast<std::ptrdiff_t>((t * 2 + s) * size));
        square[s] = dot(last[s]->vector.data(), last[s]->vector.data(), size) / static_cast<double>(size) + 1e-6;
        mean += square[s];
        ++present;
      }
      for (std::size_t s = 0; s < 3; ++s) {
        if (last[s] == nullptr) continue;
        Values v = last[s]->vector;
        double factor = emphasis.empty() ? 1 : emphasis[t * 3 + s];
        if (normed) {
          const double alpha = find("exponent")[s];
          factor *= std::pow(std::sqrt(square[s]), -alpha) * std::pow(std::sqrt(mean / present), alpha - 1);
          for (std::size_t c = 0; c < size; ++c) v[c] *= find(std::string(scale[s]) + ".gain")[c];
        }
        const Values z = product(find(std::string(scale[s]) + ".output.weight"), v, width);
        for (std::size_t c = 0; c < width; ++c) answer.x[t * width + c] += factor * z[c];
      }
    }
    return answer;
  }
};

struct CrossScaleReference {
  std::size_t width = 0, heads = 0, kv = 0, size = 0;
  std::size_t keys[3] = {64, 64, 128};
  std::string at = "layer.";
  FindTensor tensor{};

  /// x: the layer's input; closed: what the source closed; emphasis as above.
  Values run(const Values& x, const std::vector<SegmentReference::Segment> (&closed)[3], const Values& emphasis) const {
    const char* const scale[] = {"phrase", "sentence", "paragraph"};
    const auto find = [&](const std::string& name) { return tensor(at + name); };
    const std::size_t rows = x.size() / width;
    Values y;
    for (std::size_t t = 0; t < rows; ++t) {
      const Values row(x.begin() + static_cast<std::ptrdiff_t>(t * width),
                       x.begin() + static_cast<std::ptrdiff_t>((t + 1) * width));
      const Values query = SegmentReference::product(find("query.weight"), row, heads * size);
      Values mixed(heads * size, 0.0);
      for (std::size_t h = 0; h < heads; ++h) {
        double total = 1;  // the null key
        for (std::size_t s = 0; s < 3; ++s) {
          std::size_t seen = 0;
          while (seen < closed[s].size() && closed[s][seen].end <= t) ++seen;
          for (std::size_t g = seen > keys[s] ? seen - keys[s] : 0; g < seen; ++g) {
            const SegmentReference::Segment& segment = closed[s][g];
            const Values k = SegmentReference::product(find(std::string(scale[s]) + ".key.weight"), segment.vector, kv * size);
            const Values v = SegmentReference::product(find(std::string(scale[s]) + ".value.weight"), segment.vector, kv * size);
            const std::size_t of = h / (heads / kv) * size;
            const double logit =
                SegmentReference::dot(query.data() + h * size, k.data() + of, size) / std::sqrt(static_cast<double>(size)) +
                find("bias")[h * 3 + s] - find("slope")[h] * std::log(static_cast<double>(1 + t - (segment.end - 1)));
            const double weight = (emphasis.empty() ? 1 : emphasis[t * 3 + s]) * segment.omega * std::exp(logit);
            total += weight;
            for (std::size_t c = 0; c < size; ++c) mixed[h * size + c] += weight * v[of + c];
          }
        }
        for (std::size_t c = 0; c < size; ++c) mixed[h * size + c] /= total;
      }
      const Values out = SegmentReference::product(find("output.weight"), mixed, width);
      y.insert(y.end(), out.begin(), out.end());
    }
    return y;
  }
};

/// The emphasis that check::Drive makes of x by rows 6 … 8 of its matrix (one layer's six decisions come before).
inline Values driven_emphasis(const Values& x, std::size_t width, const double* drive) {
  Values result;
  for (std::size_t t = 0; t < x.size() / width; ++t)
    for (std::size_t s = 0; s < 3; ++s) {
      const double v = 1.2 / (1 + std::exp(-SegmentReference::dot(drive + (6 + s) * width, x.data() + t * width, width))) - 0.1;
      result.push_back(std::clamp(v, 0.0, 1.0));
    }
  return result;
}

}  // namespace test
