#pragma once
/// @file tensors.hpp
/// Models as lists of tensors under our names, of the fixtures' sizes, for the tests of names and layouts.

#include <catch2/catch_test_macros.hpp>

#include <deque>

#include <hybridmoe/io/families.hpp>
#include <hybridmoe/io/load.hpp>
#include <hybridmoe/io/safetensors.hpp>

#include "support.hpp"

namespace support {

using hybridmoe::Result;
using hybridmoe::Status;
using io::Family;
using io::FileTensor;
using io::SafetensorsFile;
using io::Shape;
using io::TensorInfo;
using io::TensorList;

inline Shape shape(std::initializer_list<Index> extents) {
  Shape result;
  for (const Index extent : extents) result.extent[to_size(result.rank++)] = extent;
  return result;
}

/// A model as its tensors alone, all elements −77 to begin with.
struct Tensors {
  TensorList list;
  std::deque<std::vector<float>> memory;

  float* add(const std::string& name, std::initializer_list<Index> extents) {
    const Shape s = shape(extents);
    memory.emplace_back(to_size(s.elements()), -77.0f);
    list.add(name, s, memory.back().data());
    return memory.back().data();
  }
  const float* operator[](const std::string& name) const { return reinterpret_cast<const float*>(list.find(name)->data); }
  bool untouched() const {
    for (const std::vector<float>& tensor : memory) {
      for (const float value : tensor) {
        if (value != -77.0f) return false;
      }
    }
    return true;
  }
};

/// Sizes of the fixtures.
struct Sizes {
  Index vocab, width, heads, kv, size, hidden, experts = 0;
};

inline Tensors llama_like(const Sizes& s, bool tied = false) {
  Tensors t;
  t.add("embedding.weight", {s.vocab, s.width});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    t.add(layer + "mixer_norm.weight", {s.width});
    t.add(layer + "mixer.query.weight", {s.heads * s.size, s.width});
    t.add(layer + "mixer.key.weight", {s.kv * s.size, s.width});
    t.add(layer + "mixer.value.weight", {s.kv * s.size, s.width});
    t.add(layer + "mixer.output.weight", {s.width, s.heads * s.size});
    t.add(layer + "channel_norm.weight", {s.width});
    if (s.experts > 0) t.add(layer + "channel.router.weight", {s.experts, s.width});
    for (Index e = 0; e < (s.experts > 0 ? s.experts : 1); ++e) {
      const std::string mlp = layer + "channel." + (s.experts > 0 ? "experts." + std::to_string(e) + "." : "");
      t.add(mlp + "gate.weight", {s.hidden, s.width});
      t.add(mlp + "up.weight", {s.hidden, s.width});
      t.add(mlp + "down.weight", {s.width, s.hidden});
    }
  }
  t.add("final_norm.weight", {s.width});
  if (!tied) t.add("head.weight", {s.vocab, s.width});
  return t;
}

inline Tensors gpt2_like(Index vocab = 101, Index context = 44, Index width = 36, Index hidden = 50) {
  Tensors t;
  t.add("embedding.weight", {vocab, width});
  t.add("position.weight", {context, width});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    for (const char* norm : {"mixer_norm", "channel_norm"}) {
      t.add(layer + norm + ".weight", {width});
      t.add(layer + norm + ".bias", {width});
    }
    for (const char* projection : {"query", "key", "value", "output"}) {
      t.add(layer + "mixer." + projection + ".weight", {width, width});
      t.add(layer + "mixer." + projection + ".bias", {width});
    }
    t.add(layer + "channel.up.weight", {hidden, width});
    t.add(layer + "channel.up.bias", {hidden});
    t.add(layer + "channel.down.weight", {width, hidden});
    t.add(layer + "channel.down.bias", {width});
  }
  t.add("final_norm.weight", {width});
  t.add("final_norm.bias", {width});
  return t;
}

inline Tensors mamba2_like() {
  Tensors t;
  t.add("embedding.weight", {97, 32});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    t.add(layer + "mixer_norm.weight", {32});
    t.add(layer + "mixer.input.weight", {172, 32});
    t.add(layer + "mixer.convolution.weight", {104, 4});
    t.add(layer + "mixer.convolution.bias", {104});
    t.add(layer + "mixer.step_bias", {4});
    t.add(layer + "mixer.decay_log", {4});
    t.add(layer + "mixer.skip", {4});
    t.add(layer + "mixer.norm.weight", {64});
    t.add(layer + "mixer.output.weight", {32, 64});
  }
  t.add("final_norm.weight", {32});
  t.add("head.weight", {97, 32});
  return t;
}

inline SafetensorsFile opened(const std::string& path) {
  Result<SafetensorsFile> file = SafetensorsFile::open(path);
  if (!file) FAIL(file.error().message());
  return std::move(file).value();
}

inline std::vector<float> values(const SafetensorsFile& file, const std::string& name) {
  const std::optional<TensorInfo> tensor = file.find(name);
  if (!tensor) FAIL("no " << name);
  std::vector<float> result(to_size(tensor->shape.elements()));
  REQUIRE(file.read(*tensor, result.data()));
  return result;
}

inline void load(const SafetensorsFile& file, const Tensors& tensors, const Family& family) {
  const Status done = io::load_tensors(file, tensors.list, family);
  if (!done) FAIL(done.error().message());
  for (const std::vector<float>& tensor : tensors.memory) {
    for (const float value : tensor) REQUIRE(value != -77.0f);
  }
}

/// Our tensors, put together again, are the file's tensors: all of them, with their shapes.
inline void compare_assembled(const SafetensorsFile& file, const Tensors& tensors, const Family& family) {
  Result<std::vector<FileTensor>> layout = io::file_layout(tensors.list, family);
  REQUIRE(layout);
  CHECK(to_index(layout->size()) == file.size());
  for (const FileTensor& tensor : *layout) {
    CAPTURE(tensor.name);
    REQUIRE(file.find(tensor.name));
    CHECK(tensor.shape == file.find(tensor.name)->shape);
    std::vector<float> made(to_size(tensor.shape.elements()), -77.0f);
    REQUIRE(io::assemble(tensor, tensors.list, made.data()));
    CHECK(made == values(file, tensor.name));
  }
}

/// Whether ours[r, c] = theirs[c, first + r] of a matrix with `columns` columns.
inline bool is_transposed(const float* ours, Index rows, Index width, const std::vector<float>& theirs, Index columns,
                          Index first) {
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < width; ++c) {
      if (ours[r * width + c] != theirs[to_size(c * columns + first + r)]) return false;
    }
  }
  return true;
}
inline bool is_equal(const float* ours, const std::vector<float>& theirs) {
  return std::equal(theirs.begin(), theirs.end(), ours);
}

}  // namespace support
