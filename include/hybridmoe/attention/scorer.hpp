#pragma once
/// @file scorer.hpp
/// How much a token deserves to stay in reach: policies that give every token a score from its layer's input.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/activation.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention::scorer {

struct Tag {};

/// Rows of one item of these kernels.
inline constexpr Index score_rows = 64;

/// r = w₂·silu(hidden)
template <class T, Index hidden>
struct ScoreKernel {
  Index rows;
  const T *preactivation, *weight;
  T* score;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * score_rows);
    for (Index row = item * score_rows; row < end; ++row) {
      const T* const h = preactivation + row * hidden;
      T term[hidden], sum = 0;
      for (Index i = 0; i < hidden; ++i) term[i] = weight[i] * ops::activation::Silu::value(h[i]);
      for (Index i = 0; i < hidden; ++i) sum += term[i];
      score[row] = sum;
    }
  }
};

/// From d_score: the gradient by the hidden layer, and each row's part of that by w₂.
template <class T, Index hidden>
struct ScoreBackwardKernel {
  Index rows;
  const T *preactivation, *weight, *d_score;
  T *d_hidden, *d_weight;  ///< [rows, hidden] each

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * score_rows);
    for (Index row = item * score_rows; row < end; ++row)
      for (Index i = 0; i < hidden; ++i) {
        const auto silu = ops::activation::Silu::both(preactivation[row * hidden + i]);
        d_hidden[row * hidden + i] = d_score[row] * weight[i] * silu.slope;
        d_weight[row * hidden + i] = d_score[row] * silu.value;
      }
  }
};

/// r = w₂·silu(W₁x), learned through the weights of key tokens. Tensors: hidden.weight [hidden, width], score.weight [hidden].
template <Index hidden = 32>
struct Learned : Tag {
  static_assert(hidden > 0, "scorer::Learned needs a hidden width of at least one");

  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    template <class T, class Storage>
    struct Parameters {
      Weight<T, Storage, hidden, width> hidden_weight;
      Array<T, hidden> weight;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      f(at / "hidden" / "weight", Trait::weight(), p.hidden_weight...);
      f(at / "score" / "weight", Trait::weight(1.0f), p.weight...);  // scores that differ from the start
    }
    template <class T>
    struct Tape {
      T* hidden_rows;  ///< [rows, hidden]
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e) : hidden_rows(arena.template take<T>(e.rows * hidden)) {}
    };
    template <class T>
    struct Scratch {
      T *d_hidden, *d_weight;
      HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e)
          : d_hidden(arena.template take<T>(e.rows * hidden)), d_weight(arena.template take<T>(e.rows * hidden)) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      return product_workspace<T, Storage, hidden, width>(e) + (e.training ? planned_bytes<Scratch<T>>(e) : 0);
    }
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           T* score, const Tape<T>& tape) {
      const Index rows = call.batch.rows;
      ops::Matmul<Space, T, hidden, width>::forward(call.space, call.arena, rows, x.data, p.hidden_weight,
                                                    static_cast<const T*>(nullptr), tape.hidden_rows);
      call.space.each(divide_up(rows, score_rows), ScoreKernel<T, hidden>{rows, tape.hidden_rows, p.weight.data, score});
    }
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, const T* d_score, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      using Product = ops::Matmul<Space, T, hidden, width>;
      using Sum = ops::cpu::ColumnSumKernel<T>;
      const Index rows = call.batch.rows;
      Arena arena = call.arena;
      const Scratch<T> s(arena, Extent::of(call.batch, true));
      call.space.each(divide_up(rows, score_rows),
                      ScoreBackwardKernel<T, hidden>{rows, tape.hidden_rows, p.weight.data, d_score, s.d_hidden, s.d_weight});
      call.space.each(divide_up(hidden, Sum::columns_per_item), Sum{rows, hidden, s.d_weight, gradient.weight.data});
      Product::backward_input(call.space, arena, rows, s.d_hidden, p.hidden_weight, dx.data);
      Product::backward_weight(call.space, arena, rows, x.data, s.d_hidden, gradient.hidden_weight, static_cast<T*>(nullptr));
    }
    static constexpr Flops flops_per_token() { return Flops::product(static_cast<double>(hidden * (width + 1))); }
  };
};

/// Random numbers in (0, 4), fixed by the position, the layer and the seed: what choosing key tokens must be better than.
template <std::uint64_t seed = 1>
struct Random : Tag {
  template <class T>
  struct Kernel {
    Batch batch;
    Index layer;
    T* score;
    HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
      const Index end = smaller(batch.rows, (item + 1) * score_rows);
      for (Index row = item * score_rows; row < end; ++row) {
        const auto position = static_cast<std::uint64_t>(batch.row_position[row]);
        const random::Block words = random::draw(random::key_of(seed), static_cast<std::uint64_t>(layer), position);
        score[row] = T(4) * static_cast<T>(random::uniform(words.word[0]));
      }
    }
  };

  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    template <class T, class Storage>
    struct Parameters {};
    static void visit(auto&&, const Name&, auto&...) {}
    template <class T>
    using Tape = Tapeless;
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent) {
      return 0;
    }
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>&, Rows<const T, width>, T* score,
                                           const Tape<T>&) {
      call.space.each(divide_up(call.batch.rows, score_rows), Kernel<T>{call.batch, call.layer, score});
    }
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>&, const Parameters<T, Flat>&, Rows<const T, width>, const Tape<T>&,
                                            const T*, Rows<T, width>, Parameters<T, Flat>&) {}
    static constexpr Flops flops_per_token() { return {}; }
  };
};

struct WarmTag {};

/// Nothing but the weights of key tokens teaches the scorer (default).
struct Cold : WarmTag {
  static constexpr bool active = false;
  static constexpr Index every = 1;
  static constexpr double coefficient = 0;
};

/// An auxiliary loss teaches it from the start which tokens rows would attend to beyond their windows (ops/key_mass.hpp): full
/// attention, whose scores alone are computed for every `every`-th row. The loss is (block/rows)·Σ KL over the closed blocks of a
/// call, times a coefficient.
/// @tparam thousandths  the coefficient
template <Index every_ = 16, Index thousandths = 50>
struct Warm : WarmTag {
  static_assert(every_ > 0 && thousandths >= 0, "scorer::Warm needs a positive step between rows and no negative coefficient");
  static constexpr bool active = true;
  static constexpr Index every = every_;
  static constexpr double coefficient = static_cast<double>(thousandths) / 1000;
};

}  // namespace hybridmoe::attention::scorer
