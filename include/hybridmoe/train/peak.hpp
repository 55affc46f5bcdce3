#pragma once
/// @file peak.hpp
/// What the machine could reach, measured, to say what fraction of it training reaches.

#include <hybridmoe/exec/buffer.hpp>
#include <hybridmoe/ops/tile.hpp>
#include <hybridmoe/train/progress.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

/// One item: repeats a product that stays in the first-level cache.
struct PeakKernel {
  static constexpr int depth = 128;
  static constexpr Index repeats = 2000;
  float* out;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    float a[12 * depth], b[depth * 32], c[12 * 32] = {};
    for (int i = 0; i < 12 * depth; ++i) a[i] = 1e-3f;
    for (int i = 0; i < depth * 32; ++i) b[i] = 1e-3f;
    for (Index r = 0; r < repeats; ++r) ops::tile::multiply_add<float, 32>(12, depth, a, depth, 1, b, 32, c, 32);
    out[item] = c[5];
  }
};

/// FLOP/s of float products from the first-level cache on all of the space's threads: the best of many short runs (a fifth of a
/// second in all, and at least five: a hundredth once met a disturbance that halved it). The library's own kernel does it, so the
/// processor's peak may be a little higher; on a device it is far below, since one item is one thread there. 0 if there is no
/// memory.
template <class Space>
double peak_flops(const Space& space) {
  constexpr Index most = 256;
  const Index threads = smaller(most, static_cast<Index>(space.concurrency()));
  const exec::Buffer<Space> sink(space, threads * static_cast<Index>(sizeof(float)));  // where the space's kernels can write
  if (!sink) return 0;
  double best = 0;
  const Stopwatch all_runs;
  for (int run = 0; run < 5 || all_runs.seconds() < 0.2; ++run) {
    const Stopwatch watch;
    space.each(threads, PeakKernel{sink.template as<float>()});
    space.fence();
    const double flops = 2.0 * 12 * 32 * PeakKernel::depth * static_cast<double>(PeakKernel::repeats * threads) / watch.seconds();
    best = flops > best ? flops : best;
  }
  return best;
}

}  // namespace hybridmoe::train
