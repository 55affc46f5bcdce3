#pragma once
// The dynamic router once more, by loops over tokens and experts in double that follow the formulas word by word: scores are
// sorted, T(β) is a sum of hats.

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <hybridmoe/core/index.hpp>
#include <hybridmoe/layer/side.hpp>

namespace test {

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;
using Tensors = std::map<std::string, std::vector<double>>;

/// Streams of some rows; an empty vector is an absent stream.
struct Streams {
  Index layer = 0, decision_width = 0, context_width = 0;
  std::vector<double> complexity{}, decisions{}, context{}, budget{}, target{};

  double of_complexity(Index row) const { return complexity.empty() ? 0.5 : complexity[to_size(row)]; }
  double beta(Index row) const { return budget.empty() ? 1.0 : budget[to_size(row)]; }
  double goal(Index row) const { return target.empty() ? 1.0 : target[to_size(row)]; }
  double decision(Index row, Index field) const {
    return decisions.empty() ? 1.0 : decisions[to_size(row * decision_width + layer * hm::Decision::fields + field)];
  }
  /// A fraction of a cap, of which the target leaves (1 − q) parts of what it saves.
  double spent(Index row, double fraction) const { return fraction + goal(row) * (1 - fraction); }
};

struct RouterSettings {
  Index count, most, width, rank = 0, context = 0;
  double target = 2;
  bool adaptive = true;
};

/// A row's experts with their weights.
struct Routed {
  std::map<Index, double> own{}, unbounded{};
  std::vector<double> z{}, rho{};
  double limit = 0;  ///< K̃

  static double sum(const std::map<Index, double>& list) {
    double total = 0;
    for (const auto& [e, g] : list) total += g;
    return total;
  }
};

inline double inner(const std::vector<double>& w, Index row, const double* x, Index size) {
  double sum = 0;
  for (Index c = 0; c < size; ++c) sum += w[to_size(row * size + c)] * x[c];
  return sum;
}

inline double budget_experts(double beta, Index most) { return std::floor(beta * static_cast<double>(most) + 0.5); }

inline std::map<Index, double> choose(const std::vector<double>& z, double limit, double least, double temperature) {
  std::vector<double> sorted = z;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const auto m = static_cast<std::size_t>(limit);
  const double f = limit - static_cast<double>(m);
  const double threshold = std::max(least, (1 - f) * sorted[m] + f * sorted[m + 1]);
  std::map<Index, double> result;
  for (std::size_t e = 0; e < z.size(); ++e)
    if (z[e] > threshold) result[hm::to_index(e)] = 1 - std::exp(-(z[e] - threshold) / temperature);
  return result;
}

/// at: what the names of the router's tensors begin with.
inline Routed route(const RouterSettings& s, const Tensors& t, const std::string& at, const Streams& streams, Index row,
                    const double* x) {
  Routed result;
  std::vector<double> a(to_size(s.rank));
  const double c = streams.of_complexity(row);
  double length = 1e-6;
  for (Index i = 0; i < s.rank; ++i) {
    double& v = a[to_size(i)];
    v = inner(t.at(at + "projection"), i, x, s.width) + t.at(at + "complexity_projection")[to_size(i)] * c;
    if (s.context > 0 && !streams.context.empty())
      v += inner(t.at(at + "context_projection"), i, streams.context.data() + row * s.context, s.context);
    length += v * v;
  }
  double all = 0;
  for (Index e = 0; e < s.count; ++e) {
    double z = inner(t.at(at + "weight"), e, x, s.width) + t.at(at + "bias")[to_size(e)];
    if (s.rank > 0) {
      const double* centroid = t.at(at + "centroid").data() + e * s.rank;
      double square = 1e-6, along = 0;
      for (Index i = 0; i < s.rank; ++i) {
        square += centroid[i] * centroid[i];
        along += centroid[i] * a[to_size(i)];
      }
      z += t.at(at + "similarity")[0] * along / std::sqrt(square * length);
    }
    result.z.push_back(z);
    all += std::exp(z);
  }
  for (const double z : result.z) result.rho.push_back(std::exp(z) / all);

  const double beta = streams.beta(row), temperature = std::exp(t.at(at + "log_temperature")[0]);
  const double most = static_cast<double>(s.most), share = s.adaptive ? 1 : s.target / most;
  const auto least = [&](double at_budget) {
    if (!s.adaptive) return -1e300;
    double tau = t.at(at + "slope")[0] * (0.5 - c);
    for (int i = 0; i < 6; ++i) tau += t.at(at + "knots")[to_size(i)] * std::max(0.0, 1 - std::abs(5 * at_budget - i));
    if (t.contains(at + "offset")) tau += t.at(at + "offset")[0];
    return tau;
  };
  result.limit = budget_experts(beta, s.most) * streams.spent(row, streams.decision(row, hm::Decision::experts)) * share;
  result.own = choose(result.z, result.limit, least(beta), temperature);
  result.unbounded = choose(result.z, most * share, least(1.0), temperature);
  return result;
}

}  // namespace test
