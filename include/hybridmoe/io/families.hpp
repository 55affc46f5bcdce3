#pragma once
/// @file families.hpp
/// The names of published families, as Hugging Face's files spell them.

#include <hybridmoe/io/names.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

namespace rules {

// Patterns of ours that several families share.
inline constexpr std::string_view query = "layers.#.mixer.query.@", key = "layers.#.mixer.key.@",
                                  value = "layers.#.mixer.value.@";

inline constexpr Rule llama[] = {
    {.ours = "embedding.weight", .theirs = "model.embed_tokens.weight"},
    {.ours = "layers.#.mixer_norm.@", .theirs = "model.layers.#.input_layernorm.@"},
    {.ours = query, .theirs = "model.layers.#.self_attn.q_proj.@"},
    {.ours = key, .theirs = "model.layers.#.self_attn.k_proj.@"},
    {.ours = value, .theirs = "model.layers.#.self_attn.v_proj.@"},
    {.ours = "layers.#.mixer.output.@", .theirs = "model.layers.#.self_attn.o_proj.@"},
    {.ours = "layers.#.mixer.query_norm.weight", .theirs = "model.layers.#.self_attn.q_norm.weight"},
    {.ours = "layers.#.mixer.key_norm.weight", .theirs = "model.layers.#.self_attn.k_norm.weight"},
    {.ours = "layers.#.channel_norm.@", .theirs = "model.layers.#.post_attention_layernorm.@"},
    {.ours = "layers.#.channel.gate.@", .theirs = "model.layers.#.mlp.gate_proj.@"},
    {.ours = "layers.#.channel.up.@", .theirs = "model.layers.#.mlp.up_proj.@"},
    {.ours = "layers.#.channel.down.@", .theirs = "model.layers.#.mlp.down_proj.@"},
    // Mixtral's experts: w1 is the gate, w3 goes up, w2 down.
    {.ours = "layers.#.channel.router.weight", .theirs = "model.layers.#.block_sparse_moe.gate.weight"},
    {.ours = "layers.#.channel.experts.#.gate.weight", .theirs = "model.layers.#.block_sparse_moe.experts.#.w1.weight"},
    {.ours = "layers.#.channel.experts.#.up.weight", .theirs = "model.layers.#.block_sparse_moe.experts.#.w3.weight"},
    {.ours = "layers.#.channel.experts.#.down.weight", .theirs = "model.layers.#.block_sparse_moe.experts.#.w2.weight"},
    {.ours = "final_norm.@", .theirs = "model.norm.@"},
    {.ours = "head.weight", .theirs = "lm_head.weight"},
};
inline constexpr std::string_view llama_ignored[] = {"model.layers.#.self_attn.rotary_emb.inv_freq"};

/// Conv1D stores [in, out]; c_attn's columns are q|k|v.
inline constexpr Rule gpt2[] = {
    {.ours = "embedding.weight", .theirs = "transformer.wte.weight"},
    {.ours = "position.weight", .theirs = "transformer.wpe.weight"},
    {.ours = "layers.#.mixer_norm.@", .theirs = "transformer.h.#.ln_1.@"},
    {.ours = query, .theirs = "transformer.h.#.attn.c_attn.@", .transposed = true},
    {.ours = key, .theirs = "transformer.h.#.attn.c_attn.@", .transposed = true, .before = {query}},
    {.ours = value, .theirs = "transformer.h.#.attn.c_attn.@", .transposed = true, .before = {query, key}},
    {.ours = "layers.#.mixer.output.@", .theirs = "transformer.h.#.attn.c_proj.@", .transposed = true},
    {.ours = "layers.#.channel_norm.@", .theirs = "transformer.h.#.ln_2.@"},
    {.ours = "layers.#.channel.up.@", .theirs = "transformer.h.#.mlp.c_fc.@", .transposed = true},
    {.ours = "layers.#.channel.down.@", .theirs = "transformer.h.#.mlp.c_proj.@", .transposed = true},
    {.ours = "final_norm.@", .theirs = "transformer.ln_f.@"},
    {.ours = "head.weight", .theirs = "lm_head.weight"},
};
/// Causal masks that early releases stored.
inline constexpr std::string_view gpt2_ignored[] = {"transformer.h.#.attn.bias", "transformer.h.#.attn.masked_bias"};

inline constexpr Rule mamba2[] = {
    {.ours = "embedding.weight", .theirs = "backbone.embeddings.weight"},
    {.ours = "layers.#.mixer_norm.weight", .theirs = "backbone.layers.#.norm.weight"},
    {.ours = "layers.#.mixer.input.@", .theirs = "backbone.layers.#.mixer.in_proj.@"},
    {.ours = "layers.#.mixer.convolution.weight", .theirs = "backbone.layers.#.mixer.conv1d.weight", .unit_axis = 1},
    {.ours = "layers.#.mixer.convolution.bias", .theirs = "backbone.layers.#.mixer.conv1d.bias"},
    {.ours = "layers.#.mixer.step_bias", .theirs = "backbone.layers.#.mixer.dt_bias"},
    {.ours = "layers.#.mixer.decay_log", .theirs = "backbone.layers.#.mixer.A_log"},
    {.ours = "layers.#.mixer.skip", .theirs = "backbone.layers.#.mixer.D"},
    {.ours = "layers.#.mixer.norm.weight", .theirs = "backbone.layers.#.mixer.norm.weight"},
    {.ours = "layers.#.mixer.output.@", .theirs = "backbone.layers.#.mixer.out_proj.@"},
    {.ours = "final_norm.weight", .theirs = "backbone.norm_f.weight"},
    {.ours = "head.weight", .theirs = "lm_head.weight"},
};

}  // namespace rules

inline constexpr Family llama{.name = "llama",
                              .rules = rules::llama,
                              .ignored = rules::llama_ignored,
                              .optional_prefix = "model.",
                              .tied_copy = "lm_head.weight"};
inline constexpr Family mistral{.name = "mistral",
                                .rules = rules::llama,
                                .ignored = rules::llama_ignored,
                                .optional_prefix = "model.",
                                .tied_copy = "lm_head.weight"};
inline constexpr Family mixtral{.name = "mixtral",
                                .rules = rules::llama,
                                .ignored = rules::llama_ignored,
                                .optional_prefix = "model.",
                                .tied_copy = "lm_head.weight"};
inline constexpr Family gpt2{.name = "gpt2",
                             .rules = rules::gpt2,
                             .ignored = rules::gpt2_ignored,
                             .optional_prefix = "transformer.",
                             .tied_copy = "lm_head.weight"};
inline constexpr Family mamba2{
    .name = "mamba2", .rules = rules::mamba2, .optional_prefix = "backbone.", .tied_copy = "lm_head.weight"};

}  // namespace hybridmoe::io
