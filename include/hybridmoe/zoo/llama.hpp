#pragma once
/// @file llama.hpp
/// Llama (Touvron et al. 2023) and what differs from it by a window (Mistral, Jiang et al. 2023) or by experts (Mixtral, Jiang
/// et al. 2024).

#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/model/language_model.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::zoo {

/// Sizes of a Llama-like model. The names of config.json stand in brackets.
struct LlamaSizes {
  Index vocab;                ///< [vocab_size]
  Index width;                ///< [hidden_size]
  Index layers;               ///< [num_hidden_layers]
  Heads heads;                ///< [num_attention_heads, num_key_value_heads, head_dim]
  Index hidden;               ///< [intermediate_size]
  Index context;              ///< [max_position_embeddings]
  Index rotary_base = 10000;  ///< [rope_theta]
  bool tied = false;          ///< [tie_word_embeddings]

  constexpr LanguageSizes language() const { return {.vocab = vocab, .width = width, .context = context, .tied = tied}; }
};

/// @tparam Epsilon  [rms_norm_eps]
template <LlamaSizes s, class Epsilon, class Mask, class Channel>
struct LlamaLike : LanguageModel<s.language(), Pattern<"G", layers<s.layers>>,
                                 Slot<'G', Block<attention::Softmax<s.heads, Mask, position::Rotary<s.rotary_base>>, Channel,
                                                 block::Norm<norm::Rms<Epsilon>>>>,
                                 FinalNorm<norm::Rms<Epsilon>>> {};

/// Full attention, SwiGLU.
template <LlamaSizes s, class Epsilon = norm::Epsilon<1, 100'000>>
using Llama = LlamaLike<s, Epsilon, mask::Causal, channel::SwiGlu<s.hidden>>;

/// Llama with a sliding window in every layer [sliding_window].
template <LlamaSizes s, Index window, class Epsilon = norm::Epsilon<1, 100'000>>
using Mistral = LlamaLike<s, Epsilon, mask::Window<window>, channel::SwiGlu<s.hidden>>;

/// Llama with routed experts [num_local_experts, num_experts_per_tok]; the chosen experts' weights sum to one.
template <LlamaSizes s, Index experts, Index active, class Epsilon = norm::Epsilon<1, 100'000>>
using Mixtral =
    LlamaLike<s, Epsilon, mask::Causal, channel::Moe<Experts{.count = experts, .active = active, .hidden = s.hidden}>>;

}  // namespace hybridmoe::zoo
