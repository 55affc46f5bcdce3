#pragma once
// What arm.cpp measures of a trained model, as JSON.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include <hybridmoe/train/trainer.hpp>

namespace measure {

using hybridmoe::Index;
using hybridmoe::to_index;
using hybridmoe::to_size;

/// Appends to a list of JSON.
inline void append(std::string& list, const std::string& value) {
  if (!list.empty()) list += ',';
  list += value;
}
inline std::string number(double value, const char* format = "%.6f") {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// Numbers as a list of their own.
inline std::string numbers(std::initializer_list<double> values) {
  std::string list(1, '[');
  for (const double value : values) list.append(list.size() > 1 ? "," : "").append(number(value));
  return list.append("]");
}

/// Means over tokens: of the loss, of what layers used (averaged over layers), of the entropy that is known.
class Mean {
 public:
  void add(double loss, double experts, double slices, double entropy) {
    loss_ += loss, experts_ += experts, slices_ += slices, entropy_ += entropy, ++tokens_;
  }
  double loss() const { return loss_ / static_cast<double>(tokens_); }
  Index tokens() const { return tokens_; }
  std::string json() const {
    if (tokens_ == 0) return "null";
    const auto n = static_cast<double>(tokens_);
    char text[200];
    std::snprintf(text, sizeof text, "{\"loss\":%.6f,\"experts\":%.6f,\"slices\":%.6f,\"floor\":%.6f,\"tokens\":%.0f}", loss_ / n,
                  experts_ / n, slices_ / n, entropy_ / n, n);
    return text;
  }

 private:
  double loss_ = 0, experts_ = 0, slices_ = 0, entropy_ = 0;
  Index tokens_ = 0;
};

/// How far rows of an attention that chooses its mechanism looked: the window, the weights of key tokens and of all tokens, and
/// how often only the window was seen (both weights 0), key tokens too (the weight of all tokens 0), or all tokens.
class Mechanism {
 public:
  void add(double window, double key_tokens, double global) {
    window_ += window, key_tokens_ += key_tokens, global_ += global, ++tokens_;
    ++(global > 0 ? all_ : key_tokens > 0 ? with_keys_ : alone_);
  }
  /// [tokens, window, weight of key tokens, of all tokens, parts of the tokens: the window alone, key tokens too, all tokens]
  std::string json() const {
    if (tokens_ == 0) return "null";
    const auto n = static_cast<double>(tokens_);
    return numbers({n, window_ / n, key_tokens_ / n, global_ / n, static_cast<double>(alone_) / n,
                    static_cast<double>(with_keys_) / n, static_cast<double>(all_) / n});
  }

 private:
  double window_ = 0, key_tokens_ = 0, global_ = 0;
  Index tokens_ = 0, alone_ = 0, with_keys_ = 0, all_ = 0;
};

/// Each value's rank, 0 the lowest; equal values share the mean of theirs.
inline std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<Index> order(values.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(), [&](Index a, Index b) { return values[to_size(a)] < values[to_size(b)]; });
  std::vector<double> rank(values.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t end = i + 1;
    while (end < order.size() && values[to_size(order[end])] == values[to_size(order[i])]) ++end;
    for (std::size_t j = i; j < end; ++j) rank[to_size(order[j])] = static_cast<double>(i + end - 1) / 2;
    i = end;
  }
  return rank;
}

/// Spearman's rank correlation; 0 where one of the two is constant.
inline double spearman(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = ranks(a), y = ranks(b);
  const auto n = static_cast<double>(x.size());
  const double mean = (n - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

/// What the complexity c knew: its rank correlation with the loss at full budget, and with the gain from computing (loss at the
/// least budget less loss at full), and the mean of both by tenths of c.
inline std::string of_complexity(const std::vector<double>& c, const std::vector<double>& full,
                                 const std::vector<double>& least) {
  if (c.empty()) return "null";
  std::vector<double> gain(full.size());
  for (std::size_t i = 0; i < gain.size(); ++i) gain[i] = least[i] - full[i];
  std::vector<Index> order(c.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return c[to_size(a)] < c[to_size(b)]; });
  std::string tenths;
  for (std::size_t d = 0; d < 10; ++d) {
    double at = 0, loss = 0, gained = 0;
    const std::size_t first = d * c.size() / 10, end = (d + 1) * c.size() / 10;
    for (std::size_t i = first; i < end; ++i) {
      const std::size_t token = to_size(order[i]);
      at += c[token], loss += full[token], gained += gain[token];
    }
    const auto n = static_cast<double>(end - first);
    append(tenths, numbers({at / n, loss / n, gained / n}));
  }
  std::string text = "{\"with_loss\":";
  text.append(number(spearman(c, full))).append(",\"with_gain\":").append(number(spearman(c, gain)));
  return text.append(",\"tenths\":[").append(tenths).append("]}");
}

}  // namespace measure
