#pragma once
// Routers for tests: one with lists of any length, none included, and one that may not stand in a decoder. Also a space that
// runs items backwards.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/top_k.hpp>
#include <hybridmoe/router/router.hpp>

namespace test {

namespace hm = hybridmoe;
using hm::Index;

/// Items in reverse order: whoever relies on their order fails.
struct Backwards {
  template <class Kernel>
  void each(Index count, const Kernel& kernel) const {
    for (Index i = count; i-- > 0;) kernel(i);
  }
  static constexpr int concurrency() { return 1; }
  template <class Computation>
  void run(const Computation& f) const {
    f(*this);
  }
  void fence() const {}
};

template <class T, Index count, Index most>
struct ThresholdKernel {
  const T* score;
  Index* expert;
  T* weight;
  HYBRIDMOE_FUNCTION void operator()(Index row) const {
    const T* s = score + row * count;
    Index positive = 0;
    for (Index e = 0; e < count; ++e) positive += s[e] > 0 ? 1 : 0;
    const Index k = hm::smaller(positive, most);
    hm::ops::top_k<most>(s, count, k, expert + row * most);
    for (Index i = 0; i < most; ++i) {
      if (i >= k) expert[row * most + i] = -1;
      weight[row * most + i] = i < k ? hm::math::sigmoid(s[expert[row * most + i]]) : T(0);
    }
  }
};

template <class T, Index count, Index most>
struct ThresholdBackwardKernel {
  const Index* expert;
  const T *weight, *dweight;
  T* dscore;
  HYBRIDMOE_FUNCTION void operator()(Index row) const {
    for (Index e = 0; e < count; ++e) dscore[row * count + e] = 0;
    for (Index i = 0; i < most && expert[row * most + i] >= 0; ++i) {
      const T w = weight[row * most + i];
      dscore[row * count + expert[row * most + i]] = dweight[row * most + i] * w * (1 - w);
    }
  }
};

/// Each expert takes its best `capacity` rows of the call: one item per expert, then one per row.
template <class T, Index count>
struct ExpertChoiceKernel {
  Index rows, capacity;
  const T* score;
  T* taken;  // [rows, count] 1 or 0
  HYBRIDMOE_FUNCTION void operator()(Index e) const {
    for (Index row = 0; row < rows; ++row) {
      Index better = 0;
      for (Index other = 0; other < rows; ++other) {
        const T mine = score[row * count + e], theirs = score[other * count + e];
        better += theirs > mine || (theirs == mine && other < row) ? 1 : 0;
      }
      taken[row * count + e] = better < capacity ? T(1) : T(0);
    }
  }
};

template <class T, Index count>
struct ExpertListKernel {
  const T *score, *taken;
  Index* expert;
  T* weight;
  HYBRIDMOE_FUNCTION void operator()(Index row) const {
    Index filled = 0;
    for (Index e = 0; e < count; ++e) {
      if (taken[row * count + e] == 0) continue;
      expert[row * count + filled] = e;
      weight[row * count + filled++] = hm::math::sigmoid(score[row * count + e]);
    }
    for (; filled < count; ++filled) {
      expert[row * count + filled] = -1;
      weight[row * count + filled] = 0;
    }
  }
};

/// What the two routers share: scores = x·Wᵀ, weight = σ(score).
template <class Env, Index count_, Index least_, Index most_>
struct SigmoidRouter {
  static constexpr Index width = Env::width, count = count_, least = least_, target = (least_ + most_) / 2, most = most_;

  template <class T, class Storage>
  struct Parameters {
    hm::Weight<T, Storage, count, width> weight;
  };
  static void visit(auto&& f, const hm::Name& at, auto&... p) { f(at / "weight", hm::Trait::weight(), p.weight...); }
  template <class T>
  using Tape = hm::Tapeless;
  template <class T>
  struct Scratch {
    T *score, *taken;
    HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows)
        : score(arena.template take<T>(rows * count)), taken(arena.template take<T>(rows * count)) {}
  };
  template <class T, class Storage>
  static constexpr Index workspace_bytes(hm::Extent e) {
    return hm::planned_bytes<Scratch<T>>(e.rows) + hm::product_workspace<T, Storage, count, width>(e);
  }
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void backward(const hm::Call<Space>& call, const Parameters<T, hm::Flat>& p,
                                          hm::Rows<const T, width> x, const Tape<T>&, const hm::router::Choice<T, most>& choice,
                                          const T* dweight, hm::Rows<T, width> dx, Parameters<T, hm::Flat>& gradient) {
    using Product = hm::ops::Matmul<Space, T, count, width>;
    const Index rows = call.batch.rows;
    hm::Arena arena = call.arena;
    const Scratch<T> s(arena, rows);
    call.space.each(rows, ThresholdBackwardKernel<T, count, most>{choice.expert, choice.weight, dweight, s.score});
    Product::backward_input(call.space, arena, rows, s.score, p.weight, dx.data);
    Product::backward_weight(call.space, arena, rows, x.data, s.score, gradient.weight, static_cast<T*>(nullptr));
  }
  template <class T>
  HYBRIDMOE_FUNCTION static hm::router::Losses<T> losses(const hm::Tapeless&) {
    return {};
  }
  static constexpr hm::Spread active_parameters() { return hm::Spread::always(count * width); }
  static constexpr hm::Flops flops_per_token() { return hm::Flops::product(static_cast<double>(count * width)); }
};

/// The experts with a positive score, at most `most`.
struct Threshold {
  template <class Env, Index count, Index least, Index most>
  struct Layer : SigmoidRouter<Env, count, least, most> {
    using Base = SigmoidRouter<Env, count, least, most>;
    static constexpr bool causal = true;
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const hm::Call<Space>& call, const typename Base::template Parameters<T, Storage>& p,
                                           hm::Rows<const T, Base::width> x, const hm::router::Choice<T, most>& choice,
                                           const hm::Tapeless&) {
      hm::Arena arena = call.arena;
      const typename Base::template Scratch<T> s(arena, call.batch.rows);
      hm::ops::Matmul<Space, T, count, Base::width>::forward(call.space, arena, call.batch.rows, x.data, p.weight,
                                                             static_cast<const T*>(nullptr), s.score);
      call.space.each(call.batch.rows, ThresholdKernel<T, count, most>{s.score, choice.expert, choice.weight});
    }
  };
};

/// Zhou et al., "Mixture-of-Experts with expert choice routing" (2022): experts choose rows, so rows depend on each other.
struct ExpertChoice {
  template <class Env, Index count, Index least, Index most>
  struct Layer : SigmoidRouter<Env, count, least, most> {
    using Base = SigmoidRouter<Env, count, least, most>;
    static_assert(most == count);
    static constexpr bool causal = false;
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const hm::Call<Space>& call, const typename Base::template Parameters<T, Storage>& p,
                                           hm::Rows<const T, Base::width> x, const hm::router::Choice<T, most>& choice,
                                           const hm::Tapeless&) {
      const Index rows = call.batch.rows;
      hm::Arena arena = call.arena;
      const typename Base::template Scratch<T> s(arena, rows);
      hm::ops::Matmul<Space, T, count, Base::width>::forward(call.space, arena, rows, x.data, p.weight,
                                                             static_cast<const T*>(nullptr), s.score);
      call.space.each(count, ExpertChoiceKernel<T, count>{rows, hm::divide_up(rows, count), s.score, s.taken});
      call.space.each(rows, ExpertListKernel<T, count>{s.score, s.taken, choice.expert, choice.weight});
    }
  };
};

}  // namespace test
