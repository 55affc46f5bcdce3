#pragma once
/// @file balance.hpp
/// Auxiliary losses of softmax routers, over the rows of a call:
///   load balance   count·Σ_e f_e·P_e, f_e = share of the rows that chose expert e, P_e = mean probability of e
///                  (Fedus et al., "Switch Transformers", 2021; f sums to k as in Mixtral, so that perfect balance gives k)
///   z-loss         mean of (log Σ_e exp(score_e))² (Zoph et al., "ST-MoE", 2022)

#include <hybridmoe/core/arena.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::router {

/// Rows that one item sums.
inline constexpr Index balance_block = 64;

template <class T, Index count, Index most>
struct BalanceSumKernel {
  Index rows;
  const Index* expert;
  const T *probability, *log_sum;
  T* partial;  // [blocks, 2·count + 1]: rows that chose e, Σ probability of e, Σ log_sum²

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    T sum[2 * count + 1] = {};
    const Index end = smaller(rows, (block + 1) * balance_block);
    for (Index row = block * balance_block; row < end; ++row) {
      for (Index i = 0; i < most && expert[row * most + i] >= 0; ++i) sum[expert[row * most + i]] += T(1);
      for (Index e = 0; e < count; ++e) sum[count + e] += probability[row * count + e];
      sum[2 * count] += log_sum[row] * log_sum[row];
    }
    for (Index i = 0; i < 2 * count + 1; ++i) partial[block * (2 * count + 1) + i] = sum[i];
  }
};

template <class T, Index count>
struct BalanceTotalKernel {
  Index rows, blocks;
  T balance, z;
  const T* partial;
  T *load, *value;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    T sum[2 * count + 1] = {};
    for (Index block = 0; block < blocks; ++block)
      for (Index i = 0; i < 2 * count + 1; ++i) sum[i] += partial[block * (2 * count + 1) + i];
    const T share = rows > 0 ? T(1) / static_cast<T>(rows) : T(0);
    T product = 0;
    for (Index e = 0; e < count; ++e) {
      load[e] = sum[e] * share;
      product += load[e] * (sum[count + e] * share);
    }
    *value = balance * static_cast<T>(count) * product + z * (sum[2 * count] * share);
  }
};

template <class T, Index count>
struct BalanceBackwardKernel {
  Index rows;
  T balance, z;
  const T *probability, *log_sum, *load;
  T* dscore;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    const Index end = smaller(rows, (block + 1) * balance_block);
    for (Index row = block * balance_block; row < end; ++row) {
      const T* p = probability + row * count;
      T mean = 0;
      for (Index e = 0; e < count; ++e) mean += p[e] * load[e];
      const T common = T(2) * z * log_sum[row] - balance * static_cast<T>(count) * mean;
      for (Index e = 0; e < count; ++e)
        dscore[row * count + e] += p[e] * (balance * static_cast<T>(count) * load[e] + common) / static_cast<T>(rows);
    }
  }
};

/// expert: [rows, most] as in Choice; probability: [rows, count]; log_sum: [rows]; balance and z are the losses' coefficients.
template <class Space, class T, Index count, Index most>
struct Balance {
  HYBRIDMOE_FUNCTION static constexpr Index blocks(Index rows) { return divide_up(rows, balance_block); }

  struct Scratch {
    T* partial;
    HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Index rows)
        : partial(arena.template take<T>(blocks(rows) * (2 * count + 1))) {}
  };
  HYBRIDMOE_FUNCTION static constexpr Index workspace_bytes(Index rows) { return planned_bytes<Scratch>(rows); }

  /// load[count] and value[1] (Σ coefficient·loss) are assigned.
  HYBRIDMOE_FUNCTION static void forward(const Space& space, Arena arena, Index rows, T balance, T z, const Index* expert,
                                         const T* probability, const T* log_sum, T* load, T* value) {
    const Scratch scratch(arena, rows);
    space.each(blocks(rows), BalanceSumKernel<T, count, most>{rows, expert, probability, log_sum, scratch.partial});
    space.each(1, BalanceTotalKernel<T, count>{rows, blocks(rows), balance, z, scratch.partial, load, value});
  }
  /// dscore[rows, count] += the gradient of the value by the scores (f is a constant).
  HYBRIDMOE_FUNCTION static void backward(const Space& space, Index rows, T balance, T z, const T* probability, const T* log_sum,
                                          const T* load, T* dscore) {
    space.each(blocks(rows), BalanceBackwardKernel<T, count>{rows, balance, z, probability, log_sum, load, dscore});
  }
};

}  // namespace hybridmoe::router
