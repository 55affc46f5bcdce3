#pragma once
/// @file dropout.hpp
/// Residual addition with dropout (Srivastava et al. 2014). The mask is a pure function of (key, stream, row, column): backward
/// and recomputation draw it again instead of storing it, and it does not depend on threads.

#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Where a mask applies: rate 0 keeps everything.
struct DropoutMask {
  random::Key key{};
  std::uint64_t stream = 0;
  float rate = 0;
};

/// Columns that one group of mask words covers: 16 Philox blocks of eight 16-bit numbers.
inline constexpr Index mask_columns = 128;

/// factor[j] = 0 or 1/(1−rate) for columns column … column+127 of a row; the rate counts in whole 65536ths, rounded down.
template <class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void draw_mask(const DropoutMask& mask, Index row, Index column, T* factor) {
  constexpr int lanes = 16;
  std::uint32_t w0[lanes], w1[lanes], w2[lanes], w3[lanes];
  for (int i = 0; i < lanes; ++i) {
    w0[i] = static_cast<std::uint32_t>(column / 8 + i);
    w1[i] = static_cast<std::uint32_t>(row);
    w2[i] = static_cast<std::uint32_t>(mask.stream);
    w3[i] = static_cast<std::uint32_t>(mask.stream >> 32);
  }
  // random::philox on 16 counters side by side, so that the compiler can use vector registers.
  std::uint32_t low = mask.key.low, high = mask.key.high;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < lanes; ++i) {
      const std::uint64_t a = std::uint64_t{0xD2511F53u} * w0[i];
      const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * w2[i];
      w0[i] = static_cast<std::uint32_t>(b >> 32) ^ w1[i] ^ low;
      w1[i] = static_cast<std::uint32_t>(b);
      w2[i] = static_cast<std::uint32_t>(a >> 32) ^ w3[i] ^ high;
      w3[i] = static_cast<std::uint32_t>(a);
    }
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  const std::uint32_t limit = static_cast<std::uint32_t>(mask.rate * 65536.0f);
  const T keep = T(1) / (T(1) - T(limit) / T(65536));
  for (int i = 0; i < lanes; ++i) {
    factor[0 * lanes + i] = (w0[i] & 0xffffu) < limit ? T(0) : keep;
    factor[1 * lanes + i] = (w0[i] >> 16) < limit ? T(0) : keep;
    factor[2 * lanes + i] = (w1[i] & 0xffffu) < limit ? T(0) : keep;
    factor[3 * lanes + i] = (w1[i] >> 16) < limit ? T(0) : keep;
    factor[4 * lanes + i] = (w2[i] & 0xffffu) < limit ? T(0) : keep;
    factor[5 * lanes + i] = (w2[i] >> 16) < limit ? T(0) : keep;
    factor[6 * lanes + i] = (w3[i] & 0xffffu) < limit ? T(0) : keep;
    factor[7 * lanes + i] = (w3[i] >> 16) < limit ? T(0) : keep;
  }
}

/// Rows of one item of these kernels.
inline constexpr Index dropout_rows = 16;

/// y = residual + mask ⊙ branch; without a residual y = mask ⊙ branch. y may be residual or branch.
template <class T, Index width>
struct AddDropped {
  Index rows;
  const T* residual;  ///< or null
  const T* branch;
  T* y;
  DropoutMask mask;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(rows, (item + 1) * dropout_rows);
    for (Index row = item * dropout_rows; row < last; ++row)
      for (Index column = 0; column < width; column += mask_columns) {
        T factor[mask_columns];
        if (mask.rate > 0)
          draw_mask(mask, row, column, factor);
        else
          for (Index j = 0; j < mask_columns; ++j) factor[j] = T(1);
        const Index count = smaller(mask_columns, width - column), at = row * width + column;
        if (residual != nullptr)
          for (Index j = 0; j < count; ++j) y[at + j] = residual[at + j] + factor[j] * branch[at + j];
        else
          for (Index j = 0; j < count; ++j) y[at + j] = factor[j] * branch[at + j];
      }
  }
};

template <Index width, class Space, class T>
HYBRIDMOE_FUNCTION void add_dropped(const Space& space, Index rows, const T* residual, const T* branch, T* y,
                                    const DropoutMask& mask) {
  space.each(divide_up(rows, dropout_rows), AddDropped<T, width>{rows, residual, branch, y, mask});
}

}  // namespace hybridmoe::ops
