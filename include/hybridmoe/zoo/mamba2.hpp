#pragma once
/// @file mamba2.hpp
/// Mamba-2 (Dao and Gu, "Transformers are SSMs", 2024): one mixer per block, nothing else.

#include <hybridmoe/model/language_model.hpp>
#include <hybridmoe/ssm/mamba2.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::zoo {

/// Sizes of a Mamba-2 model. The names of config.json stand in brackets.
struct Mamba2Sizes {
  Index vocab;             ///< [vocab_size]
  Index width;             ///< [hidden_size]
  Index layers;            ///< [num_hidden_layers]
  ssm::Mamba2Sizes mixer;  ///< [num_heads, head_dim, state_size, n_groups, conv_kernel, chunk_size]
  bool tied = true;        ///< [tie_word_embeddings]
  Index context = 4096;    ///< positions that this library lets a sequence have; the state does not grow with it

  constexpr LanguageSizes language() const { return {.vocab = vocab, .width = width, .context = context, .tied = tied}; }
};

template <Mamba2Sizes s, class Epsilon = norm::Epsilon<1, 100'000>>
struct Mamba2 : LanguageModel<s.language(), Pattern<"S", layers<s.layers>>,
                              Slot<'S', Block<ssm::Mamba2<s.mixer, Epsilon>, channel::Nothing, block::Norm<norm::Rms<Epsilon>>>>,
                              FinalNorm<norm::Rms<Epsilon>>> {};

}  // namespace hybridmoe::zoo
