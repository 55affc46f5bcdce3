#pragma once
/// @file gpt2.hpp
/// GPT-2 (Radford et al. 2019): LayerNorm, learned positions, biases, tanh-GELU, tied head.

#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/gelu.hpp>
#include <hybridmoe/model/language_model.hpp>
#include <hybridmoe/norm/layer_norm.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::zoo {

/// Sizes of a GPT-2 model. The names of config.json stand in brackets.
struct Gpt2Sizes {
  Index vocab;    ///< [vocab_size]
  Index width;    ///< [n_embd]
  Index layers;   ///< [n_layer]
  Index heads;    ///< [n_head]
  Index context;  ///< [n_positions]
  Index hidden;   ///< [n_inner], 4·width where it is null

  constexpr LanguageSizes language() const {
    return {.vocab = vocab, .width = width, .context = context, .tied = true, .learned_positions = true};
  }
};

template <Gpt2Sizes s>
struct Gpt2
    : LanguageModel<
          s.language(), Pattern<"G", layers<s.layers>>,
          Slot<'G',
               Block<attention::Full<Heads{s.heads, s.heads, s.width / s.heads}, position::Nothing, attention::Bias<true, true>>,
                     channel::Gelu<s.hidden>, block::Norm<norm::LayerNorm<>>>>,
          FinalNorm<norm::LayerNorm<>>> {};

}  // namespace hybridmoe::zoo
