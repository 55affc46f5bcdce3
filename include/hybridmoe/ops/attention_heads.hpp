#pragma once
/// @file attention_heads.hpp
/// Around attention's core: normalise each head of query and key, apply positions, scale the query, store keys and values; and
/// the way back.

#include <hybridmoe/core/batch.hpp>
#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/ops/elementwise.hpp>
#include <hybridmoe/ops/key_store.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Rows of one item of these kernels.
inline constexpr Index head_rows = 8;

/// Σ a·b with eight running sums and a fixed tree: one shape for every caller.
template <int size, class T>
HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE T dot(const T* a, const T* b) {
  T lane[8] = {};
  constexpr int whole = size / 8 * 8;
  for (int i = 0; i < whole; i += 8)
    for (int j = 0; j < 8; ++j) lane[j] += a[i + j] * b[i + j];
  for (int i = whole; i < size; ++i) lane[i - whole] += a[i] * b[i];
  return tree_sum<8>(lane);
}

/// query → ready (normalised, rotated, scaled); key, value → store. One item: head_rows rows.
/// HeadNorm::apply<size>(x, gain) normalises one head vector in place.
template <class T, int heads, int kv_heads, int size, class Position, class HeadNorm>
struct StoreHeads {
  Batch batch;
  const T* query;       ///< [rows, heads·size]
  const T* key;         ///< [rows, kv_heads·size]
  const T* value;       ///< [rows, kv_heads·size]
  const T* query_gain;  ///< [size] or null
  const T* key_gain;    ///< [size] or null
  T scale;
  T* ready;  ///< [rows, heads·size]
  KeyStores<T, size, kv_heads> stores;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * head_rows);
    for (Index row = item * head_rows; row < last; ++row) {
      const Index sequence = batch.row_sequence[row], position = batch.row_position[row];
      T cosine[size / 2 + 1], sine[size / 2 + 1], head[size];
      Position::template table<size>(position, cosine, sine);
      for (Index h = 0; h < heads; ++h) {
        const T* from = query + (row * heads + h) * size;
        for (int i = 0; i < size; ++i) head[i] = from[i];
        HeadNorm::template apply<size>(head, query_gain);
        Position::template rotate<size>(head, cosine, sine);
        T* to = ready + (row * heads + h) * size;
        for (int i = 0; i < size; ++i) to[i] = head[i] * scale;
      }
      const KeyStore<T, size> store =
          stores.of(sequence, batch.begin[sequence], stores.state_base == nullptr ? 0 : batch.slot[sequence]);
      const Index tile = position / key_tile, lane = position % key_tile;
      for (Index h = 0; h < kv_heads; ++h) {
        const T* from = key + (row * kv_heads + h) * size;
        for (int i = 0; i < size; ++i) head[i] = from[i];
        HeadNorm::template apply<size>(head, key_gain);
        Position::template rotate<size>(head, cosine, sine);
        T* keys = store.key_at(h, tile) + lane;
        for (int i = 0; i < size; ++i) keys[i * key_tile] = head[i];
        const T* source = value + (row * kv_heads + h) * size;
        T* values = store.value_at(h, tile) + lane * size;
        for (int i = 0; i < size; ++i) values[i] = source[i];
      }
    }
  }
};

/// The gradients of one kind of heads (queries or keys) back through scale, rotation and normalisation, in place: on entry `d`
/// is by the ready vector, on return by the projection's output. Per-item sums of the gain's gradient go to `partial`.
template <class T, int heads, int size, class Position, class HeadNorm>
struct UnstoreHeads {
  Batch batch;
  const T* input;  ///< [rows, heads·size] the projection's output
  const T* gain;   ///< [size] or null
  T scale;
  T* d;        ///< [rows, heads·size]
  T* partial;  ///< [items, size] or null

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(batch.rows, (item + 1) * head_rows);
    T sum[size] = {};
    for (Index row = item * head_rows; row < last; ++row) {
      T cosine[size / 2 + 1], sine[size / 2 + 1];
      Position::template table<size>(batch.row_position[row], cosine, sine);
      for (Index h = 0; h < heads; ++h) {
        T* const head = d + (row * heads + h) * size;
        for (int i = 0; i < size; ++i) head[i] *= scale;
        Position::template unrotate<size>(head, cosine, sine);
        HeadNorm::template backward<size>(input + (row * heads + h) * size, gain, head, sum);
      }
    }
    if (partial != nullptr)
      for (int i = 0; i < size; ++i) partial[item * size + i] = sum[i];
  }
};

/// total[size] += Σ over items of partial[items, size], in order. One item.
template <class T, int size>
struct SumPartials {
  Index items;
  const T* partial;
  T* total;

  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index) const {
    for (Index item = 0; item < items; ++item)
      for (int i = 0; i < size; ++i) total[i] += partial[item * size + i];
  }
};

/// Heads as they are.
struct PlainHeads {
  static constexpr bool active = false;
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void apply(T*, const T*) {}
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void backward(const T*, const T*, T*, T*) {}
};

/// Each head divided by its root mean square (QK-norm: Henry et al. 2020; per-head RMS as in Qwen3), then times a gain if any.
/// @tparam inverse_epsilon  1/ε; ε is added to the mean square
template <Index inverse_epsilon>
struct RmsHeads {
  static constexpr bool active = true;

  template <int size, class T>
  HYBRIDMOE_FUNCTION static T inverse_rms(const T* x) {
    return T(1) / math::sqrt(dot<size>(x, x) / T(size) + T(1) / T(inverse_epsilon));
  }
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void apply(T* x, const T* gain) {
    const T r = inverse_rms<size>(x);
    for (int i = 0; i < size; ++i) x[i] = x[i] * r * (gain == nullptr ? T(1) : gain[i]);
  }
  /// d: in, by the output; out, by x. gain_sum += d·x·r.
  template <int size, class T>
  HYBRIDMOE_FUNCTION static void backward(const T* x, const T* gain, T* d, T* gain_sum) {
    const T r = inverse_rms<size>(x);
    if (gain != nullptr)
      for (int i = 0; i < size; ++i) {
        gain_sum[i] += d[i] * x[i] * r;
        d[i] *= gain[i];
      }
    const T correction = dot<size>(d, x) * r * r * r / T(size);
    for (int i = 0; i < size; ++i) d[i] = d[i] * r - x[i] * correction;
  }
};

}  // namespace hybridmoe::ops
