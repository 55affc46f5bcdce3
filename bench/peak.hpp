#pragma once
// What a processor could do at most, measured: multiply-adds between registers, and memory read in order.

#include <hybridmoe/hybridmoe.hpp>

namespace bench {

namespace hm = hybridmoe;
namespace cpu = hm::ops::cpu;
using hm::Index;

using Lanes = cpu::Vector<float, cpu::register_lanes<float>>;
inline constexpr Index lanes = cpu::register_lanes<float>;

/// One item: fused multiply-adds of registers, as many sums at once as leave room for the factors. Items are short and many, as a
/// product's are: a thread that is interrupted costs both alike.
struct FmaKernel {
  static constexpr int sums = cpu::register_count == 32 ? 24 : 12;
  static constexpr Index steps = 10'000, items = 64;
  static constexpr double flops = 2.0 * sums * lanes * steps;
  float* sink;

  void operator()(Index item) const {
    Lanes sum[sums] = {}, factor = Lanes{} + 0.5f, term = Lanes{} + 1.0f;
    cpu::keep(factor);
    cpu::keep(term);
#pragma GCC unroll 24
    for (int i = 0; i < sums; ++i) cpu::keep(sum[i]);  // equal sums would be made once
    for (Index step = 0; step < steps; ++step) {
#pragma GCC unroll 24
      for (int i = 0; i < sums; ++i) sum[i] = cpu::fused_lanes(factor, term, sum[i]);
    }
#pragma GCC unroll 24
    for (int i = 1; i < sums; ++i) sum[0] += sum[i];
    cpu::store<float, lanes>(sink + item * lanes, sum[0]);
  }
};

/// One item: reads a piece of memory, of `piece` numbers, at `streams` places at once. Which number of streams is fastest depends
/// on the processor's prefetchers.
template <Index streams, Index piece_ = (Index{8} << 20) / Index{sizeof(float)}>
struct ReadKernel {
  static constexpr Index line = 2 * lanes;   // read in one step of a stream
  static constexpr Index ahead = 16 * line;  // prefetched so far before it is read
  static constexpr Index piece = piece_;
  const float* from;
  float* sink;

  void operator()(Index item) const {
    constexpr Index part = piece / streams;
    Lanes sum[streams][2] = {};
    const float* const begin = from + item * piece;
    for (Index at = 0; at < part; at += line) {
#pragma GCC unroll 8
      for (Index s = 0; s < streams; ++s) {
        const float* const here = begin + s * part + at;
        cpu::prefetch(here + ahead);
        cpu::prefetch(here + ahead + lanes);
        sum[s][0] += cpu::load<float, lanes>(here);
        sum[s][1] += cpu::load<float, lanes>(here + lanes);
      }
    }
    Lanes all = {};
#pragma GCC unroll 8
    for (Index s = 0; s < streams; ++s) all += sum[s][0] + sum[s][1];
    cpu::store<float, lanes>(sink + item * lanes, all);
  }
};

}  // namespace bench
