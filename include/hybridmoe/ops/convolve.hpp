#pragma once
/// @file convolve.hpp
/// Short causal convolution of every channel with taps of its own, an optional bias and an optional SiLU, as in Mamba, gated
/// delta and hybrid layers:
///
///   u[t, c]   = bias[c] + Σ_k weight[c, k]·in[t − (taps−1) + k, c]        out[t, c] = u or silu(u)
///
/// where tap taps−1 is the current row and rows before position 0 are zero.
/// A sequence carries its last inputs in a ring: position p at row p mod history.

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// The last `history` ≥ taps − 1 inputs of a sequence.
template <class T, int channels, int history>
using ConvolveState = Array<T, history, channels>;

/// What every kernel of a convolution reads.
template <class T>
struct ConvolveInput {
  const T* in = nullptr;  ///< row r at in + r·stride
  Index stride = 0;
  const T* weight = nullptr;  ///< [channels, taps]
  const T* bias = nullptr;    ///< [channels], or null
};

/// u of one row of `count` channels: from[k] is the row that tap k meets (zeros where there is none).
template <class T, int taps, int count>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void convolve_row(const T (&weight)[taps][count], const T (&bias)[count],
                                                      const T* const (&from)[taps], T* __restrict__ u) {
  for (int c = 0; c < count; ++c) {
    T sum = bias[c];
    for (int k = 0; k < taps; ++k) sum += weight[k][c] * from[k][c];
    u[c] = sum;
  }
}

template <class T, int taps, int count>
HYBRIDMOE_FUNCTION void convolve_weights(const ConvolveInput<T>& input, Index channel, T (&weight)[taps][count],
                                         T (&bias)[count]) {
  for (int c = 0; c < count; ++c) {
    for (int k = 0; k < taps; ++k) weight[k][c] = input.weight[(channel + c) * taps + k];
    bias[c] = input.bias == nullptr ? T(0) : input.bias[channel + c];
  }
}

/// Channels that one item takes: wide enough that rows are read by whole lines, several of them.
inline constexpr int convolve_block = 128;

/// One item: a block of channels of one sequence, row after row.
template <class T, int channels, int taps, int history, bool silu>
struct ConvolveKernel {
  static constexpr int block = convolve_block;
  static constexpr int blocks = static_cast<int>(divide_up(channels, block));
  Batch batch;
  ConvolveInput<T> input;
  std::byte* state;  ///< the ring of slot s at state + s·state_stride; null: sequences start at position 0 and leave nothing
  Index state_stride;
  T* out;  ///< [rows, channels]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index s = item / blocks, channel = item % blocks * block;
    if constexpr (channels % block == 0) {
      piece<block>(s, channel);
    } else if (channel + block <= channels) {
      piece<block>(s, channel);
    } else {
      piece<channels % block>(s, channel);
    }
  }

  template <int count>
  HYBRIDMOE_FUNCTION void piece(Index s, Index channel) const {
    T weight[taps][count], bias[count], none[count] = {};
    convolve_weights(input, channel, weight, bias);
    const Index begin = batch.begin[s], rows = batch.begin[s + 1] - begin, start = state == nullptr ? 0 : batch.start[s];
    T* const ring = state == nullptr ? nullptr : reinterpret_cast<T*>(state + batch.slot[s] * state_stride) + channel;
    const T* const in = input.in + begin * input.stride + channel;
    for (Index i = 0; i < rows; ++i) {
      const T* from[taps];
      for (int k = 0; k < taps; ++k) {
        const Index row = i - (taps - 1) + k;
        from[k] = row >= 0 ? in + row * input.stride : start + row < 0 ? none : ring + (start + row) % history * channels;
      }
      T* const to = out + (begin + i) * channels + channel;
      convolve_row(weight, bias, from, to);
      if constexpr (silu) {
        for (int c = 0; c < count; ++c) to[c] *= math::sigmoid(to[c]);
      }
    }
    if (ring == nullptr) return;
    for (Index i = larger(0, rows - history); i < rows; ++i) {
      T* const to = ring + (start + i) % history * channels;
      for (int c = 0; c < count; ++c) to[c] = in[i * input.stride + c];
    }
  }
};

/// One item: a block of channels of one sequence (from position 0). Its share of the taps' gradients is added up by a second
/// kernel.
template <class T, int channels, int taps, bool silu>
struct ConvolveBackwardKernel {
  static constexpr int block = convolve_block;
  static constexpr int blocks = static_cast<int>(divide_up(channels, block));
  Batch batch;
  ConvolveInput<T> input;
  T* slope;  ///< [rows, channels]: ∂/∂out on entry, ∂/∂u on return
  T* d_in;   ///< row r at d_in + r·d_stride; assigned
  Index d_stride;
  T* shares;  ///< [sequences, taps + 1, channels]: ∂ by each tap and by the bias

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index s = item / blocks, channel = item % blocks * block;
    if constexpr (channels % block == 0) {
      piece<block>(s, channel);
    } else if (channel + block <= channels) {
      piece<block>(s, channel);
    } else {
      piece<channels % block>(s, channel);
    }
  }

  template <int count>
  HYBRIDMOE_FUNCTION void piece(Index s, Index channel) const {
    T weight[taps][count], bias[count], none[count] = {}, u[count], sums[taps + 1][count] = {};
    convolve_weights(input, channel, weight, bias);
    const Index begin = batch.begin[s], rows = batch.begin[s + 1] - begin;
    const T* const in = input.in + begin * input.stride + channel;
    T* const du = slope + begin * channels + channel;
    for (Index i = 0; i < rows + taps - 1; ++i) {
      if (i < rows) {
        const T* from[taps];
        for (int k = 0; k < taps; ++k) {
          const Index row = i - (taps - 1) + k;
          from[k] = row >= 0 ? in + row * input.stride : none;
        }
        T* const d = du + i * channels;
        if constexpr (silu) {
          convolve_row(weight, bias, from, u);
          for (int c = 0; c < count; ++c) {
            const T gate = math::sigmoid(u[c]);
            d[c] *= gate * (T(1) + u[c] * (T(1) - gate));
          }
        }
        for (int c = 0; c < count; ++c) {
          for (int k = 0; k < taps; ++k) sums[k][c] += d[c] * from[k][c];
          sums[taps][c] += d[c];
        }
      }
      const Index row = i - (taps - 1);  // all slopes that meet this row are known now
      if (row < 0) continue;
      const T* later[taps];
      for (int k = 0; k < taps; ++k) later[k] = i - k < rows ? du + (i - k) * channels : none;
      T* const to = d_in + (begin + row) * d_stride + channel;
      for (int c = 0; c < count; ++c) {
        T sum = T(0);
        for (int k = 0; k < taps; ++k) sum += weight[k][c] * later[k][c];
        to[c] = sum;
      }
    }
    T* const share = shares + s * (taps + 1) * channels + channel;
    for (int k = 0; k <= taps; ++k) {
      for (int c = 0; c < count; ++c) share[k * channels + c] = sums[k][c];
    }
  }
};

/// One item: a range of channels. d_weight and d_bias += the sequences' shares, in order.
template <class T, int channels, int taps>
struct ConvolveShareKernel {
  static constexpr int block = convolve_block;
  Index sequences;
  const T* shares;
  T *d_weight, *d_bias;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(channels, (item + 1) * block);
    for (Index s = 0; s < sequences; ++s) {
      const T* const share = shares + s * (taps + 1) * channels;
      for (Index c = item * block; c < end; ++c) {
        for (int k = 0; k < taps; ++k) d_weight[c * taps + k] += share[k * channels + c];
        if (d_bias != nullptr) d_bias[c] += share[taps * channels + c];
      }
    }
  }
};

/// The convolution. `silu`: the activation follows. `history`: rows of a sequence's ring.
template <class Space, class T, int channels, int taps, bool silu, int history = taps - 1>
struct Convolve {
  static_assert(channels > 0 && taps > 1, "a convolution has channels and at least two taps");
  static_assert(history >= taps - 1, "the ring must hold the inputs that the first row of a call looks back to");

  /// out[rows, channels] = the convolution of `input`. With a state (a ConvolveState at state + slot·stride) sequences continue
  /// at batch.start, else they start at position 0.
  HYBRIDMOE_FUNCTION static void forward(const Space& space, const Batch& batch, const ConvolveInput<T>& input, std::byte* state,
                                         Index state_stride, T* out) {
    using Kernel = ConvolveKernel<T, channels, taps, history, silu>;
    space.each(batch.sequences * Kernel::blocks, Kernel{batch, input, state, state_stride, out});
  }

  /// Scratch of backward.
  static constexpr Index workspace_bytes(Index sequences) {
    return round_up(sequences * (taps + 1) * channels * Index{sizeof(T)}, arena_alignment);
  }
  /// Whole sequences. slope[rows, channels]: ∂/∂out, overwritten by ∂/∂u. d_in (row stride d_stride) =; d_weight and d_bias
  /// (null without a bias) +=.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Arena arena, const Batch& batch, const ConvolveInput<T>& input,
                                          T* slope, T* d_in, Index d_stride, T* d_weight, T* d_bias) {
    using Kernel = ConvolveBackwardKernel<T, channels, taps, silu>;
    T* const shares = arena.template take<T>(batch.sequences * (taps + 1) * channels);
    space.each(batch.sequences * Kernel::blocks, Kernel{batch, input, slope, d_in, d_stride, shares});
    space.each(Kernel::blocks, ConvolveShareKernel<T, channels, taps>{batch.sequences, shares, d_weight, d_bias});
  }
};

}  // namespace hybridmoe::ops
