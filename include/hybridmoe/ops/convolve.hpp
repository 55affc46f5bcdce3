#pragma once
/// @file convolve.hpp
/// Short causal convolution of every channel with taps of its own, an optional bias and an optional SiLU, as in Mamba, gated
/// delta and hybrid layers:
///
///   u[t, c] = bias[c] + Σ_k weight[c, k]·in[t − (taps−1) + k, c]        (tap taps−1 is the current row; before position 0: nothing)
///   out[t, c] = u or silu(u)
///
/// A sequence carries its last inputs in a ring: position p at row p mod history.

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

/// One item: a block of channels of one sequence, row after row.
template <class T, int channels, int taps, int history, bool silu>
struct ConvolveKernel {
  static constexpr int block = 64;
  static constexpr int blocks = static_cast<int>(divide_up(channels, block));
  Batch batch;
  ConvolveInput<T> input;
  std::byte* state;  ///< the ring of slot s at state + s·state_stride; null: sequences start at position 0 and leave nothing
  Index state_stride;
  T* out;  ///< [rows, channels]

  HYBRIDMOE_FUNCTION void operator()(Index item) const {
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
    T weight[taps][count], bias[count];
    for (int c = 0; c < count; ++c) {
      for (int k = 0; k < taps; ++k) weight[k][c] = input.weight[(channel + c) * taps + k];
      bias[c] = input.bias == nullptr ? T(0) : input.bias[channel + c];
    }
    const Index begin = batch.begin[s], rows = batch.begin[s + 1] - begin, start = state == nullptr ? 0 : batch.start[s];
    T* const ring = state == nullptr ? nullptr : reinterpret_cast<T*>(state + batch.slot[s] * state_stride) + channel;
    const T* const in = input.in + begin * input.stride + channel;
    for (Index i = 0; i < rows; ++i) {
      T sum[count];
      for (int c = 0; c < count; ++c) sum[c] = bias[c];
      for (int k = 0; k < taps; ++k) {
        const Index row = i - (taps - 1) + k;
        if (start + row < 0) continue;
        const T* const from = row >= 0 ? in + row * input.stride : ring + (start + row) % history * channels;
        for (int c = 0; c < count; ++c) sum[c] += weight[k][c] * from[c];
      }
      T* const to = out + (begin + i) * channels + channel;
      for (int c = 0; c < count; ++c) to[c] = silu ? sum[c] * math::sigmoid(sum[c]) : sum[c];
    }
    if (ring == nullptr) return;
    for (Index i = larger(0, rows - history); i < rows; ++i) {
      T* const to = ring + (start + i) % history * channels;
      for (int c = 0; c < count; ++c) to[c] = in[i * input.stride + c];
    }
  }
};

/// One item: a block of channels of all sequences (which start at position 0), so that it owns the gradients of their taps.
template <class T, int channels, int taps, bool silu>
struct ConvolveBackwardKernel {
  static constexpr int block = 32;
  static constexpr int blocks = static_cast<int>(divide_up(channels, block));
  Batch batch;
  ConvolveInput<T> input;
  T* slope;  ///< [rows, channels]: ∂/∂out on entry, ∂/∂u on return
  T* d_in;   ///< row r at d_in + r·d_stride; assigned
  Index d_stride;
  T *d_weight, *d_bias;  ///< added to; d_bias may be null

  HYBRIDMOE_FUNCTION void operator()(Index item) const {
    if constexpr (channels % block == 0) {
      piece<block>(item * block);
    } else if (item + 1 < blocks) {
      piece<block>(item * block);
    } else {
      piece<channels % block>(item * block);
    }
  }

  template <int count>
  HYBRIDMOE_FUNCTION void piece(Index channel) const {
    T weight[taps][count], bias[count], weight_sum[taps][count], bias_sum[count];
    for (int c = 0; c < count; ++c) {
      for (int k = 0; k < taps; ++k) {
        weight[k][c] = input.weight[(channel + c) * taps + k];
        weight_sum[k][c] = T(0);
      }
      bias[c] = input.bias == nullptr ? T(0) : input.bias[channel + c];
      bias_sum[c] = T(0);
    }
    for (Index s = 0; s < batch.sequences; ++s) {
      const Index begin = batch.begin[s], rows = batch.begin[s + 1] - begin;
      const T* const in = input.in + begin * input.stride + channel;
      T* const du = slope + begin * channels + channel;
      for (Index i = 0; i < rows; ++i) {
        const int first = static_cast<int>(larger(0, taps - 1 - i));  // the first tap that meets a row
        T* const d = du + i * channels;
        if constexpr (silu) {
          T sum[count];
          for (int c = 0; c < count; ++c) sum[c] = bias[c];
          for (int k = first; k < taps; ++k) {
            const T* const from = in + (i - (taps - 1) + k) * input.stride;
            for (int c = 0; c < count; ++c) sum[c] += weight[k][c] * from[c];
          }
          for (int c = 0; c < count; ++c) {
            const T gate = math::sigmoid(sum[c]);
            d[c] *= gate * (T(1) + sum[c] * (T(1) - gate));
          }
        }
        for (int k = first; k < taps; ++k) {
          const T* const from = in + (i - (taps - 1) + k) * input.stride;
          for (int c = 0; c < count; ++c) weight_sum[k][c] += d[c] * from[c];
        }
        for (int c = 0; c < count; ++c) bias_sum[c] += d[c];
      }
      for (Index i = 0; i < rows; ++i) {
        T sum[count] = {};
        for (int k = taps - 1; k >= 0; --k) {
          const Index later = i + (taps - 1) - k;
          if (later >= rows) break;
          const T* const d = du + later * channels;
          for (int c = 0; c < count; ++c) sum[c] += weight[k][c] * d[c];
        }
        T* const to = d_in + (begin + i) * d_stride + channel;
        for (int c = 0; c < count; ++c) to[c] = sum[c];
      }
    }
    for (int c = 0; c < count; ++c) {
      for (int k = 0; k < taps; ++k) d_weight[(channel + c) * taps + k] += weight_sum[k][c];
      if (d_bias != nullptr) d_bias[channel + c] += bias_sum[c];
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

  /// Whole sequences. slope[rows, channels]: ∂/∂out, overwritten by ∂/∂u. d_in (row stride d_stride) =; d_weight and d_bias
  /// (null without a bias) +=.
  HYBRIDMOE_FUNCTION static void backward(const Space& space, const Batch& batch, const ConvolveInput<T>& input, T* slope, T* d_in,
                                          Index d_stride, T* d_weight, T* d_bias) {
    using Kernel = ConvolveBackwardKernel<T, channels, taps, silu>;
    space.each(Kernel::blocks, Kernel{batch, input, slope, d_in, d_stride, d_weight, d_bias});
  }
};

}  // namespace hybridmoe::ops
