// Blocks with norms before and after their sublayers against loops over the formulas in double; how such models start; what
// they cost.

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/model/language_model.hpp>
#include <hybridmoe/model/model.hpp>
#include <hybridmoe/norm/adaptive.hpp>
#include <hybridmoe/norm/layer_norm.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
namespace block = hm::block;
namespace norm = hm::norm;
using hm::Index;
using Numbers = std::vector<double>;
using Tensors = std::map<std::string, Numbers>;

namespace {

constexpr Index width = 20;

Numbers times(const Numbers& w, const Numbers& x) {
  Numbers y(w.size() / x.size(), 0);
  for (std::size_t o = 0; o < y.size(); ++o)
    for (std::size_t i = 0; i < x.size(); ++i) y[o] += w[o * x.size() + i] * x[i];
  return y;
}
Numbers plus(Numbers a, const Numbers& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
/// A norm by its tensors' names: one with a strength is adaptive, without streams; one that has none is left out.
Numbers normed(const Tensors& p, const std::string& name, const Numbers& x) {
  if (p.count(name + ".weight") == 0) return x;
  const bool adaptive = p.count(name + ".strength") > 0;
  double mean = 0;
  for (const double v : x) mean += v * v / static_cast<double>(x.size());
  const double alpha = adaptive ? 0.5 + 0.5 / (1 + std::exp(-p.at(name + ".strength")[0])) : 1;
  Numbers y = x;
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] *= p.at(name + ".weight")[i] / std::pow(mean + (adaptive ? 1e-6 : 1e-5), alpha / 2);
  return y;
}
Numbers swiglu(const Tensors& p, const std::string& name, const Numbers& x) {
  Numbers gate = times(p.at(name + ".gate.weight"), x);
  const Numbers up = times(p.at(name + ".up.weight"), x);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
  return times(p.at(name + ".down.weight"), gate);
}
Numbers reference(const Tensors& p, const Numbers& x, bool parallel) {
  const Numbers first = normed(p, "mixer_norm", x);
  const Numbers h = plus(x, normed(p, "mixer_post_norm", swiglu(p, "mixer", first)));
  if (p.count("channel.down.weight") == 0) return h;
  const Numbers second = parallel ? first : normed(p, "channel_norm", h);
  return plus(h, normed(p, "channel_post_norm", swiglu(p, "channel", second)));
}

template <class Description>
void check_block(bool parallel, const std::set<std::string>& norms) {
  using Layer = typename Description::template Layer<hm::Environment<width, 64>>;
  typename Layer::template Parameters<double, hm::Flat> p{};
  Tensors tensors;
  Layer::visit(
      [&](const hm::Name& name, hm::Trait, auto& tensor) {
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        const bool matrix = Tensor::rank > 1;
        const Numbers values = test::numbers(Tensor::size, hm::random::hash(name.text()), matrix ? 0.3 : 0.2, matrix ? 0.0 : 0.8);
        std::copy(values.begin(), values.end(), tensor.data);
        tensors[name.text()] = values;
      },
      hm::Name{}, p);
  std::set<std::string> found;
  for (const auto& [name, values] : tensors)
    if (const auto end = name.find("_norm."); end != std::string::npos) found.insert(name.substr(0, end));
  CHECK(found == norms);

  constexpr Index rows = 5;
  const Numbers x = test::numbers(rows * width, 1);
  for (const bool training : {false, true}) {
    const hm::Extent extent{rows, 1, training};
    std::vector<std::byte> memory(hm::to_size(hm::planned_bytes<typename Layer::template Tape<double>>(extent) +
                                              Layer::template workspace_bytes<double, hm::Flat>(extent)) +
                                  64);
    hm::Arena arena{memory.data(), memory.data() + memory.size()};
    const typename Layer::template Tape<double> tape(arena, extent);
    hm::Call<hm::exec::Inline> call;
    call.batch.rows = rows;
    call.batch.sequences = 1;
    call.training = training;
    call.arena = arena;
    Numbers y(x.size(), std::numeric_limits<double>::quiet_NaN());
    Layer::forward(call, p, hm::Rows<const double, width>{x.data()}, hm::Rows<double, width>{y.data()}, {}, tape);
    for (Index row = 0; row < rows; ++row) {
      const Numbers expected = reference(tensors, {x.begin() + row * width, x.begin() + (row + 1) * width}, parallel);
      for (Index i = 0; i < width; ++i) CHECK(std::fabs(y[hm::to_size(row * width + i)] - expected[hm::to_size(i)]) < 1e-12);
    }
  }
}

using Mixer = hm::channel::SwiGlu<12>;
using Channel = hm::channel::SwiGlu<10>;
using Adaptive = norm::Adaptive<norm::GainStart::by_depth>;

}  // namespace

TEST_CASE("blocks compute what their options say") {
  check_block<hm::Block<Mixer, Channel>>(false, {"mixer", "channel"});
  check_block<hm::Block<Mixer, Channel, block::Norm<Adaptive>, block::PostNorm<norm::Rms<>>>>(false,
                                                                                              {"mixer", "mixer_post", "channel"});
  check_block<hm::Block<Mixer, Channel, block::ChannelPostNorm<Adaptive>, block::PostNorm<Adaptive>>>(
      false, {"mixer", "mixer_post", "channel", "channel_post"});
  check_block<hm::Block<Mixer, Channel, block::ChannelPostNorm<norm::Rms<>>>>(false, {"mixer", "channel", "channel_post"});
  check_block<hm::Block<Mixer, Channel, block::Parallel, block::PostNorm<norm::Rms<>>, block::ChannelPostNorm<Adaptive>>>(
      true, {"mixer", "mixer_post", "channel_post"});
  check_block<hm::Block<Mixer, hm::channel::Nothing, block::PostNorm<norm::Rms<>>>>(false, {"mixer", "mixer_post"});
}

namespace {

struct Normed : hm::LanguageModel<hm::LanguageSizes{.vocab = 30, .width = 16, .context = 32}, hm::Pattern<"GL", hm::layers<8>>,
                                  hm::Slot<'G', hm::Block<hm::attention::Full<hm::Heads{2, 1, 8}>, hm::channel::SwiGlu<8>,
                                                          block::Norm<Adaptive>, block::PostNorm<norm::Rms<>>>>,
                                  hm::Slot<'L', hm::Block<hm::attention::Local<hm::Heads{2, 1, 8}, 7>, hm::channel::SwiGlu<8>,
                                                          block::PostNorm<Adaptive>, block::ChannelPostNorm<norm::LayerNorm<>>>>,
                                  hm::FinalNorm<Adaptive>> {};

}  // namespace

TEST_CASE("gains start by depth before sublayers and as outputs of sublayers after them") {
  std::map<std::string, double> start;
  const hm::Model<Normed, double> model{hm::Seed{3}};
  Normed::visit<double, hm::Flat>(
      [&](const hm::Name& name, const hm::Trait&, auto& tensor) {
        if (tensor.rank > 1) return;
        for (Index i = 0; i < tensor.size; ++i) CHECK(tensor[i] == tensor[0]);
        start[name.text()] = tensor[0];
      },
      hm::Name{}, model.parameters());
  const auto at = [&](const char* name) {
    INFO(name);
    REQUIRE(start.count(name) == 1);
    return start[name];
  };
  for (int l = 0; l < 8; ++l) {
    const std::string layer = "layers." + std::to_string(l) + ".";
    const bool adaptive = l % 2 == 0;
    for (const char* before : {"mixer_norm", "channel_norm"}) {
      const double gain = at((layer + before + ".weight").c_str());
      CHECK(std::fabs(gain - (adaptive ? 1 / std::sqrt(l + 1.0) : 1)) < 1e-12);
    }
    CHECK(std::fabs(at((layer + "mixer_post_norm.weight").c_str()) - 0.0075) < 1e-8);  // 0.03/√(2·8), whatever the depth
    if (!adaptive) {
      CHECK(at((layer + "mixer_post_norm.strength").c_str()) == 4);
      CHECK(std::fabs(at((layer + "channel_post_norm.weight").c_str()) - 0.0075) < 1e-8);
      CHECK(at((layer + "channel_post_norm.bias").c_str()) == 0);
    }
  }
  CHECK(at("final_norm.weight") == 1);
}

TEST_CASE("norms after sublayers are counted") {
  using Env = hm::Environment<width, 64>;
  using Plain = hm::Block<Mixer, Channel>::Layer<Env>;
  using Posted = hm::Block<Mixer, Channel, block::PostNorm<norm::Rms<>>, block::ChannelPostNorm<Adaptive>>::Layer<Env>;
  STATIC_REQUIRE(Posted::active_parameters().most == Plain::active_parameters().most + 3 * width + 2);
  STATIC_REQUIRE(hm::element_count<Posted::Parameters<float, hm::Flat>, float> ==
                 hm::element_count<Plain::Parameters<float, hm::Flat>, float> + 3 * width + 2);
  STATIC_REQUIRE(Posted::flops_per_token(9).forward > Plain::flops_per_token(9).forward);
  STATIC_REQUIRE(Posted::capped_flops(9, 0.5) == Posted::flops_per_token(9).forward);  // no budget makes it cheaper
  STATIC_REQUIRE(Posted::rewinds);
}

TEST_CASE("a cap is the cost of the token that sees the most") {
  using Env = hm::Environment<width, 64>;
  using Full = hm::Block<hm::attention::Full<hm::Heads{2, 1, 8}>, Channel>::Layer<Env>;
  using Window = hm::Block<hm::attention::Local<hm::Heads{2, 1, 8}, 7>, Channel>::Layer<Env>;
  // Scores and mixing: four operations per element of the heads and key, of which the first token sees one.
  CHECK(std::fabs(Full::capped_flops(64, 0.5) - (Full::flops_per_token(1).forward + 4.0 * 16 * (64 - 1))) < 1e-9);
  CHECK(std::fabs(Window::capped_flops(64, 0.5) - (Window::flops_per_token(1).forward + 4.0 * 16 * (7 - 1))) < 1e-9);
  STATIC_REQUIRE(Full::capped_flops(1, 1) == Full::flops_per_token(1).forward);
}
