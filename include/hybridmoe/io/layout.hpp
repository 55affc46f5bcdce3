#pragma once
/// @file layout.hpp
/// What a file of some family looks like when it holds our tensors: names, shapes, and where each of ours lies inside. Loading
/// compares a file with it; tests and converters fill it in to see weights or gradients under the file's names.

#include <algorithm>
#include <map>
#include <vector>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/io/names.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// A tensor as a file of some family must hold it, and which of our tensors it consists of.
struct FileTensor {
  struct Part {
    Index ours = 0;  ///< number in the list
    Source source;
  };
  std::string name;
  Shape shape;
  std::vector<Part> parts;

  /// Matrices along a first axis that only the file has (1 if there is none).
  Index slabs() const {
    Index most = 1;
    for (const Part& part : parts) most = larger(most, part.source.slab + 1);
    return most;
  }
};

/// Puts the parts of one file tensor together: sets its shape; false if they do not fit together (a fault of the family's rules
/// or of the model).
template <class Memory>
bool join_parts(FileTensor& tensor, const TensorListOf<Memory>& list) {
  const Source& first = tensor.parts.front().source;
  Shape& shape = tensor.shape;
  shape = list[tensor.parts.front().ours].shape;
  const Shape one = shape;
  Index rows = 0;
  for (const FileTensor::Part& part : tensor.parts) {
    const Shape& ours = list[part.ours].shape;
    if (part.source.slab == first.slab) rows += ours.rows();
    if (part.source.transposed != first.transposed || part.source.unit_axis != first.unit_axis || ours.rank != one.rank)
      return false;
    if (tensor.parts.size() > 1 && (one.rank == 0 || ours.row_elements() != one.row_elements())) return false;
  }
  // Every row of the file belongs to one part, and to one only.
  const Index slabs = tensor.slabs();
  if (slabs > to_index(tensor.parts.size())) return false;
  std::vector<bool> taken(to_size(slabs * rows));
  Index left = slabs * rows;
  for (const FileTensor::Part& part : tensor.parts) {
    const Index block = part.source.block, base = larger(part.source.slab, 0) * rows;
    if ((part.source.slab < 0) != (first.slab < 0)) return false;
    for (Index row = 0; row < list[part.ours].shape.rows(); ++row, --left) {
      const Index there = part.source.first + (block > 0 ? row / block * part.source.stride + row % block : row);
      if (there < 0 || there >= rows || taken[to_size(base + there)]) return false;
      taken[to_size(base + there)] = true;
    }
  }
  if (left != 0) return false;
  const auto insert = [&shape](Index axis, Index extent) {
    for (Index i = shape.rank; i > axis; --i) shape.extent[to_size(i)] = shape[i - 1];
    shape.extent[to_size(axis)] = extent;
    ++shape.rank;
  };
  if (shape.rank > 0) shape.extent[0] = rows;
  if (first.transposed) std::swap(shape.extent[0], shape.extent[1]);
  if (shape.rank + (first.slab >= 0) + (first.unit_axis >= 0) > Shape::most) return false;
  if (first.slab >= 0) insert(0, tensor.slabs());
  if (first.unit_axis > shape.rank) return false;
  if (first.unit_axis >= 0) insert(first.unit_axis, 1);
  return true;
}

/// What a file of the family must hold for our tensors, in the order of the list; or an Error that names every tensor that the
/// family does not have.
template <class Memory>
Result<std::vector<FileTensor>> file_layout(const TensorListOf<Memory>& list, const Family& family) {
  std::vector<FileTensor> layout;
  std::map<std::string, std::size_t, std::less<>> numbers;
  std::string faults;
  const auto fault = [&faults](std::string line) { faults += (faults.empty() ? "" : "\n") + line; };
  for (Index i = 0; i < list.size(); ++i) {
    std::optional<Source> source = family.source(list[i], list);
    if (!source) {
      fault("unknown: " + list[i].name + " " + list[i].shape.text());
      continue;
    }
    const auto [at, fresh] = numbers.emplace(source->name, layout.size());
    if (fresh) layout.push_back({source->name, {}, {}});
    layout[at->second].parts.push_back({i, std::move(*source)});
  }
  for (FileTensor& tensor : layout) {
    if (join_parts(tensor, list)) continue;
    std::string line = "not to be joined: " + tensor.name;
    for (const FileTensor::Part& part : tensor.parts) line += " " + list[part.ours].name + " " + list[part.ours].shape.text();
    fault(std::move(line));
  }
  if (faults.empty()) return layout;
  return Error{.code = Code::file_mismatch,
               .what = "the model has tensors that this family of files does not have",
               .where = std::string(family.name),
               .detail = std::move(faults)};
}

/// Calls f(first of ours, first in the file's tensor, count, step in ours) for all runs of elements of ours that are neighbours
/// in the file, until one returns an error.
template <class Body>
Status each_run(const FileTensor& tensor, const FileTensor::Part& part, const Shape& ours, const Body& f) {
  const Source& source = part.source;
  const Index rows = ours.rows(), width = ours.row_elements();
  if (rows == 0 || width == 0) return Done{};
  const Index slab = tensor.shape.elements() / tensor.slabs(), base = larger(source.slab, 0) * slab;
  const Index block = source.block > 0 ? source.block : rows, stride = source.block > 0 ? source.stride : rows;
  for (Index row = 0; row < rows; row += block) {
    const Index there = source.first + row / block * stride, count = smaller(block, rows - row);
    if (!source.transposed) {
      if (Status done = f(row * width, base + there * width, count * width, Index{1}); !done) return done;
      continue;
    }
    const Index across = slab / width;  // a row of the file: one of our columns, of all parts
    for (Index column = 0; column < width; ++column) {
      if (Status done = f(row * width + column, base + column * across + there, count, width); !done) return done;
    }
  }
  return Done{};
}

/// out[shape.elements()] = the file's tensor made of ours, which must be of type T. (Ours are only read.)
template <class T, class Memory>
Status assemble(const FileTensor& tensor, const TensorListOf<Memory>& list, T* out) {
  for (const FileTensor::Part& part : tensor.parts) {
    const TensorViewOf<Memory>& ours = list[part.ours];
    if (ours.dtype != dtype_of<T>) {
      return Error{.code = Code::bad_argument,
                   .what = "a tensor's elements are of another type",
                   .where = ours.name,
                   .detail = "they are " + std::string(name_of(ours.dtype)) + ", wanted as " + std::string(name_of(dtype_of<T>))};
    }
    const T* from = reinterpret_cast<const T*>(ours.data);
    Status done = each_run(tensor, part, ours.shape, [&](Index first, Index there, Index count, Index step) -> Status {
      for (Index i = 0; i < count; ++i) out[there + i] = from[first + i * step];
      return Done{};
    });
    if (!done) return done;
  }
  return Done{};
}

}  // namespace hybridmoe::io
