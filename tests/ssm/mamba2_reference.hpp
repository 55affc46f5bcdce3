#pragma once
// Mamba-2 from its recurrence: one token after the other, one channel after the other, in double, with no chunk anywhere.

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace test {

using Numbers = std::vector<double>;

struct Mamba2Reference {
  std::size_t width, heads, head, state, groups, taps;
  double epsilon;
  // In the order of the layer's own list.
  Numbers input{}, convolution{}, convolution_bias{}, step_bias{}, decay_log{}, skip{}, norm{}, output{};

  Numbers& named(const std::string& name) {
    if (name == "input.weight") return input;
    if (name == "convolution.weight") return convolution;
    if (name == "convolution.bias") return convolution_bias;
    if (name == "step_bias") return step_bias;
    if (name == "decay_log") return decay_log;
    if (name == "skip") return skip;
    if (name == "norm.weight") return norm;
    return output;
  }

  static double silu(double v) { return v / (1 + std::exp(-v)); }

  /// One sequence from position 0: x [rows, width] → [rows, width].
  Numbers forward(const Numbers& x) const {
    const std::size_t inner = heads * head, channels = inner + 2 * groups * state, projected = inner + channels + heads;
    const std::size_t rows = x.size() / width;
    Numbers result(x.size(), 0.0);
    std::vector<Numbers> memory(heads * head, Numbers(state, 0.0));  // per channel: its row of the matrix
    std::vector<Numbers> seen;                                       // inputs of the convolution so far
    for (std::size_t t = 0; t < rows; ++t) {
      Numbers line(projected, 0.0);
      for (std::size_t o = 0; o < projected; ++o) {
        for (std::size_t i = 0; i < width; ++i) line[o] += input[o * width + i] * x[t * width + i];
      }
      seen.emplace_back(line.begin() + static_cast<std::ptrdiff_t>(inner),
                        line.begin() + static_cast<std::ptrdiff_t>(inner + channels));
      Numbers mixed(channels);
      for (std::size_t c = 0; c < channels; ++c) {
        double sum = convolution_bias[c];
        for (std::size_t back = 0; back < taps && back <= t; ++back)
          sum += convolution[c * taps + taps - 1 - back] * seen[t - back][c];
        mixed[c] = silu(sum);
      }
      Numbers gated(inner);
      for (std::size_t c = 0; c < inner; ++c) {
        const std::size_t h = c / head, g = h / (heads / groups);
        const double raw = line[inner + channels + h] + step_bias[h];
        const double step = raw > 20 ? raw : std::log1p(std::exp(raw));
        double sum = skip[h] * mixed[c];
        for (std::size_t n = 0; n < state; ++n) {
          const double b = mixed[inner + g * state + n], read = mixed[inner + groups * state + g * state + n];
          double& cell = memory[c][n];
          cell = std::exp(-step * std::exp(decay_log[h])) * cell + step * b * mixed[c];
          sum += cell * read;
        }
        gated[c] = sum * silu(line[c]);
      }
      const std::size_t size = inner / groups;
      for (std::size_t g = 0; g < groups; ++g) {
        double squares = 0;
        for (std::size_t c = g * size; c < (g + 1) * size; ++c) squares += gated[c] * gated[c];
        const double scale = 1 / std::sqrt(squares / static_cast<double>(size) + epsilon);
        for (std::size_t c = g * size; c < (g + 1) * size; ++c) gated[c] *= scale * norm[c];
      }
      for (std::size_t o = 0; o < width; ++o) {
        for (std::size_t c = 0; c < inner; ++c) result[t * width + o] += output[o * inner + c] * gated[c];
      }
    }
    return result;
  }
};

}  // namespace test
