#pragma once
/// @file product.cuh
/// The tile kernel behind all products on CUDA. Every element of the result is one sum over k in ascending order, one fused
/// multiply-add per term, held by one thread: neither tiles nor the number of rows change bits.

#include <Kokkos_Core.hpp>

#include <hybridmoe/core/scalar.hpp>
#include <hybridmoe/core/tensor.hpp>
#include <hybridmoe/exec/on.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops::cuda {

/// Element (i, k) of an operand is data[i·i_stride + k·k_stride].
template <class T, Index i_stride, Index k_stride>
struct Strided {
  static constexpr bool k_is_contiguous = k_stride == 1;  // decides how threads share a tile's loads
  const T* data;
  __device__ T at(Index i, Index k) const { return data[i * i_stride + k * k_stride]; }
};

/// Element (n, k) of a weight in panels.
template <class T, Index in>
struct Panelled {
  static constexpr bool k_is_contiguous = false;
  const T* data;
  __device__ T at(Index n, Index k) const { return data[(n / panel_width * in + k) * panel_width + n % panel_width]; }
};

/// What the rows of `offset` divide among the groups.
enum class Split { nothing, m, k };
/// What a sum starts from.
enum class From { zero, bias, c };

/// c[m, n] = start + Σ_k a(m, k)·b(n, k) for m < rows, n < columns, k < depth. Group g uses b.data + g·b_group and
/// c + g·c_group; offset[g] … offset[g+1]−1 are its m or its k.
template <class T, class A, class B>
struct ProductTask {
  A a;
  B b;
  T* c;
  const T* bias;
  const Index* offset;
  Index rows, columns, depth, b_group, c_group;
};

inline constexpr int tile_columns = 64, tile_depth = 16, product_threads = 256;

/// Loads tile[depth][width], element (i, k) from operand(first + i, k_first + k); what lies outside is zero and never used.
template <int width, class T, class Operand>
__device__ void load_tile(T (&tile)[tile_depth][width + 1], const Operand& operand, Index first, Index last, Index k_first,
                          Index k_last) {
  for (int element = static_cast<int>(threadIdx.x); element < width * tile_depth; element += product_threads) {
    const int i = Operand::k_is_contiguous ? element / tile_depth : element % width;
    const int k = Operand::k_is_contiguous ? element % tile_depth : element / width;
    const bool inside = first + i < last && k_first + k < k_last;
    tile[k][i] = inside ? operand.at(first + i, k_first + k) : T(0);
  }
}

/// One block holds 16·per_thread rows by 64 columns; thread (y, x) of 16 × 16 holds rows y + 16·r and columns x + 16·j.
template <Split split, From from, int per_thread, class T, class A, class B>
__global__ void __launch_bounds__(product_threads) product(const ProductTask<T, A, B> task) {
  constexpr int tile_rows = 16 * per_thread;
  __shared__ T a_tile[tile_depth][tile_rows + 1];
  __shared__ T b_tile[tile_depth][tile_columns + 1];
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  const Index group = blockIdx.z, n_first = Index{blockIdx.x} * tile_columns;
  const Index m_begin = split == Split::m ? task.offset[group] : 0;
  const Index m_end = split == Split::m ? task.offset[group + 1] : task.rows;
  const Index k_begin = split == Split::k ? task.offset[group] : 0;
  const Index k_end = split == Split::k ? task.offset[group + 1] : task.depth;
  const B b{task.b.data + group * task.b_group};
  T* const c = task.c + group * task.c_group;

  for (Index m_first = m_begin + Index{blockIdx.y} * tile_rows; m_first < m_end; m_first += Index{gridDim.y} * tile_rows) {
    T sum[per_thread][4];
    for (int r = 0; r < per_thread; ++r)
      for (int j = 0; j < 4; ++j) {
        const Index m = m_first + y + 16 * r, n = n_first + x + 16 * j;
        const bool inside = m < m_end && n < task.columns;
        sum[r][j] = T(0);
        if (from == From::bias && inside) sum[r][j] = task.bias[n];
        if (from == From::c && inside) sum[r][j] = c[m * task.columns + n];
      }
    for (Index k_first = k_begin; k_first < k_end; k_first += tile_depth) {
      load_tile<tile_rows>(a_tile, task.a, m_first, m_end, k_first, k_end);
      load_tile<tile_columns>(b_tile, b, n_first, task.columns, k_first, k_end);
      __syncthreads();
      const int depth = static_cast<int>(smaller(tile_depth, k_end - k_first));
      for (int k = 0; k < depth; ++k)
        for (int r = 0; r < per_thread; ++r)
          for (int j = 0; j < 4; ++j) sum[r][j] = math::fma(a_tile[k][y + 16 * r], b_tile[k][x + 16 * j], sum[r][j]);
      __syncthreads();
    }
    for (int r = 0; r < per_thread; ++r)
      for (int j = 0; j < 4; ++j) {
        const Index m = m_first + y + 16 * r, n = n_first + x + 16 * j;
        if (m < m_end && n < task.columns) c[m * task.columns + n] = sum[r][j];
      }
  }
}

/// to[columns] += Σ_rows from[rows, columns], rows in ascending order.
template <class T>
__global__ void __launch_bounds__(product_threads) add_rows(Index rows, Index columns, const T* from, T* to) {
  const Index n = Index{blockIdx.x} * product_threads + threadIdx.x;
  if (n >= columns) return;
  T sum = to[n];
  for (Index r = 0; r < rows; ++r) sum += from[r * columns + n];
  to[n] = sum;
}

/// The stream of a space, with its device made current.
inline cudaStream_t stream_of(const exec::On<Kokkos::Cuda>& space) {
  cudaSetDevice(space.instance.cuda_device());
  return space.instance.cuda_stream();
}

/// Starts a product; `most_rows` bounds the rows of any group.
template <Split split, From from, class T, class A, class B>
void launch(const exec::On<Kokkos::Cuda>& space, Index groups, Index most_rows, const ProductTask<T, A, B>& task) {
  if (groups <= 0 || most_rows <= 0) return;
  const auto start = [&](auto per_thread) {
    const Index row_tiles = smaller(divide_up(most_rows, 16 * per_thread.value), 65535);
    const dim3 grid(static_cast<unsigned>(divide_up(task.columns, tile_columns)), static_cast<unsigned>(row_tiles),
                    static_cast<unsigned>(groups));
    product<split, from, per_thread.value><<<grid, product_threads, 0, stream_of(space)>>>(task);
  };
  if (most_rows <= 16)
    start(std::integral_constant<int, 1>{});
  else
    start(std::integral_constant<int, 4>{});
}

}  // namespace hybridmoe::ops::cuda
