#pragma once
// What the pairs build their models from.
#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;

constexpr hm::LanguageSizes sizes{.vocab = 64, .width = 32, .context = 16};
constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 8};
using FullBlock = hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<64>>;

/// A mixer that copies its input, complete by every rule; a pair takes one piece away. Option: the width it claims.
template <class Env, hm::Index width_ = Env::width>
struct CopyLayer {
  static constexpr hm::Index width = width_;
  static constexpr bool causal = true;
  template <class T, class Storage>
  struct Parameters {};
  template <class T>
  using State = hm::Stateless;
  template <class T>
  using Tape = hm::Tapeless;
  static void visit(auto&&, const hm::Name&, auto&...) {}
  template <class T, class Storage>
  static constexpr hm::Index workspace_bytes(hm::Extent) {
    return 0;
  }
  template <class Space, class T, class Storage>
  static void forward(const hm::Call<Space>& call, const Parameters<T, Storage>&, hm::Rows<const T, width> x,
                      hm::Rows<T, width> y, hm::States<hm::Stateless>, const Tape<T>&) {
    for (hm::Index i = 0; i < call.batch.rows * width; ++i) y.data[i] = x.data[i];
  }
  template <class Space, class T>
  static void backward(const hm::Call<Space>& call, const Parameters<T, hm::Flat>&, hm::Rows<const T, width>, const Tape<T>&,
                       hm::Rows<const T, width> dy, hm::Rows<T, width> dx, Parameters<T, hm::Flat>&) {
    for (hm::Index i = 0; i < call.batch.rows * width; ++i) dx.data[i] += dy.data[i];
  }
  static constexpr hm::Spread active_parameters() { return {}; }
  static constexpr hm::Flops flops_per_token(hm::Index) { return {}; }
  static constexpr hm::Index recurrent_elements = 0;
  static constexpr hm::Index cache_elements(hm::Index) { return 0; }
};

/// A model of one letter whose mixer is the description given.
template <class Mixer>
using ModelOf = hm::LanguageModel<sizes, hm::Pattern<"M", hm::layers<2>>, hm::Slot<'M', hm::Block<Mixer>>>;
