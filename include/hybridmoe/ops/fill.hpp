#pragma once
/// @file fill.hpp
/// Setting, copying and adding whole buffers.

#include <hybridmoe/core/index.hpp>
#include <hybridmoe/exec/space.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::ops {

/// Elements of one item of these kernels.
inline constexpr Index fill_block = 8192;

template <class T>
struct ZeroKernel {
  Index count;
  T* to;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(count, (item + 1) * fill_block);
    for (Index i = item * fill_block; i < last; ++i) to[i] = T(0);
  }
};

template <class T>
struct CopyKernel {
  Index count;
  const T* from;
  T* to;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(count, (item + 1) * fill_block);
    for (Index i = item * fill_block; i < last; ++i) to[i] = from[i];
  }
};

template <class T>
struct AddKernel {
  Index count;
  const T* from;
  T* to;
  HYBRIDMOE_FUNCTION HYBRIDMOE_INLINE void operator()(Index item) const {
    const Index last = smaller(count, (item + 1) * fill_block);
    for (Index i = item * fill_block; i < last; ++i) to[i] += from[i];
  }
};

/// to[count] = 0
template <class Space, class T>
HYBRIDMOE_FUNCTION void zero(const Space& space, Index count, T* to) {
  space.each(divide_up(count, fill_block), ZeroKernel<T>{count, to});
}

/// to[count] = from[count]
template <class Space, class T>
HYBRIDMOE_FUNCTION void copy(const Space& space, Index count, const T* from, T* to) {
  space.each(divide_up(count, fill_block), CopyKernel<T>{count, from, to});
}

/// to[count] += from[count]
template <class Space, class T>
HYBRIDMOE_FUNCTION void add(const Space& space, Index count, const T* from, T* to) {
  space.each(divide_up(count, fill_block), AddKernel<T>{count, from, to});
}

}  // namespace hybridmoe::ops
