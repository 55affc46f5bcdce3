#pragma once
/// @file driven.hpp
/// Laws of layers that read streams: `Driven<Description, Drive<stream::Complexity, 1>, …>` is the layer together with streams
/// made of its input, v = clamp(1.2·σ(D·x) − 0.1, 0, 1) with a matrix D per stream. So the laws see the streams, both ends of
/// their range, and the gradients that the layer leaves for them, as part of dx and of D's gradient.

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/ops/fill.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// A stream of `width` columns.
template <class Stream_, Index width_>
struct Drive {
  using Stream = Stream_;
  static constexpr Index width = width_;
  /// Budgets and targets are given by the caller and have no gradient: they are steps of the row's first numbers instead.
  static constexpr bool given = std::is_same_v<Stream, stream::Budget> || std::is_same_v<Stream, stream::Target>;
};

/// Rows that one item drives.
inline constexpr Index drive_block = 8;

template <class T, Index width, Index columns, bool given>
struct DriveKernel {
  Index rows;
  const T *x, *matrix;
  T* value;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * drive_block);
    for (Index row = item * drive_block; row < end; ++row)
      for (Index j = 0; j < columns; ++j) {
        const T* const from = x + row * width;
        T v;
        if constexpr (given) {
          const T scaled = T(4) * math::sigmoid(T(2) * from[j]) + T(0.5);
          v = static_cast<T>(static_cast<int>(scaled)) / T(4);
        } else {
          v = T(1.2) * math::sigmoid(ops::dot(from, matrix + j * width, width)) - T(0.1);
        }
        value[row * columns + j] = v < T(0) ? T(0) : v > T(1) ? T(1) : v;
      }
  }
};

/// dx += d·D by rows; d becomes the gradient by D·x.
template <class T, Index width, Index columns>
struct DriveBackwardKernel {
  Index rows;
  const T *matrix, *value;
  T *d, *dx;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * drive_block);
    for (Index row = item * drive_block; row < end; ++row)
      for (Index j = 0; j < columns; ++j) {
        const T v = value[row * columns + j], s = (v + T(0.1)) / T(1.2);
        T& slope = d[row * columns + j];
        slope = v > T(0) && v < T(1) ? slope * T(1.2) * s * (T(1) - s) : T(0);
        for (Index c = 0; c < width; ++c) dx[row * width + c] += slope * matrix[j * width + c];
      }
  }
};

/// dD[j] += Σ_rows d[row, j]·x[row]
template <class T, Index width, Index columns>
struct DriveGradientKernel {
  Index rows;
  const T *x, *d;
  T* gradient;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index j) const {
    for (Index row = 0; row < rows; ++row)
      for (Index c = 0; c < width; ++c) gradient[j * width + c] += d[row * columns + j] * x[row * width + c];
  }
};

template <class Description, class... Drives>
struct Driven {
  template <class Env>
  struct Layer {
    using Inner = typename Description::template Layer<Env>;
    static constexpr Index width = Env::width;
    static constexpr bool causal = Inner::causal;
    static constexpr Index columns = (Index{0} + ... + (Drives::given ? 0 : Drives::width));
    static constexpr Index all_columns = (Index{0} + ... + Drives::width);
    static constexpr double price = 1e-5;

    template <class T, class Storage>
    struct Parameters {
      [[no_unique_address]] typename Inner::template Parameters<T, Storage> inner;
      [[no_unique_address]] Optional<(columns > 0), Array<T, columns, width>, 140> drive;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      Inner::visit(f, at, p.inner...);
      if constexpr (columns > 0) f(at / "drive", Trait::weight(), p.drive...);
    }
    template <class T>
    using State = typename Inner::template State<T>;
    template <class T>
    struct Tape {
      T *value, *d;  ///< [all columns], stream after stream, each [rows, its width]
      typename Inner::template Tape<T> inner;
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : value(arena.template take<T>(e.rows * all_columns)),
            d(e.training ? arena.template take<T>(e.rows * all_columns) : nullptr),
            inner(arena, e) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      return Inner::template workspace_bytes<T, Storage>(e);
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      const Index rows = call.batch.rows;
      Index before = 0, row_of_matrix = 0;
      const auto fill = [&]<class D>() {
        call.space.each(divide_up(rows, drive_block), DriveKernel<T, width, D::width, D::given>{
                                                          rows, x.data, matrix(p, row_of_matrix), tape.value + before * rows});
        before += D::width;
        if (!D::given) row_of_matrix += D::width;
      };
      (fill.template operator()<Drives>(), ...);
      Inner::forward(driven(call, tape), p.inner, x, y, states, tape.inner);
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Index rows = call.batch.rows;
      ops::zero(call.space, rows * all_columns, tape.d);
      Inner::backward(driven(call, tape), p.inner, x, tape.inner, dy, dx, gradient.inner);
      Index before = 0, row_of_matrix = 0;
      const auto drain = [&]<class D>() {
        if constexpr (!D::given) {
          T* const d = tape.d + before * rows;
          call.space.each(
              divide_up(rows, drive_block),
              DriveBackwardKernel<T, width, D::width>{rows, matrix(p, row_of_matrix), tape.value + before * rows, d, dx.data});
          call.space.each(D::width, DriveGradientKernel<T, width, D::width>{rows, x.data, d, matrix(gradient, row_of_matrix)});
          row_of_matrix += D::width;
        }
        before += D::width;
      };
      (drain.template operator()<Drives>(), ...);
    }

    template <class T>
    HYBRIDMOE_FUNCTION static auto losses(const Tape<T>& tape)
      requires requires { Inner::template losses<T>(tape.inner); }
    {
      return Inner::template losses<T>(tape.inner);
    }

    static constexpr Spread active_parameters() { return Inner::active_parameters() + Spread::always(columns * width); }
    static constexpr Flops flops_per_token(Index context) {
      return Inner::flops_per_token(context) + Flops::product(static_cast<double>(columns * width));
    }
    static constexpr Index recurrent_elements = Inner::recurrent_elements;
    static constexpr Index cache_elements(Index context) { return Inner::cache_elements(context); }

   private:
    HYBRIDMOE_FUNCTION static auto matrix(auto& p, Index row) {
      if constexpr (columns > 0)
        return p.drive.data + row * width;
      else
        return nullptr;
    }
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static Call<Space> driven(const Call<Space>& call, const Tape<T>& tape) {
      Call<Space> inner = call;
      inner.price = price;
      Index before = 0;
      const auto set = [&]<class D>() {
        const Index at = before * call.batch.rows;
        inner.side.template set<typename D::Stream>(static_cast<const T*>(tape.value + at),
                                                    tape.d == nullptr || D::given ? nullptr : tape.d + at, D::width);
        before += D::width;
      };
      (set.template operator()<Drives>(), ...);
      return inner;
    }
  };
};

}  // namespace hybridmoe::check
