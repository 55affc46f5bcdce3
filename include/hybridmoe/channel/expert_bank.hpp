#pragma once
/// @file expert_bank.hpp
/// `count` SwiGLU experts and the rows that go through each: what routed experts and the slices of an elastic shared expert have
/// in common. Rows are sorted to experts (ops::Dispatch) and each expert's rows go through one product; an expert without rows,
/// and a row without experts, cost nothing, forward and backward.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/ops/dispatch.hpp>
#include <hybridmoe/ops/modulated_swiglu.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// E(x) = down(silu(gate x)·(up x)·(1 + A·q)), a row at most in `most` experts. modulation: width of q, 0 for none. keeps:
/// whether a training tape holds the hidden activation (else backward computes it again).
template <Index count, Index hidden, Index width, Index most, Index modulation = 0, bool keeps = false>
struct ExpertBank {
  static constexpr bool modulated = modulation > 0;
  static constexpr Index parameters_of_one = 3 * width * hidden + hidden * modulation;

  template <class T, class Storage>
  struct Parameters {
    Stacked<Weight<T, Storage, hidden, width>, count> gate, up;
    Stacked<Weight<T, Storage, width, hidden>, count> down;
    [[no_unique_address]] Optional<modulated, Stacked<Weight<T, Storage, hidden, modulation>, count>, 30> modulate;
  };
  static void visit(auto&& f, const Name& at, auto&... p) {
    for (Index e = 0; e < count; ++e) {
      f(at / e / "gate" / "weight", Trait::weight(), p.gate[e]...);
      f(at / e / "up" / "weight", Trait::weight(), p.up[e]...);
      f(at / e / "down" / "weight", Trait::output(), p.down[e]...);
      if constexpr (modulated) f(at / e / "modulate" / "weight", Trait{.start = Start::constant, .a = 0}, p.modulate[e]...);
    }
  }

  /// `places` is the number of (row, expert) pairs of the call, at most rows·most.
  template <class T>
  struct Tape {
    Index *offset, *source, *place;  ///< [count + 1], [places], [rows, most]: see ops::Dispatch
    T *gate, *up, *modulation_by;    ///< [places, hidden] each; the last is A·q
    T* h;                            ///< [places, hidden], in the place of gate where nobody needs that again; null: not kept
    T* out;                          ///< [places, width] unweighted
    HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Index rows, bool training)
        : offset(arena.template take<Index>(count + 1)),
          source(arena.template take<Index>(rows * most)),
          place(arena.template take<Index>(rows * most)),
          gate(arena.template take<T>(rows * most * hidden)),
          up(arena.template take<T>(rows * most * hidden)),
          modulation_by(arena.template take<T>(modulated ? rows * most * hidden : 0)),
          h(!training ? gate
            : keeps   ? arena.template take<T>(rows * most * hidden)
                      : nullptr),
          out(arena.template take<T>(rows * most * width)) {}
  };

  template <class T>
  struct ForwardScratch {
    T *gathered, *q, *h;  // [places, width], [places, modulation], [places, hidden] unless the tape has it
    HYBRIDMOE_FUNCTION constexpr ForwardScratch(auto& arena, Index rows, bool own_h)
        : gathered(arena.template take<T>(rows * most * width)),
          q(arena.template take<T>(rows * most * modulation)),
          h(arena.template take<T>(own_h ? rows * most * hidden : 0)) {}
  };
  template <class T>
  struct BackwardScratch {
    T *gathered, *dout, *dgate, *dup, *dm, *q, *dq;
    HYBRIDMOE_FUNCTION constexpr BackwardScratch(auto& arena, Index rows)
        : gathered(arena.template take<T>(rows * most * width)),
          dout(arena.template take<T>(rows * most * width)),
          dgate(arena.template take<T>(rows * most * hidden)),
          dup(arena.template take<T>(rows * most * hidden)),
          dm(arena.template take<T>(modulated ? rows * most * hidden : 0)),
          q(arena.template take<T>(rows * most * modulation)),
          dq(arena.template take<T>(rows * most * modulation)) {}
  };

  /// Scratch of the products. `packs`: weights are not packed yet.
  template <class T>
  static constexpr Index product_bytes(Index rows, bool training, bool packs) {
    if (!packs) return 0;
    Index result = larger(In<exec::Inline, T>::workspace_bytes(rows * most, training),
                          Out<exec::Inline, T>::workspace_bytes(rows * most, training));
    if constexpr (modulated) result = larger(result, By<exec::Inline, T>::workspace_bytes(rows * most, training));
    return result;
  }
  template <class T>
  static constexpr Index forward_bytes(Index rows, bool training, bool packs) {
    return larger(Sort<exec::Inline>::workspace_bytes(rows),
                  planned_bytes<ForwardScratch<T>>(rows, training && !keeps) + product_bytes<T>(rows, training, packs));
  }

  /// tape.out of every (row, expert) pair of the lists [rows, most]. q: [rows, modulation] or null.
  template <class Space, class T, class Storage>
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena arena, Index rows, const Parameters<T, Storage>& p, const T* x,
                                         const Index* expert, [[maybe_unused]] const T* q, const Tape<T>& tape) {
    const Index most_places = rows * most;
    const Index* const places = tape.offset + count;
    Sort<Space>::sort(space, arena, rows, expert, tape.offset, tape.source, tape.place);
    const ForwardScratch<T> s(arena, rows, tape.h == nullptr);
    T* const h = tape.h == nullptr ? s.h : tape.h;
    Move<Space, T>::gather(space, rows, places, tape.source, x, s.gathered);
    In<Space, T>::forward(space, arena, most_places, tape.offset, s.gathered, p.gate, tape.gate);
    In<Space, T>::forward(space, arena, most_places, tape.offset, s.gathered, p.up, tape.up);
    if constexpr (modulated) {
      MoveQ<Space, T>::gather(space, rows, places, tape.source, q, s.q);
      By<Space, T>::forward(space, arena, most_places, tape.offset, s.q, p.modulate, tape.modulation_by);
    }
    activate(space, most_places, tape, h);
    Out<Space, T>::forward(space, arena, most_places, tape.offset, h, p.down, tape.out);
  }

  /// y (+)= Σ weight·out
  template <bool add, class Space, class T>
  HYBRIDMOE_FUNCTION static void combine(const Space& space, Index rows, const Tape<T>& tape, const T* weight, T* y) {
    Move<Space, T>::template combine<add>(space, rows, tape.place, weight, tape.out, y);
  }

  /// The first half of backward: dweight is assigned, s.dgate becomes the gradient by the hidden activation.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void backward_out(const Space& space, const Arena& arena, Index rows, const Parameters<T, Flat>& p,
                                              const Tape<T>& tape, const T* weight, const T* dy, T* dweight,
                                              const BackwardScratch<T>& s, Parameters<T, Flat>& gradient) {
    const Index most_places = rows * most;
    Move<Space, T>::combine_backward(space, rows, tape.place, weight, tape.out, dy, s.dout, dweight);
    // Computed again, it costs less than the memory to keep it. Its room then takes the gradient of `up`.
    if (tape.h == nullptr) activate(space, most_places, tape, s.dup);
    Out<Space, T>::backward_weight(space, arena, most_places, tape.offset, tape.h == nullptr ? s.dup : tape.h, s.dout,
                                   gradient.down);
    ops::ExpertRows<Space, T, hidden, most>::clear(space, rows, tape.offset + count, s.dgate);
    Out<Space, T>::backward_input(space, arena, most_places, tape.offset, s.dout, p.down, s.dgate);
  }

  /// The second half: from s.dgate to dx and dq [rows, modulation], which are added to.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void backward_in(const Space& space, const Arena& arena, Index rows, const Parameters<T, Flat>& p,
                                             const T* x, [[maybe_unused]] const T* q, const Tape<T>& tape,
                                             const BackwardScratch<T>& s, T* dx, [[maybe_unused]] T* dq,
                                             Parameters<T, Flat>& gradient) {
    const Index most_places = rows * most;
    const Index* const places = tape.offset + count;
    if constexpr (modulated) {
      ops::ModulatedSwiGlu<Space, T, hidden>::backward(space, most_places, places, tape.gate, tape.up, tape.modulation_by,
                                                       s.dgate, s.dgate, s.dup, s.dm);
      MoveQ<Space, T>::gather(space, rows, places, tape.source, q, s.q);
      By<Space, T>::backward_weight(space, arena, most_places, tape.offset, s.q, s.dm, gradient.modulate);
      MoveQ<Space, T>::clear(space, rows, places, s.dq);
      By<Space, T>::backward_input(space, arena, most_places, tape.offset, s.dm, p.modulate, s.dq);
      MoveQ<Space, T>::gather_backward(space, rows, tape.place, s.dq, dq);
    } else {
      ops::ExpertSwiGlu<Space, T, hidden>::backward(space, most_places, places, tape.gate, tape.up, s.dgate, s.dgate, s.dup);
    }
    Move<Space, T>::gather(space, rows, places, tape.source, x, s.gathered);
    In<Space, T>::backward_weight(space, arena, most_places, tape.offset, s.gathered, s.dgate, gradient.gate);
    In<Space, T>::backward_weight(space, arena, most_places, tape.offset, s.gathered, s.dup, gradient.up);
    Move<Space, T>::clear(space, rows, places, s.gathered);
    In<Space, T>::backward_input(space, arena, most_places, tape.offset, s.dgate, p.gate, s.gathered);
    In<Space, T>::backward_input(space, arena, most_places, tape.offset, s.dup, p.up, s.gathered);
    Move<Space, T>::gather_backward(space, rows, tape.place, s.gathered, dx);
  }

 private:
  template <class Space, class T>
  using In = ops::GroupedMatmul<Space, T, count, hidden, width>;
  template <class Space, class T>
  using Out = ops::GroupedMatmul<Space, T, count, width, hidden>;
  template <class Space, class T>
  using By = ops::GroupedMatmul<Space, T, count, hidden, modulation>;
  template <class Space>
  using Sort = ops::Dispatch<Space, count, most>;
  template <class Space, class T>
  using Move = ops::ExpertRows<Space, T, width, most>;
  template <class Space, class T>
  using MoveQ = ops::ExpertRows<Space, T, modulation, most>;

  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void activate(const Space& space, Index most_places, const Tape<T>& tape, T* h) {
    const Index* const places = tape.offset + count;
    if constexpr (modulated)
      ops::ModulatedSwiGlu<Space, T, hidden>::forward(space, most_places, places, tape.gate, tape.up, tape.modulation_by, h);
    else
      ops::ExpertSwiGlu<Space, T, hidden>::forward(space, most_places, places, tape.gate, tape.up, h);
  }
};

}  // namespace hybridmoe::channel
