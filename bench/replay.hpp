#pragma once
// A run that anyone can repeat: a small GLLS model with experts on the repository's own licence text, on one inline thread. The
// program bench/replay.cpp logs it; a test repeats its first twenty steps.

#include <hybridmoe/hybridmoe.hpp>

#include "build_tag.hpp"

namespace replay {

namespace hm = hybridmoe;

constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 16};
constexpr hm::Experts experts{.count = 4, .active = 2, .hidden = 48};
struct Small
    : hm::LanguageModel<hm::LanguageSizes{.vocab = 256, .width = 64, .context = 128}, hm::Pattern<"GLLS">,
                        hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<128>>>,
                        hm::Slot<'L', hm::Block<hm::attention::Local<heads, 32>, hm::channel::Moe<experts>>>,
                        hm::Slot<'S', hm::Block<hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 4, .head = 32, .state = 16}>>>> {};

using Model = hm::Model<Small, hm::f32>;
constexpr std::uint64_t seed = 7;
constexpr hm::Index steps = 400;
constexpr hm::train::Options options{
    .batch = 4, .length = 128, .schedule = {.peak = 3e-3, .warmup = 20, .steps = steps}, .dropout = 0.05f, .seed = seed};

}  // namespace replay
