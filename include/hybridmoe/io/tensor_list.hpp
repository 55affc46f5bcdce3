#pragma once
/// @file tensor_list.hpp
/// Tensors in memory under their names: what is saved, and where what is loaded goes. A list is a visitor: a layer's or model's
/// `visit(list, at, parameters)` fills it.

#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include <hybridmoe/core/visit.hpp>
#include <hybridmoe/io/dtype.hpp>
#include <hybridmoe/io/shape.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// One of our tensors; Memory is std::byte or const std::byte.
template <class Memory>
struct TensorViewOf {
  std::string name;
  Dtype dtype = Dtype::f32;
  Shape shape;
  Memory* data = nullptr;
};

/// Tensors in the order of adding, found by name.
template <class Memory>
class TensorListOf {
 public:
  template <class T>
  void add(std::string name, const Shape& shape, T* data) {
    static_assert(std::is_const_v<Memory> || !std::is_const_v<T>, "use a ConstTensorList for tensors that are only read");
    numbers_.emplace(name, size());
    tensors_.push_back({std::move(name), dtype_of<T>, shape, reinterpret_cast<Memory*>(data)});
  }
  /// What visit() calls.
  template <class Tensor>
  void operator()(const Name& name, const Trait&, Tensor& tensor) {
    add(name.text(), shape_of<Tensor>, tensor.data);
  }

  Index size() const { return to_index(tensors_.size()); }
  const TensorViewOf<Memory>& operator[](Index i) const { return tensors_[to_size(i)]; }
  auto begin() const { return tensors_.begin(); }
  auto end() const { return tensors_.end(); }
  const TensorViewOf<Memory>* find(std::string_view name) const {
    const auto at = numbers_.find(name);
    return at == numbers_.end() ? nullptr : &tensors_[to_size(at->second)];
  }

 private:
  std::vector<TensorViewOf<Memory>> tensors_;
  std::map<std::string, Index, std::less<>> numbers_;
};

using TensorView = TensorViewOf<std::byte>;
using TensorList = TensorListOf<std::byte>;             ///< to load into
using ConstTensorList = TensorListOf<const std::byte>;  ///< to save from

}  // namespace hybridmoe::io
