#pragma once
/// @file start.hpp
/// Fills tensors with their starting values.

#include <cmath>

#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/visit.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// l of a tensor whose name begins with "layers.l"; 0 of the others.
inline Index layer_of(const Name& name) {
  Index layer = 0;
  for (const Name* at = &name; at->outer != nullptr; at = at->outer)
    if (at->number >= 0 && at->outer->part == "layers") layer = at->number;  // the outermost is found last
  return layer;
}

/// A visitor: starts every tensor by its Trait from a stream keyed by its name, so that adding a layer changes no other tensor.
struct StartTensors {
  random::Key key;
  Index layers;

  template <class Tensor>
  void operator()(const Name& name, const Trait& trait, Tensor& tensor) const {
    using T = typename Tensor::Element;
    const std::uint64_t stream = random::hash(name.text());
    double scale = static_cast<double>(trait.a);
    if (trait.residual) scale /= std::sqrt(2.0 * static_cast<double>(layers));
    if (trait.by_depth) scale /= std::sqrt(1.0 + static_cast<double>(layer_of(name)));
    for (Index i = 0; i < Tensor::size; ++i) {
      const random::Block words = random::draw(key, stream, static_cast<std::uint64_t>(i));
      const double u = static_cast<double>(random::uniform(words.word[0]));
      double value = scale;
      switch (trait.start) {
        case Start::constant:
          break;
        case Start::normal:
          value = scale * static_cast<double>(random::normal(words.word[0], words.word[1]));
          break;
        case Start::log_of_uniform:
          value = std::log(trait.a + u * (trait.b - trait.a));
          break;
        case Start::softplus_inverse: {
          const double step = std::exp(std::log(trait.a) + u * (std::log(trait.b) - std::log(trait.a)));
          value = step + std::log(-std::expm1(-step));
          break;
        }
      }
      tensor.data[i] = static_cast<T>(value);
    }
  }
};

}  // namespace hybridmoe
