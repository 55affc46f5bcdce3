#pragma once
// A small HybridMoE with everything on: all four letters, all sources.

#include <hybridmoe/zoo/hybridmoe.hpp>
#include <model/running.hpp>

namespace test {

inline constexpr hybridmoe::zoo::HybridSizes small_sizes{
    .vocab = 40,
    .width = 24,
    .context = 160,
    .heads = hybridmoe::Heads{2, 1, 8},
    .latent = 10,
    .rotary = 4,
    .query_rank = 6,
    .experts = hybridmoe::Experts{.count = 6, .active = {0, 3}, .hidden = 10},
    .nominal = 1.5f,
    .shared = hybridmoe::channel::SharedPlus{.hidden = 16, .modulation = 3},
    .window = hybridmoe::attention::Window{.least = 10, .most = 24, .ramp = 3},
    .store = hybridmoe::attention::Store{.entries = 6, .candidates = 2, .block = 6},
    .cross = hybridmoe::Heads{1, 1, 8},
    .limits = hybridmoe::SegmentLimits{{2, 3}, {4, 6}, {7, 12}},
    .block = 8,
    // Features in steps: constants to the gradient, for differences too.
    .complexity = hybridmoe::control::ComplexityOptions{.window = 12, .recent = 5, .projected = 4, .rank = 6, .steps = 40},
    .chunk = 16,
    .rewind = 9};
struct SmallHybrid : hybridmoe::zoo::HybridModel<small_sizes, hybridmoe::Pattern<"GLMA">> {};

/// Its parameters such that every tensor matters. An estimator of the usual spread would be certain of every row, and its
/// thresholds never the ones that hold.
template <class T>
std::vector<T> lively_hybrid(std::uint64_t seed) {
  std::vector<T> parameters = lively_parameters<SmallHybrid, T>(seed);
  SmallHybrid::visit<T, hybridmoe::Flat>(
      [](const hybridmoe::Name& name, const hybridmoe::Trait&, auto& tensor) {
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        if (name.text() == "complexity.weight")
          for (Index i = 0; i < Tensor::size; ++i) tensor.data[i] *= T(0.5);
        if (name.text() == "complexity.bias") tensor.data[0] = T(-3.5);
      },
      hybridmoe::Name{}, parameters.data());
  return parameters;
}

}  // namespace test
