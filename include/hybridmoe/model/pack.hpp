#pragma once
/// @file pack.hpp
/// Flat tensors to packed ones and back.

#include <hybridmoe/core/visit.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// A visitor of a flat and a packed buffer in step: weights become panels, everything else is copied.
struct PackTensors {
  template <class T, Index out, Index in>
  void operator()(const Name&, const Trait&, const Array<T, out, in>& flat, Panels<T, out, in>& panels) const {
    for (Index i = 0; i < panels.size; ++i) panels.data[i] = T(0);
    for (Index row = 0; row < out; ++row)
      for (Index k = 0; k < in; ++k)
        panels.data[(row / panel_width * in + k) * panel_width + row % panel_width] = flat.data[row * in + k];
  }
  template <class T, Index out, Index in>
  void operator()(const Name& name, const Trait& trait, const Array<T, out, in>& flat, BothSides<T, out, in>& both) const {
    (*this)(name, trait, flat, both.panels);
    (*this)(name, trait, flat, both.rows);
  }
  template <class T, Index... extents>
  void operator()(const Name&, const Trait&, const Array<T, extents...>& flat, Array<T, extents...>& same) const {
    for (Index i = 0; i < flat.size; ++i) same.data[i] = flat.data[i];
  }
};

}  // namespace hybridmoe
