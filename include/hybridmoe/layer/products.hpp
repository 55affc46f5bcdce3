#pragma once
/// @file products.hpp
/// What layers say about their products with weights.

#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/layer/layer.hpp>
#include <hybridmoe/ops/matmul.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Scratch of products with one weight [out, in]. Packed weights need none in forward.
template <class T, class Storage, Index out, Index in>
constexpr Index product_workspace(Extent e) {
  if (std::is_same_v<Storage, Packed> && !e.training) return 0;
  return ops::Matmul<exec::Inline, T, out, in>::workspace_bytes(e.rows, e.training);
}

/// The first element of an optional tensor, or null where it is absent.
template <class T, bool present, class Tensor>
HYBRIDMOE_FUNCTION constexpr auto first_element(Tensor& tensor) {
  if constexpr (present)
    return &tensor[0];
  else
    return static_cast<T*>(nullptr);
}

}  // namespace hybridmoe
