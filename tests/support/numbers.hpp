#pragma once
// Numbers for tests: reproducible, and independent of the library's own generator.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace test {

/// `count` normal numbers (splitmix64, then the sum of twelve uniforms) times `spread` plus `middle`.
inline std::vector<double> numbers(std::int64_t count, std::uint64_t seed, double spread = 1, double middle = 0) {
  std::vector<double> result(static_cast<std::size_t>(count));
  std::uint64_t state = seed * 0x9E3779B97F4A7C15u;
  for (double& value : result) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) {
      std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
      sum += static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
    }
    value = middle + spread * sum;
  }
  return result;
}

template <class T>
std::vector<T> cast(const std::vector<double>& from) {
  return std::vector<T>(from.begin(), from.end());
}

}  // namespace test
