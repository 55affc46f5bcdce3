// A new attention mode in one file: chunked attention, where a token sees the tokens of its own chunk up to itself (Llama 4's
// local layers). A mode is a mask: which keys a query sees, and how many positions a sequence keeps for it.
#include <cstdio>

#include <hybridmoe/check/laws.hpp>
#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;

//! [mode]
namespace mine {

/// Keys ⌊q/width⌋·width … q.
template <hm::Index width>
struct Chunk {
  static_assert(width > 0, "mine::Chunk needs a width of at least one key");
  HYBRIDMOE_FUNCTION static constexpr hm::Index first(hm::Index query) { return query / width * width; }
  static constexpr hm::Index kept(hm::Index context, hm::Index chunk) { return hm::smaller(context, width + chunk); }
  static constexpr hm::Index seen(hm::Index context) { return hm::smaller(context, width); }
};

/// Softmax attention within chunks of `width` tokens. Options as for attention::Full.
template <hm::Heads heads, hm::Index width, class... Options>
struct Chunked : hm::attention::Softmax<heads, Chunk<width>, Options...> {};

}  // namespace mine
//! [mode]

//! [model]
constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 8};
struct Model : hm::LanguageModel<hm::LanguageSizes{.vocab = 64, .width = 32, .context = 96}, hm::Pattern<"CCG", hm::layers<4>>,
                                 hm::Slot<'C', hm::Block<mine::Chunked<heads, 24>, hm::channel::SwiGlu<64>>>,
                                 hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<64>>>> {};
//! [model]

int main() {
  //! [laws]
  using Env = hm::Environment<32, 96, 16>;  // width, context, longest chunk
  const hm::check::Report report = hm::check::laws<mine::Chunked<heads, 24>, Env, double, hm::Packed>(hm::exec::Inline{});
  std::printf("%s\n", report ? "mine::Chunked keeps the five laws" : report.text().c_str());
  //! [laws]
  std::printf("%s", hm::describe<Model>().c_str());
  return report ? 0 : 1;
}
