#pragma once
/// @file visit.hpp
/// A layer lists its tensors once: `visit(f, at, p...)` calls `f(name, trait, p.tensor...)` for each. Initialisation, counting,
/// packing, the optimizer, saving and loading are all visitors; `p...` are any number of parameter structs walked in step.

#include <string>
#include <string_view>

#include <hybridmoe/core/tensor.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// A tensor's dotted name as a chain of parts on the stack. Build it with `at / "gate"` or `at / 3` inside a call expression.
struct Name {
  const Name* outer = nullptr;
  std::string_view part{};
  Index number = -1;

  constexpr Name operator/(std::string_view inner) const { return {this, inner, -1}; }
  constexpr Name operator/(Index inner) const { return {this, {}, inner}; }

  std::string text() const {
    std::string result = outer == nullptr ? std::string{} : outer->text();
    if (part.empty() && number < 0) return result;
    if (!result.empty()) result += '.';
    return result += number < 0 ? std::string(part) : std::to_string(number);
  }
};

/// How a tensor starts.
enum class Start {
  normal,           ///< normal with standard deviation `a`
  constant,         ///< all `a`
  log_of_uniform,   ///< log of a uniform in [a, b]: Mamba's A_log
  softplus_inverse  ///< x with softplus(x) log-uniform in [a, b]: Mamba's step bias
};

/// How training changes a tensor. Backward leaves in the tensor's gradient what the rule needs.
enum class Update {
  gradient,  ///< by the optimizer, along the loss's gradient
  sign,  ///< p −= rate·sign(g), then the mean of p is taken out; g is a measured error (a bias that balances a router's load)
  integral,  ///< p −= rate·g; g is a measured error (an integral controller)
  frozen     ///< never
};

/// What an optimizer and an initialiser must know about a tensor.
struct Trait {
  Start start = Start::normal;
  float a = 0.02f;
  float b = 0.0f;
  bool decay = true;      ///< weight decay applies (matrices), or not (gains, biases, decays)
  bool residual = false;  ///< writes to the residual stream: its start is scaled by 1/√(2·layers)
  Update update = Update::gradient;
  float rate = 0;         ///< of Update::sign and Update::integral
  bool by_depth = false;  ///< its start is scaled by 1/√(l + 1) in layer l of the model, and left as it is outside the layers
  float speed = 1;        ///< factor on the learning rate: an optimizer's steps are all of one size, what they do is not

  static constexpr Trait weight(float deviation = 0.02f) { return {.a = deviation}; }
  static constexpr Trait output(float deviation = 0.02f) { return {.a = deviation, .residual = true}; }
  static constexpr Trait gain(float value = 1.0f) { return {.start = Start::constant, .a = value, .decay = false}; }
  static constexpr Trait bias() { return gain(0.0f); }
  constexpr Trait at_speed(float factor) const {
    Trait trait = *this;
    trait.speed = factor;
    return trait;
  }
  /// A value that a rule of its own changes.
  static constexpr Trait controlled(Update update, float rate, float value = 0.0f) {
    return {.start = Start::constant, .a = value, .decay = false, .update = update, .rate = rate};
  }
  /// Random numbers that nothing changes.
  static constexpr Trait frozen(float deviation) { return {.a = deviation, .decay = false, .update = Update::frozen}; }
};

/// Scalars in a parameter struct of element type T.
template <class Parameters, class T>
constexpr Index element_count = std::is_empty_v<Parameters> ? 0 : static_cast<Index>(sizeof(Parameters) / sizeof(T));

/// A member that an option leaves out. The tag keeps absent members that could share an address different types, which
/// [[no_unique_address]] needs to give them no room. Those of mixers and channel mixers count from 0, of norms from 100, of
/// blocks from 110 and of models from 120, since a norm's members lie at the address where those of a block or model begin.
template <int tag>
struct Absent {};

template <bool present, class Tensor, int tag>
using Optional = std::conditional_t<present, Tensor, Absent<tag>>;

}  // namespace hybridmoe
