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
    constexpr Frequencies<turned<size>> frequency{};  // of the function: device code reads no array of a class
    // In double, since position·frequency loses digits in float.
    for (int i = 0; i < turned<size> / 2; ++i) {
      const math::SineCosine at = math::sine_cosine(static_cast<double>(position) * frequency.value[i]);
      cosine[i] = static_cast<T>(at.cosine);
      sine[i] = static_cast<T>(at.sine);
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
  /// base^(−2i/count) for i < count/2.
  template <int count>
  struct Frequencies {
    double value[count / 2 + 1] = {};
    constexpr Frequencies() {
      // The (count/2)-th root of 1/base by Newton's method, from above; its powers, each rounded once.
      constexpr int roots = count / 2 > 0 ? count / 2 : 1;
      const long double wanted = 1.0L / static_cast<long double>(base);
      long double root = 1;
      for (int step = 0; step < 200; ++step) {
        long double power = 1;
        for (int i = 1; i < roots; ++i) power *= root;
        root -= (root * power - wanted) / (static_cast<long double>(roots) * power);
      }
      long double power = 1;
      for (int i = 0; i < count / 2; ++i, power *= root) value[i] = static_cast<double>(power);
    }
  };
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
