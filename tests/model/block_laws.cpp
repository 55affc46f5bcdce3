// The laws of blocks whose sublayers are normed before and after, with streams, in sequence and in parallel, on every space.

#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/check/driven.hpp>
#include <hybridmoe/model/block.hpp>
#include <hybridmoe/norm/adaptive.hpp>
#include <support/laws.hpp>

namespace hm = hybridmoe;
namespace block = hm::block;
namespace norm = hm::norm;
using Env = hm::Environment<24, 48, 8>;
using Mixer = hm::attention::Local<hm::Heads{.query = 2, .kv = 1, .size = 8}, 9>;

template <class Description>
using Driven = hm::check::Driven<Description, hm::check::Drive<hm::stream::Complexity, 1>,
                                 hm::check::Drive<hm::stream::Decisions, hm::Decision::fields + hm::Decision::scales>>;

TEST_CASE("a block with norms before and after both sublayers keeps the laws") {
  test::laws_everywhere<
      Driven<hm::Block<Mixer, hm::channel::SwiGlu<16>, block::Norm<norm::Adaptive<>>, block::PostNorm<norm::Rms<>>,
                       block::ChannelPostNorm<norm::Adaptive<norm::GainStart::by_depth>>>>,
      Env>();
}
TEST_CASE("a parallel block with norms without weights after both sublayers keeps the laws") {
  using Weightless = norm::Rms<norm::Epsilon<1, 100'000>, norm::Gain::none>;
  test::laws_everywhere<hm::Block<Mixer, hm::channel::SwiGlu<16>, block::Parallel, block::Norm<Weightless>,
                                  block::PostNorm<Weightless>, block::ChannelPostNorm<Weightless>>,
                        Env>();
}
