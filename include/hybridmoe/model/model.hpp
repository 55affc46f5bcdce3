#pragma once
/// @file model.hpp
/// A model with its parameters: the description, a number type, a space, and how weights lie.

#include <vector>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/exec/buffer.hpp>
#include <hybridmoe/model/account.hpp>
#include <hybridmoe/model/describe.hpp>
#include <hybridmoe/model/fingerprint.hpp>
#include <hybridmoe/model/pack.hpp>
#include <hybridmoe/model/start.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Where random starts begin: equal seeds give equal parameters, whatever the space.
struct Seed {
  std::uint64_t value = 0;
};

/// A model's parameters in a space, and the layout by which they are found: all of a Model but its type.
/// @tparam Language_  a LanguageCore
template <class Language_, class T, class Space_, class Storage_>
class ModelCore {
 public:
  using Language = Language_;
  using Element = T;
  using Space = Space_;
  using Storage = Storage_;

  /// False if memory could not be had.
  explicit operator bool() const { return static_cast<bool>(buffer_); }

  const Layout& layout() const { return layout_; }
  const Space& space() const { return buffer_.space(); }
  /// How many scalars there are, with the padding of packed panels.
  Index size() const { return size_; }
  Index size_bytes() const { return size_ * static_cast<Index>(sizeof(T)); }
  /// Where the space's kernels find the parameters.
  T* parameters() const { return buffer_.template as<T>(); }
  /// Copies all parameters from or to host memory of size() scalars; waits.
  void upload(const T* host) { buffer_.copy_in(host, size_bytes()); }
  void download(T* host) const { buffer_.copy_out(host, size_bytes()); }

  /// Starts all parameters from a seed; every tensor has its own stream, keyed by its name.
  void start(Seed seed)
    requires std::is_same_v<Storage, Flat>;
  /// Takes the parameters of a Flat model of the same layout.
  void pack_from(const ModelCore<Language, T, Space, Flat>& model)
    requires std::is_same_v<Storage, Packed>;

 protected:
  ModelCore(const Layout& layout, Space space)
      : layout_(layout), size_(Language::template buffer_elements<T, Storage>(layout)), buffer_(std::move(space), size_bytes()) {}

 private:
  Layout layout_;
  Index size_;
  exec::Buffer<Space> buffer_;
};

template <class Language, class T, class Space, class Storage>
void ModelCore<Language, T, Space, Storage>::start(Seed seed)
  requires std::is_same_v<Storage, Flat>
{
  if (!buffer_) return;
  std::vector<T> host(to_size(size_));
  Language::template visit<T, Flat>(layout_, StartTensors{random::key_of(seed.value), layout_.layers}, Name{}, host.data());
  upload(host.data());
}

template <class Language, class T, class Space, class Storage>
void ModelCore<Language, T, Space, Storage>::pack_from(const ModelCore<Language, T, Space, Flat>& model)
  requires std::is_same_v<Storage, Packed>
{
  HYBRIDMOE_ASSERT(model.layout() == layout_);
  if (!buffer_) return;
  std::vector<T> flat(to_size(model.size())), panels(to_size(size_));
  model.download(flat.data());
  Language::template visit<T, Flat, Packed>(layout_, PackTensors{}, Name{}, flat.data(), panels.data());
  upload(panels.data());
}

/// @tparam D        a struct derived from `LanguageModel<…>`
/// @tparam T        f32 or f64
/// @tparam Space_   exec::Inline or `exec::On<…>`
/// @tparam Storage_ Flat (training, files) or Packed (inference; made by pack())
/// @tparam print    keeps two descriptions of one name apart
template <class D, class T, class Space_ = exec::Inline, class Storage_ = Flat, std::uint64_t print = fingerprint<D>()>
class Model : public ModelCore<typename D::Core, T, Space_, Storage_> {
  using Base = ModelCore<typename D::Core, T, Space_, Storage_>;

 public:
  using Description = D;
  using Cost = Account<D>;
  static constexpr Index elements = D::template buffer_elements<T, Storage_>();
  static constexpr Index bytes = elements * static_cast<Index>(sizeof(T));

  /// An empty place for parameters: zeros. Test it: allocation can fail.
  explicit Model(Space_ space = {}) : Base(D::layout(), std::move(space)) {}

  /// Parameters started from a seed.
  explicit Model(Seed seed, Space_ space = {})
    requires std::is_same_v<Storage_, Flat>
      : Model(std::move(space)) {
    this->start(seed);
  }
};

/// The model's parameters in the product kernel's layout, for inference.
template <class D, class T, class Space>
Model<D, T, Space, Packed> pack(const Model<D, T, Space, Flat>& model) {
  Model<D, T, Space, Packed> packed{model.space()};
  packed.pack_from(model);
  return packed;
}

}  // namespace hybridmoe
