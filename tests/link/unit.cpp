// One unit of a program of several: includes everything, and runs a model that is called Tiny in every unit but has a width of
// its own. Compiled once per unit with UNIT and WIDTH defined.
#include "everything.hpp"

#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;

constexpr hm::Heads heads{.query = 2, .kv = 1, .size = 8};
struct Tiny : hm::LanguageModel<hm::LanguageSizes{.vocab = 16, .width = WIDTH, .context = 8}, hm::Pattern<"GG">,
                                hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<2 * WIDTH>>>> {};

/// Returns how many of the questions got an answer that fits a model of width WIDTH. Functions are called by addresses that the
/// compiler cannot see through: it is the linker's choice among the units' copies that is asked for.
int UNIT() {
  using T = float;
  int right = 0;
  // Written out again, from the layers' definitions: embedding, 2 blocks, final norm.
  constexpr hm::Index attention = WIDTH * 16 + 2 * (WIDTH * 8) + 16 * WIDTH, channel = 3 * WIDTH * 2 * WIDTH;
  constexpr hm::Index expected = 16 * WIDTH + 2 * (2 * WIDTH + attention + channel) + WIDTH;
  hm::Index (*volatile parameters)() = &hm::Account<Tiny>::parameters;
  right += parameters() == expected;
  right += hm::describe<Tiny>().find("width " + std::to_string(WIDTH)) != std::string::npos;

  hm::Model<Tiny, T> model{hm::Seed{7}};
  right += hm::to_index(hm::pack(model).elements) >= expected;
  using Step = hm::generate::Stepper<Tiny, T, hm::Flat>;
  hm::Index (*volatile required)() = &Step::required_bytes;
  std::vector<std::byte> memory(hm::to_size(required()));
  auto stepper = Step::create(model.parameters(), memory.data(), hm::to_index(memory.size()));
  if (!stepper) return -1;
  const auto logits = stepper->step(3);
  if (!logits) return -2;
  auto session = hm::generate::Session<hm::Model<Tiny, T>>::create(model);
  if (!session) return -3;
  const std::int32_t token = 3;
  if (!session->feed(0, std::span<const std::int32_t>(&token, 1))) return -4;
  bool equal = true;
  for (hm::Index i = 0; i < Tiny::vocab; ++i) equal &= logits.value()[i] == session->logits(0)[hm::to_size(i)];
  right += equal;
  return right;
}
