#pragma once
/// @file model.hpp
/// A model with its parameters: the description, a number type, a space, and how weights lie.

#include <vector>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/exec/buffer.hpp>
#include <hybridmoe/model/account.hpp>
#include <hybridmoe/model/fingerprint.hpp>
#include <hybridmoe/model/pack.hpp>
#include <hybridmoe/model/start.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Where random starts begin: equal seeds give equal parameters, whatever the space.
struct Seed {
  std::uint64_t value = 0;
};

/// @tparam D        a struct derived from `LanguageModel<…>`
/// @tparam T        f32 or f64
/// @tparam Space_   exec::Inline or `exec::On<…>`
/// @tparam Storage_ Flat (training, files) or Packed (inference; made by pack())
/// @tparam print    keeps two descriptions of one name apart
template <class D, class T, class Space_ = exec::Inline, class Storage_ = Flat, std::uint64_t print = fingerprint<D>()>
class Model {
 public:
  using Description = D;
  using Element = T;
  using Space = Space_;
  using Storage = Storage_;
  using Cost = Account<D>;
  static constexpr Index elements = D::template buffer_elements<T, Storage>();
  static constexpr Index bytes = elements * static_cast<Index>(sizeof(T));

  /// An empty place for parameters: zeros. Test it: allocation can fail.
  explicit Model(Space space = {}) : buffer_(std::move(space), bytes) {}

  /// Parameters started from a seed; every tensor has its own stream, keyed by its name.
  explicit Model(Seed seed, Space space = {})
    requires std::is_same_v<Storage, Flat>
      : Model(std::move(space)) {
    if (!buffer_) return;
    std::vector<T> host(to_size(elements));
    D::template visit<T, Flat>(StartTensors{random::key_of(seed.value), D::layer_count}, Name{}, host.data());
    upload(host.data());
  }

  /// False if memory could not be had.
  explicit operator bool() const { return static_cast<bool>(buffer_); }

  const Space& space() const { return buffer_.space(); }
  /// Where the space's kernels find the parameters.
  T* parameters() const { return buffer_.template as<T>(); }
  /// Copies all parameters from or to host memory of `elements` scalars; waits.
  void upload(const T* host) { buffer_.copy_in(host, bytes); }
  void download(T* host) const { buffer_.copy_out(host, bytes); }

 private:
  exec::Buffer<Space> buffer_;
};

/// The model's parameters in the product kernel's layout, for inference.
template <class D, class T, class Space>
Model<D, T, Space, Packed> pack(const Model<D, T, Space, Flat>& model) {
  Model<D, T, Space, Packed> packed{model.space()};
  if (!packed) return packed;
  std::vector<T> flat(to_size(model.elements)), panels(to_size(packed.elements));
  model.download(flat.data());
  D::template visit<T, Flat, Packed>(PackTensors{}, Name{}, flat.data(), panels.data());
  packed.upload(panels.data());
  return packed;
}

}  // namespace hybridmoe
