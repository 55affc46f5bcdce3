#pragma once
/// @file with_sources.hpp
/// Laws of sources: `WithSources<Inner, layers, Sources…>` is a layer that runs the sources on its input as if that were the
/// embeddings (token ids are steps of it) and then the layer Inner on what they made. `ReadStreams<Drive<…>…>` is an Inner that
/// mixes streams into its output, so that the laws see sources without a layer of their own.

#include <hybridmoe/check/driven.hpp>
#include <hybridmoe/layer/source.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// Token ids 0 … vocab−1 from a row's first two numbers. One item: drive_block rows.
template <class T, Index width, Index vocab>
struct TokenKernel {
  Index rows;
  const T* x;
  std::int32_t* token;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * drive_block);
    for (Index row = item * drive_block; row < end; ++row) {
      const T u = T(0.75) * math::sigmoid(T(2) * x[row * width]) + T(0.25) * math::sigmoid(T(2) * x[row * width + 1]);
      token[row] = static_cast<std::int32_t>(smaller(vocab - 1, static_cast<Index>(u * T(vocab))));
    }
  }
};

/// y[row] += Σ_j value[row, j]·k(j, column), k fixed numbers in [−1, 1]; and back.
template <class T, Index width, Index columns>
struct MixStreamKernel {
  Index rows;
  StreamRows<T> stream;
  const T* dy;  ///< null: forward
  T* y;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * drive_block);
    for (Index row = item * drive_block; row < end; ++row)
      for (Index j = 0; j < columns; ++j) {
        T sum = 0;
        for (Index c = 0; c < width; ++c) {
          const T k = static_cast<T>((j * 37 + c * 61 + j * c * 7) % 101 - 50) / T(50);
          if (dy == nullptr)
            y[row * width + c] += stream.value[row * columns + j] * k;
          else
            sum += dy[row * width + c] * k;
        }
        if (dy != nullptr) stream.add_gradient(row, j, sum);
      }
  }
};

/// y = x + mixed streams.
template <class... Drives>
struct ReadStreams {
  template <class Env>
  struct Layer {
    static constexpr Index width = Env::width;
    static constexpr bool causal = true;
    template <class T, class Storage>
    struct Parameters {};
    static void visit(auto&&, const Name&, auto&...) {}
    template <class T>
    using State = Stateless;
    template <class T>
    using Tape = Tapeless;
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent) {
      return 0;
    }
    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>&, Rows<const T, width> x,
                                           Rows<T, width> y, States<Stateless>, const Tape<T>&) {
      ops::copy(call.space, call.batch.rows * width, x.data, y.data);
      mix<Space, T>(call, nullptr, y.data);
    }
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>&, Rows<const T, width>,
                                            const Tape<T>&, Rows<const T, width> dy, Rows<T, width> dx, Parameters<T, Flat>&) {
      ops::add(call.space, call.batch.rows * width, dy.data, dx.data);
      mix<Space, T>(call, dy.data, nullptr);
    }
    static constexpr Spread active_parameters() { return {}; }
    static constexpr Flops flops_per_token(Index) { return {2.0 * width, 6.0 * width}; }
    static constexpr Index recurrent_elements = 0;
    static constexpr Index cache_elements(Index) { return 0; }

   private:
    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void mix(const Call<Space>& call, const T* dy, T* y) {
      const auto one = [&]<class D>() {
        call.space.each(
            divide_up(call.batch.rows, drive_block),
            MixStreamKernel<T, width, D::width>{call.batch.rows, call.side.template rows<typename D::Stream, T>(), dy, y});
      };
      (one.template operator()<Drives>(), ...);
    }
  };
};

/// sum = Σ *value
template <class T>
struct AddLossKernel {
  const T* value;
  T* sum;
  bool first;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const { *sum = (first ? T(0) : *sum) + *value; }
};

template <class Inner_, Index layers, class... Sources>
struct WithSources {
  static constexpr Index vocab = 40;

  template <class Env>
  struct Layer {
    static_assert(Env::width > 1);
    using Inner = typename Inner_::template Layer<Env>;
    using List = SourceList<SourceEnvironment<Env, layers, vocab>, Sources...>;
    static constexpr Index width = Env::width;
    static constexpr bool causal = Inner::causal && List::causal;

    template <class T, class Storage>
    struct Parameters {
      [[no_unique_address]] typename Inner::template Parameters<T, Storage> inner;
      [[no_unique_address]] typename List::template Parameters<T, Storage> sources;
    };
    static void visit(auto&& f, const Name& at, auto&... p) {
      Inner::visit(f, at / "layer", p.inner...);
      List::visit(f, at, p.sources...);
    }
    template <class T>
    struct StateOf {
      alignas(arena_alignment)
          std::byte bytes[to_size(List::template state_size<T> + state_bytes<typename Inner::template State<T>>)];
    };
    template <class T>
    using State = std::conditional_t<(List::template state_size<T> + state_bytes<typename Inner::template State<T>>) == 0,
                                     Stateless, StateOf<T>>;
    template <class T>
    struct Tape {
      T *input, *d_input;  ///< the stack's input and its gradient [rows, width]
      std::int32_t* token;
      T* loss;  ///< [1] auxiliary losses of all parts
      typename List::template Tape<T> sources;
      typename Inner::template Tape<T> inner;
      HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
          : input(arena.template take<T>(e.rows * width)),
            d_input(e.training ? arena.template take<T>(e.rows * width) : nullptr),
            token(arena.template take<std::int32_t>(e.rows)),
            loss(arena.template take<T>(1)),
            sources(arena, e),
            inner(arena, e) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(Extent e) {
      return larger(Inner::template workspace_bytes<T, Storage>(e), List::template workspace_bytes<T, Storage>(e));
    }

    template <class Space, class T, class Storage>
    HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                           Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
      const Index rows = call.batch.rows;
      call.space.each(divide_up(rows, drive_block), TokenKernel<T, width, vocab>{rows, x.data, tape.token});
      ops::copy(call.space, rows * width, x.data, tape.input);
      Call<Space> inner = call;
      inner.price = price;
      List::forward(inner, p.sources, SourceInput<T, width>{tape.token, x}, Rows<T, width>{tape.input}, states.base,
                    states.stride, tape.sources);
      List::template streams<T>(tape.sources, rows, inner.side);
      std::byte* const rest = states.base == nullptr ? nullptr : states.base + List::template state_size<T>;
      Inner::forward(inner, p.inner, Rows<const T, width>{tape.input}, y,
                     States<typename Inner::template State<T>>{rest, states.stride}, tape.inner);
      if (!call.training) return;
      bool first = true;
      const auto sum = [&](const T* value) {
        call.space.each(1, AddLossKernel<T>{value, tape.loss, first});
        first = false;
      };
      List::template losses<T>(tape.sources, sum);
      if constexpr (requires { Inner::template losses<T>(tape.inner).value; })
        if (const T* const value = Inner::template losses<T>(tape.inner).value; value != nullptr) sum(value);
      if (first) ops::zero(call.space, 1, tape.loss);
    }

    /// The sum of all parts' auxiliary losses.
    template <class T>
    HYBRIDMOE_FUNCTION static auto losses(const Tape<T>& tape) {
      struct Sum {
        const T* value;
      };
      return Sum{tape.loss};
    }

    template <class Space, class T>
    HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                            const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                            Parameters<T, Flat>& gradient) {
      const Index rows = call.batch.rows;
      Call<Space> inner = call;
      inner.price = price;
      List::template streams<T>(tape.sources, rows, inner.side);
      ops::zero(call.space, rows * width, tape.d_input);
      Inner::backward(inner, p.inner, Rows<const T, width>{tape.input}, tape.inner, dy, Rows<T, width>{tape.d_input},
                      gradient.inner);
      ops::add(call.space, rows * width, static_cast<const T*>(tape.d_input), dx.data);
      List::backward(inner, p.sources, SourceInput<T, width>{tape.token, x}, tape.sources, Rows<const T, width>{tape.d_input}, dx,
                     gradient.sources);
    }

    static constexpr Spread active_parameters() { return Inner::active_parameters() + List::active_parameters(); }
    static constexpr Flops flops_per_token(Index context) {
      return Inner::flops_per_token(context) + List::flops_per_token(context);
    }
    static constexpr Index recurrent_elements = Inner::recurrent_elements + List::recurrent_elements;
    static constexpr Index cache_elements(Index context) {
      return Inner::cache_elements(context) + List::cache_elements(context);
    }

   private:
    static constexpr double price = 1e-5;
  };
};

}  // namespace hybridmoe::check
