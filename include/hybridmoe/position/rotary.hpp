#pragma once
/// @file rotary.hpp
/// Rotary position embedding (Su et al., "RoFormer", 2021): pairs of elements turn by position·base^(−2i/dims).

#include <hybridmoe/position/position.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::position {

/// Which elements form a pair.
enum class Pairs {
  halves,   ///< i and i + dims/2 (GPT-NeoX, Llama)
  adjacent  ///< 2i and 2i + 1 (GPT-J, Cohere)
};

/// @tparam base   wavelengths grow geometrically from 2π towards 2π·base, which the pair after the last would have
/// @tparam dims   how many leading elements of a head turn; 0 means all
/// @tparam pairs  see Pairs
template <Index base = 10000, int dims = 0, Pairs pairs = Pairs::halves>
struct Rotary : Tag {
  static constexpr bool active = true;

  template <int size>
  static constexpr int turned = dims == 0 ? size : dims;

  /// Whether heads of this size can be turned.
  template <Index size>
  static constexpr bool fits = turned<static_cast<int>(size)> % 2 == 0 && turned<static_cast<int>(size)> <= size;

  template <int size, class T>
  HYBRIDMOE_FUNCTION static void table(Index position, T* cosine, T* sine) {
    static_assert(fits<size>, "position::Rotary turns pairs: its dims must be even and at most the head size");
    // ln(base)/dims is taken once; the angle is formed in double, since position·frequency loses digits in float.
    const double step = std::log(static_cast<double>(base)) * (-2.0 / turned<size>);
    for (int i = 0; i < turned<size> / 2; ++i) {
      const double angle = static_cast<double>(position) * std::exp(step * i);
      cosine[i] = static_cast<T>(std::cos(angle));
      sine[i] = static_cast<T>(std::sin(angle));
    }
  }

  template <int size, class T>
  HYBRIDMOE_FUNCTION static void rotate(T* x, const T* cosine, const T* sine) {
    turn<size, false>(x, cosine, sine);
  }
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void unrotate(T* x, const T* cosine, const T* sine) {
    turn<size, true>(x, cosine, sine);
  }

 private:
  template <int size, bool back, class T>
  HYBRIDMOE_FUNCTION static void turn(T* x, const T* cosine, const T* sine) {
    constexpr int half = turned<size> / 2;
    for (int i = 0; i < half; ++i) {
      T& first = x[pairs == Pairs::halves ? i : 2 * i];
      T& second = x[pairs == Pairs::halves ? i + half : 2 * i + 1];
      const T a = first, b = second, s = back ? -sine[i] : sine[i];
      first = a * cosine[i] - b * s;
      second = b * cosine[i] + a * s;
    }
  }
};

}  // namespace hybridmoe::position
