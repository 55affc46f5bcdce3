#pragma once
/// @file key_tokens.hpp
/// Key tokens.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/weighted_attention.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

namespace scorer {
struct Tag {};
}  // namespace scorer

/// In the place of key tokens: none.
struct NoKeyTokens {
  static constexpr Index entries = 0, candidates = 0, grid = 1;
  static constexpr bool sound = true;
  template <bool>
  struct Requirements {};

  template <class Env, Index kv_heads, Index size, bool kept>
  struct Part {
    template <class T, class Storage>
    struct Parameters {};
    static void visit(auto&&, const Name&, auto&...) {}
    template <class T>
    using State = Stateless;
    template <class T>
    struct Tape {
      ops::KeyLists<T, 0, 1> lists{};
      HYBRIDMOE_FUNCTION constexpr Tape(auto&, Extent) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent) {
      return 0;
    }
    static constexpr Index lists_for(Extent) { return 0; }
    template <class T, class Stores>
    HYBRIDMOE_FUNCTION static Stores places(const Stores& stores, States<State<T>>) {
      return stores;
    }
    HYBRIDMOE_FUNCTION static void forward(const auto&...) {}
    template <class Call, class Parameters, class X, class Tape, class T, class Dx, class Gradient>
    HYBRIDMOE_FUNCTION static void backward(const Call&, const Parameters&, X, const Tape&, const T*, Dx, Gradient&) {}
    static constexpr Flops flops_per_token() { return {}; }
  };
};

}  // namespace hybridmoe::attention
