#pragma once
/// @file stand_in.hpp
/// Kernels of the stand-in for the experts that a budget took away: (1 − G)·V·h, where G = min(1, (Σg + 0.01)/(Σg° + 0.01))
/// compares the weights that a row got with those it would have got without budget and controller (router::Unbounded), which are
/// fewer only where the threshold at β = 1 is out of step, as in training at another budget alone; and of the distillation
/// by which V learns, on every eighth position, ‖(1 − G)·V·h − (R° − R)‖², R = Σ g·E(x), R° = Σ g°·E(x), relative to ‖R°‖².

#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/router/router.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

inline constexpr Index stand_in_rows = 32;
inline constexpr double stand_in_floor = 0.01;
/// One of so many positions is distilled.
inline constexpr Index distilled_every = 8;

/// At most so many rows of a call are distilled: a sequence's positions follow one another.
HYBRIDMOE_FUNCTION constexpr Index distilled_rows(Extent e) {
  return smaller(e.rows, divide_up(e.rows, distilled_every) + e.sequences);
}

/// Σ of a row's weights, in the order of its experts.
template <Index most, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T sum_of_weights(const Index* expert, const T* weight) {
  T sum = 0;
  for (Index i = 0; i < most && expert[i] >= 0; ++i) sum += weight[i];
  return sum;
}

/// 1 − G of each row, and a list of one expert (the stand-in) where that is not 0.
template <class T, Index most>
struct StandInKernel {
  Index rows;
  const Index* expert;
  const T *weight, *unbounded;
  Index* use;
  T* rest;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * stand_in_rows);
    for (Index row = item * stand_in_rows; row < end; ++row) {
      const T got = sum_of_weights<most>(expert + row * most, weight + row * most);
      const bool lacks = !(got >= unbounded[row]);  // not a number: yes, so that it is handed on
      rest[row] = lacks ? T(1) - (got + T(stand_in_floor)) / (unbounded[row] + T(stand_in_floor)) : T(0);
      use[row] = lacks ? 0 : -1;
    }
  }
};

/// From the gradient by 1 − G to those by the weights (added) and by the unbounded sum (assigned), and the price of weights.
template <class T, Index most>
struct StandInBackwardKernel {
  Index rows;
  const Index* expert;
  const T *weight, *unbounded, *d_rest;  ///< unbounded and d_rest null: no stand-in; d_rest 0 in rows that do without it
  StreamRows<T> target;
  double price;  ///< of an expert of a row whose target is 0
  T factor;      ///< call.auxiliary/rows
  T *dweight, *d_unbounded;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * stand_in_rows);
    for (Index row = item * stand_in_rows; row < end; ++row) {
      T d = factor * price_of(price, target.at(row, 0, T(1)));
      if (d_rest != nullptr) {
        const T got = sum_of_weights<most>(expert + row * most, weight + row * most) + T(stand_in_floor);
        const T by_got = -d_rest[row] / (unbounded[row] + T(stand_in_floor));
        d += by_got;
        d_unbounded[row] = -by_got * got / (unbounded[row] + T(stand_in_floor));
      }
      for (Index i = row * most; i < (row + 1) * most && expert[i] >= 0; ++i) dweight[i] += d;
    }
  }
};

/// Lists the rows that are distilled.
struct DistilledKernel {
  Index rows, layer;
  const Index* position;
  Index* use;  ///< [rows] 0 or −1

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index end = smaller(rows, (item + 1) * stand_in_rows);
    for (Index row = item * stand_in_rows; row < end; ++row)
      use[row] = (position[row] + 3 * layer) % distilled_every == 0 ? 0 : -1;
  }
};

/// For each distilled row its x and the experts that only the distillation needs. One item: a row.
template <class T, Index width, Index most>
struct MissingKernel {
  const Index *count, *source;
  const Index *expert, *unbounded;  ///< [rows, most] lists
  const T* x;
  Index* missing;  ///< [distilled rows, most]
  T* x_there;      ///< [distilled rows, width]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index i) const {
    Index filled = 0;
    if (i < *count) {
      const Index row = source[i];
      const Index *const had = expert + row * most, *const all = unbounded + row * most;
      Index at = 0;
      for (Index j = 0; j < most && all[j] >= 0; ++j) {
        while (at < most && had[at] >= 0 && had[at] < all[j]) ++at;
        if (at < most && had[at] == all[j]) continue;
        missing[i * most + filled++] = all[j];
      }
      for (Index c = 0; c < width; ++c) x_there[i * width + c] = x[row * width + c];
    }
    for (; filled < most; ++filled) missing[i * most + filled] = -1;
  }
};

/// The weight of an expert in a list, 0 if it is not there.
template <Index most, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T weight_of(Index e, const Index* expert, const T* weight) {
  for (Index i = 0; i < most && expert[i] >= 0; ++i)
    if (expert[i] == e) return weight[i];
  return T(0);
}

/// What the stand-in gives less than what it stands for, and the squares of that and of R°. One item: a distilled row.
template <class T, Index width, Index most>
struct ResidualKernel {
  const Index *count, *source;
  const Index *expert, *unbounded;
  const T *weight, *unbounded_weight;
  const Index *place, *missing, *missing_place;  ///< where outputs of experts lie: [rows, most]; [distilled rows, most] twice
  const T *out, *missing_out;
  const Index* stand_in_place;  ///< [rows]
  const T *rest, *stand_in_out;
  T *residual, *whole, *squares;  ///< [distilled rows, width] twice, [distilled rows, 2]

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index i) const {
    if (i >= *count) return;
    const Index row = source[i];
    T *const r = residual + i * width, *const full = whole + i * width;
    const Index stand = stand_in_place[row];
    for (Index c = 0; c < width; ++c) {
      r[c] = stand < 0 ? T(0) : rest[row] * stand_in_out[stand * width + c];
      full[c] = 0;
    }
    const Index* const all = unbounded + row * most;
    const T* const all_weight = unbounded_weight + row * most;
    for (Index j = 0; j < most && expert[row * most + j] >= 0; ++j) {
      const T wanted = weight_of<most>(expert[row * most + j], all, all_weight), more = wanted - weight[row * most + j];
      add(out + place[row * most + j] * width, more, wanted, r, full);
    }
    for (Index j = 0; j < most && missing[i * most + j] >= 0; ++j) {
      const T wanted = weight_of<most>(missing[i * most + j], all, all_weight);
      add(missing_out + missing_place[i * most + j] * width, wanted, wanted, r, full);
    }
    squares[2 * i] = ops::sum_of_squares(r, width);
    squares[2 * i + 1] = ops::sum_of_squares(full, width);
  }
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE static void add(const T* from, T more, T wanted, T* r, T* full) {
    for (Index c = 0; c < width; ++c) {
      r[c] -= more * from[c];
      full[c] += wanted * from[c];
    }
  }
};

/// The loss, and twice the factor of each row's square in it.
template <class T>
struct DistilKernel {
  const Index* count;
  const T* squares;
  T *loss, *factor;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    T missed = 0, whole = 0;
    for (Index i = 0; i < *count; ++i) {
      missed += squares[2 * i];
      whole += squares[2 * i + 1];
    }
    const T share = *count > 0 ? T(1) / static_cast<T>(*count) : T(0);
    const T scale = share / (whole * share + T(1e-6));
    *loss = missed * scale;
    *factor = T(2) * scale;
  }
};

/// d_out[place] += factor·(1 − G)·residual. One item: a distilled row.
template <class T, Index width>
struct DistilBackwardKernel {
  const Index *count, *source, *stand_in_place;
  T auxiliary;
  const T *factor, *rest, *residual;
  T* d_out;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index i) const {
    if (i >= *count) return;
    const Index row = source[i], place = stand_in_place[row];
    if (place < 0) return;
    const T scale = auxiliary * *factor * rest[row];
    for (Index c = 0; c < width; ++c) d_out[place * width + c] += scale * residual[i * width + c];
  }
};

/// Σ of the price of weights and slices over a block of rows, then over the blocks, with the other auxiliary losses.
inline constexpr Index price_block = 64;
template <class T, Index most>
struct PriceKernel {
  Index rows;
  StreamRows<T> target;
  double of_expert, of_slice;
  const Index* expert;
  const T *weight, *slices;
  T* partial;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index block) const {
    T sum = 0;
    const Index end = smaller(rows, (block + 1) * price_block);
    for (Index row = block * price_block; row < end; ++row) {
      const T q = target.at(row, 0, T(1));
      sum += price_of(of_expert, q) * sum_of_weights<most>(expert + row * most, weight + row * most) +
             price_of(of_slice, q) * slices[row];
    }
    partial[block] = sum;
  }
};
template <class T>
struct AuxiliaryKernel {
  Index rows, blocks;
  const T *partial, *router, *distil;  ///< distil null: none
  T coefficient;
  T* value;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    T sum = 0;
    for (Index block = 0; block < blocks; ++block) sum += partial[block];
    *value = *router + (rows > 0 ? sum / static_cast<T>(rows) : T(0)) + (distil == nullptr ? T(0) : coefficient * *distil);
  }
};

}  // namespace hybridmoe::channel
