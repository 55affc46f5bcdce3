#pragma once
// A small layer with a state, and every way in which it can be broken on demand.

#include <cmath>
#include <cstdlib>
#include <limits>

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>

namespace test {

using hybridmoe::Index;

enum class Flaw {
  none,
  looks_ahead,       // a row sees its right neighbour
  mixes_sequences,   // a row sees the first row of the call
  ignores_input,     // the last row of a sequence does not depend on its token
  chunk_in_bits,     // sums in another order when a call has an odd number of rows
  batch_in_bits,     // sums in another order when a call has several sequences
  forgets_state,     // starts every call from nothing
  stale_state,       // takes what the slot held for the state of position 0
  foreign_state,     // writes to a state that is not in the batch
  assigns_gradient,  // = instead of +=
  assigns_dx,
  percent_of_gradient,  // 1% too much in one tensor
  percent_of_dx,        // 1% too much in one column
  no_bias_gradient,
  rough,          // forward in steps of 1/1000
  leaves_output,  // the last column of longer calls is not written
  writes_behind_output,
  writes_behind_tape,
  writes_to_input,
  writes_to_parameters,
  reads_scratch,           // adds what the scratch held, times 1e-30
  reads_tape_in_backward,  // of a piece that forward did not write
  behind_workspace,        // more scratch than declared
  too_much_workspace,      // declares twice what it takes
  workspace_shrinks,       // with the number of rows
  visit_forgets,           // a tensor is not listed
  visit_repeats,           // a tensor is listed twice
  visit_renames,           // two tensors have one name
  active_too_few,
  active_too_many,
  flops_too_few,
  flops_without_backward,
  state_too_small,  // declares more recurrent elements than State has
  allocates,
  tells_poison,  // y depends on what the scratch held, and is finite
  writes_to_batch,
  writes_to_output_gradient,
  writes_behind_input_gradient,
  writes_behind_gradient,
  tape_shrinks,    // with the number of rows
  flops_shrink,    // with the context
  float_differs,   // 1% in float alone
  none_but_steps,  // no flaw: a choice that flips in one column, as a router's does
};

inline Flaw flaw = Flaw::none;
inline bool has(Flaw which) { return flaw == which; }

template <class T, Index width>
struct SmoothingKernel {
  hybridmoe::Batch batch;
  bool training;
  const T *gain, *bias, *matrix, *x;
  T *y, *smooth;
  std::byte* states;
  Index stride;

  void operator()(Index s) const {
    const Index begin = batch.begin[s], end = batch.begin[s + 1];
    T* const state = states == nullptr ? nullptr : reinterpret_cast<T*>(states + batch.slot[s] * stride);
    T carried[width];
    for (Index c = 0; c < width; ++c) {
      const bool fresh = state == nullptr || has(Flaw::forgets_state) || (batch.start[s] == 0 && !has(Flaw::stale_state));
      carried[c] = fresh ? T(0) : state[c];
    }
    for (Index row = begin; row < end; ++row) {
      for (Index c = 0; c < width; ++c) {
        T in = x[row * width + c];
        if (has(Flaw::looks_ahead) && row + 1 < end && training) in += T(0.01) * x[(row + 1) * width + c];
        if (has(Flaw::mixes_sequences) && training) in += T(0.01) * x[c];
        if (has(Flaw::ignores_input) && training && row + 1 == end) in = T(1);
        const bool turned =
            (has(Flaw::chunk_in_bits) && batch.rows % 2 == 1 && !training) || (has(Flaw::batch_in_bits) && batch.sequences > 1);
        carried[c] = turned ? (in * gain[c]) + T(0.75) * carried[c] * (1 + std::numeric_limits<T>::epsilon())
                            : T(0.75) * carried[c] + gain[c] * in;
        smooth[row * width + c] = carried[c];
      }
      for (Index c = 0; c < width; ++c) {
        if (has(Flaw::leaves_output) && c == width - 1 && end - begin > 3) continue;
        T sum = bias[c];
        for (Index k = 0; k < width; ++k) sum += matrix[c * width + k] * carried[k] * carried[k];
        if (has(Flaw::none_but_steps) && c == 0) sum += static_cast<T>(std::floor(static_cast<double>(x[row * width]) * 1000));
        if (has(Flaw::float_differs) && sizeof(T) == sizeof(float)) sum *= T(1.01);
        y[row * width + c] = has(Flaw::rough) ? static_cast<T>(std::floor(static_cast<double>(sum) * 1000) / 1000) : sum;
      }
    }
    if (state != nullptr) {
      for (Index c = 0; c < width; ++c) state[c] = carried[c];
    }
  }
};

template <class T, Index width>
struct SmoothingBackwardKernel {
  hybridmoe::Batch batch;
  const T *gain, *matrix, *x, *smooth, *dy;
  T *dx, *dgain, *dbias, *dmatrix, *carried;

  void operator()(Index) const {
    for (Index s = 0; s < batch.sequences; ++s) {
      for (Index c = 0; c < width; ++c) carried[c] = T(0);
      for (Index row = batch.begin[s + 1] - 1; row >= batch.begin[s]; --row) {
        for (Index k = 0; k < width; ++k) {
          T up = 0;
          for (Index c = 0; c < width; ++c) {
            const T d = dy[row * width + c], value = smooth[row * width + k];
            up += d * matrix[c * width + k] * 2 * value;
            dmatrix[c * width + k] += d * value * value;
          }
          carried[k] = T(0.75) * carried[k] + up;
          T slope = carried[k] * gain[k];
          if (has(Flaw::percent_of_dx) && k == 1) slope *= T(1.01);
          dx[row * width + k] = has(Flaw::assigns_dx) ? slope : dx[row * width + k] + slope;
          dgain[k] += carried[k] * x[row * width + k] * (has(Flaw::percent_of_gradient) ? T(1.01) : T(1));
          if (!has(Flaw::no_bias_gradient)) dbias[k] += dy[row * width + k];
        }
      }
    }
  }
};

/// s ← ¾s + gain·x, y = matrix·s² + bias.
struct Smoothing {
  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;

    template <class T, class Storage>
    struct Parameters {
      hybridmoe::Array<T, width> gain, bias;
      hybridmoe::Array<T, width, width> matrix;
    };
    static void visit(auto&& f, const hybridmoe::Name& at, auto&... p) {
      f(at / "gain", hybridmoe::Trait::gain(), p.gain...);
      if (!has(Flaw::visit_forgets)) f(at / (has(Flaw::visit_renames) ? "gain" : "bias"), hybridmoe::Trait::bias(), p.bias...);
      if (has(Flaw::visit_repeats)) f(at / "again", hybridmoe::Trait::bias(), p.bias...);
      f(at / "matrix", hybridmoe::Trait::weight(), p.matrix...);
    }

    template <class T>
    using State = hybridmoe::Array<T, width>;
    template <class T>
    struct Tape {
      T *smooth, *spare;
      constexpr Tape(auto& arena, hybridmoe::Extent e)
          : smooth(arena.template take<T>(has(Flaw::tape_shrinks) ? 2000 - e.rows : e.rows * width)),
            spare(arena.template take<T>(1)) {}
    };
    static constexpr Index scratch(Index rows) { return rows * width; }
    template <class T, class Storage>
    static Index workspace_bytes(hybridmoe::Extent e) {
      if (has(Flaw::workspace_shrinks)) return 64 * (1000 - e.rows);
      const Index bytes = hybridmoe::round_up(scratch(e.rows) * Index(sizeof(T)), hybridmoe::arena_alignment);
      return has(Flaw::behind_workspace) ? bytes - 64 : has(Flaw::too_much_workspace) ? 2 * bytes + 512 : bytes;
    }

    template <class Space, class T, class Storage>
    static void forward(const hybridmoe::Call<Space>& call, const Parameters<T, Storage>& p, hybridmoe::Rows<const T, width> x,
                        hybridmoe::Rows<T, width> y, hybridmoe::States<State<T>> states, const Tape<T>& tape) {
      hybridmoe::Arena arena = call.arena;
      T* const own = arena.template take<T>(scratch(call.batch.rows));
      const Index count = call.batch.rows * width;
      call.space.each(call.batch.sequences,
                      SmoothingKernel<T, width>{call.batch, call.training, p.gain.data, p.bias.data, p.matrix.data, x.data,
                                                y.data, tape.smooth, states.base, states.stride});
      if (has(Flaw::reads_scratch)) y.data[0] += own[0] * T(1e-30);
      if (has(Flaw::tells_poison) && own[0] == T(0)) y.data[0] += T(1);
      if (has(Flaw::writes_to_batch)) const_cast<Index*>(call.batch.start)[0] += 1;
      own[scratch(call.batch.rows) - 1] = T(1);
      if (has(Flaw::writes_behind_output)) y.data[count] = T(1);
      if (has(Flaw::writes_behind_tape)) tape.spare[64 / sizeof(T)] = T(1);
      if (has(Flaw::writes_to_input)) const_cast<T*>(x.data)[0] += T(1);
      if (has(Flaw::writes_to_parameters)) const_cast<T*>(p.bias.data)[0] += T(1);
      if (!has(Flaw::reads_tape_in_backward)) *tape.spare = T(0);
      if (has(Flaw::foreign_state) && states) states[call.batch.slot[0] == 0 ? 1 : 0][0] = T(1);
      if (has(Flaw::allocates)) {
        seen = std::malloc(64);
        std::free(seen);
      }
    }

    template <class Space, class T>
    static void backward(const hybridmoe::Call<Space>& call, const Parameters<T, hybridmoe::Flat>& p,
                         hybridmoe::Rows<const T, width> x, const Tape<T>& tape, hybridmoe::Rows<const T, width> dy,
                         hybridmoe::Rows<T, width> dx, Parameters<T, hybridmoe::Flat>& gradient) {
      hybridmoe::Arena arena = call.arena;
      T* const carried = arena.template take<T>(scratch(call.batch.rows));
      if (has(Flaw::assigns_gradient)) gradient.bias = {};
      call.space.each(
          1, SmoothingBackwardKernel<T, width>{call.batch, p.gain.data, p.matrix.data, x.data, tape.smooth, dy.data, dx.data,
                                               gradient.gain.data, gradient.bias.data, gradient.matrix.data, carried});
      dx[0][0] += *tape.spare;
      if (has(Flaw::writes_to_output_gradient)) const_cast<T*>(dy.data)[0] += T(1);
      if (has(Flaw::writes_behind_input_gradient)) dx.data[call.batch.rows * width] = T(1);
      const volatile Index end = width * (width + 2);  // compilers see through a constant, and warn
      if (has(Flaw::writes_behind_gradient)) reinterpret_cast<T*>(&gradient)[end] = T(1);
    }

    static hybridmoe::Spread active_parameters() {
      const Index all = width * (width + 2);
      return hybridmoe::Spread::always(has(Flaw::active_too_few) ? all - width : has(Flaw::active_too_many) ? all + width : all);
    }
    static hybridmoe::Flops flops_per_token(Index context) {
      const double n = has(Flaw::flops_shrink) && context == 1 ? 3.0 * width * width
                       : has(Flaw::flops_too_few)              ? 1.0 * width * width
                                                               : 2.0 * width * width;
      return {n, has(Flaw::flops_without_backward) ? n : 3 * n};
    }
    static inline Index elements() { return has(Flaw::state_too_small) ? width + 1 : width; }
    static constexpr struct Recurrent {
      operator Index() const { return elements(); }
    } recurrent_elements{};
    static constexpr Index cache_elements(Index) { return 0; }

    static inline void* volatile seen = nullptr;  // keeps the compiler from leaving the allocation out
  };
};

}  // namespace test
