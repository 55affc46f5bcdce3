#pragma once
/// @file hf_config.hpp
/// Reads config.json of published checkpoints, in the spelling of transformers 5 and in the older one that most of the hub has.
/// The only header that needs nlohmann-json; nothing else includes it.

#include <cmath>
#include <limits>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/io/file.hpp>
#include <hybridmoe/io/json.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// What a config says about a model. Sizes that a family does not have are 0.
struct HfConfig {
  std::string family;  ///< model_type: llama, mistral, gpt2, mixtral or mamba2
  std::string stored;  ///< float32, bfloat16, ... or empty

  Index vocab = 0, width = 0, layers = 0;
  Index context = 0;  ///< longest sequence; 0: not bounded by the config
  double epsilon = 0;
  bool tied = false;  ///< head and embedding share their weight
  std::string activation;

  Index heads = 0, kv_heads = 0, head_size = 0;
  Index window = 0;  ///< keys a query sees, itself included; 0: all
  bool attention_bias = false;
  double rope_theta = 0;  ///< 0: no rotary positions

  Index hidden = 0;  ///< width of the MLP or of one expert
  bool mlp_bias = false;
  Index experts = 0, active_experts = 0;
  double balance_loss = 0;  ///< coefficient of the routers' auxiliary loss

  /// Mamba-2; its heads and head_size are above.
  struct Ssm {
    Index inner = 0, state = 0, groups = 0, taps = 0, chunk = 0;
    bool bias = false, convolution_bias = false;
    double step_least = 0, step_most = std::numeric_limits<double>::infinity();  ///< the step is clamped to these
  } ssm;
};

namespace hf {

using Object = nlohmann::json;

/// Python writes infinities and NaN as bare words. They become the objects that transformers 5 writes: {"__float__": "Infinity"}.
inline std::string without_bare_words(std::string_view text) {
  std::string result;
  bool inside = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside && c == '\\' && i + 1 < text.size()) {
      result += c;
      result += text[++i];
      continue;
    }
    if (c == '"') inside = !inside;
    bool replaced = false;
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (inside || replaced || text.substr(i, word.size()) != word) continue;
      (((result += "{\"__float__\":\"") += word) += "\"}");
      i += word.size() - 1;
      replaced = true;
    }
    if (!replaced) result += c;
  }
  return result;
}

/// Reads values and keeps the first fault. A key may be missing only where a default is given; null counts as missing.
class Keys {
 public:
  Keys(const Object& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(const char* key) const {
    const auto at = object_.find(key);
    return at != object_.end() && !at->is_null();
  }
  bool is_null(const char* key) const {
    const auto at = object_.find(key);
    return at != object_.end() && at->is_null();
  }
  static constexpr Index required = -1;
  /// A size from `least` (1 unless given) to 2^31.
  Index size(const char* key, Index otherwise = required, Index least = 1) {
    const Object* value = get(key, otherwise == required);
    if (value == nullptr) return otherwise == required ? least : otherwise;
    const auto* number = value->get_ptr<const Object::number_unsigned_t*>();
    constexpr Index most = Index{1} << 31;
    if (number == nullptr) return wrong(key, "this key must be a non-negative integer"), least;
    if (*number < static_cast<std::uint64_t>(least) || *number > static_cast<std::uint64_t>(most)) {
      wrong(key, "this key is out of range", *number > INT64_MAX ? INT64_MAX : static_cast<Index>(*number));
      return least;
    }
    return static_cast<Index>(*number);
  }
  /// A number; an infinity only where it may be one.
  double number(const char* key, double otherwise, bool may_be_infinite = false) {
    const Object* value = get(key, false);
    return value == nullptr ? otherwise : real(key, *value, may_be_infinite);
  }
  double real(const char* key, const Object& value, bool may_be_infinite) {
    if (value.is_number()) return value.get<double>();
    if (value.is_object() && value.contains("__float__") && may_be_infinite) {
      const auto* word = value["__float__"].get_ptr<const std::string*>();
      if (word != nullptr && *word == "Infinity") return std::numeric_limits<double>::infinity();
      if (word != nullptr && *word == "-Infinity") return -std::numeric_limits<double>::infinity();
    }
    wrong(key, "this key must be a number");
    return 0;
  }
  bool flag(const char* key, bool otherwise) {
    const Object* value = get(key, false);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) wrong(key, "this key must be true or false");
    return value->is_boolean() && value->get<bool>();
  }
  std::string word(const char* key, const char* otherwise) {
    const Object* value = get(key, otherwise == nullptr);
    if (value == nullptr) return otherwise == nullptr ? "" : otherwise;
    if (const auto* text = value->get_ptr<const std::string*>()) return *text;
    wrong(key, "this key must be a string");
    return {};
  }
  /// Refuses a value that the library does not follow.
  void only(const char* key, bool supported, std::string_view what) {
    if (!supported) wrong(key, what);
  }
  void wrong(const char* key, std::string_view what, Index got = Error::unset) {
    if (failed_) return;
    failed_ = true;
    error_ = {.code = Code::file_mismatch, .what = what, .where = where_ + ": " + key, .got = got};
  }
  const Object& object() const { return object_; }
  const std::string& where() const { return where_; }
  bool failed() const { return failed_; }
  const Error& error() const { return error_; }
  void take(const Keys& inner) {
    if (!failed_ && inner.failed_) failed_ = true, error_ = inner.error_;
  }

 private:
  const Object* get(const char* key, bool needed) {
    const auto at = object_.find(key);
    if (at != object_.end() && !at->is_null()) return &*at;
    if (needed) wrong(key, "this key is missing");
    return nullptr;
  }
  const Object& object_;
  std::string where_;
  bool failed_ = false;
  Error error_{};
};

/// theta of plain rotary positions: `rope_parameters` (5) or `rope_theta` and `rope_scaling` (before).
inline double read_rope(Keys& keys, double otherwise) {
  const auto plain = [&keys](const char* outer, const char* inner, double theta) {
    const Object& object = keys.object()[outer];
    if (!object.is_object()) return keys.wrong(outer, "this key must be an object"), theta;
    Keys rope(object, keys.where() + ": " + outer);
    const std::string type = rope.word(rope.has("rope_type") ? "rope_type" : inner, "default");
    rope.only("rope_type", type == "default", "only the rope type \"default\" is supported");
    theta = rope.number("rope_theta", theta);
    const double share = rope.number("partial_rotary_factor", 1);
    rope.only("partial_rotary_factor", share == 1, "rotary positions on a part of a head are not supported");
    keys.take(rope);
    return theta;
  };
  double theta = keys.number("rope_theta", otherwise);
  if (keys.has("rope_parameters")) theta = plain("rope_parameters", "type", theta);
  if (keys.has("rope_scaling")) theta = plain("rope_scaling", "type", theta);
  const double share = keys.number("partial_rotary_factor", 1);
  keys.only("partial_rotary_factor", share == 1, "rotary positions on a part of a head are not supported");
  keys.only("rope_theta", theta > 0 && std::isfinite(theta), "rope_theta must be positive");
  return theta;
}

/// Llama, Mistral and Mixtral; they differ in defaults and in the channel mixer.
inline void read_llama(Keys& keys, HfConfig& config) {
  const bool mixtral = config.family == "mixtral", mistral = config.family == "mistral";
  config.vocab = keys.size("vocab_size");
  config.width = keys.size("hidden_size");
  config.layers = keys.size("num_hidden_layers");
  config.hidden = keys.size("intermediate_size");
  config.heads = keys.size("num_attention_heads");
  const bool grouped = (mistral || mixtral) && !keys.is_null("num_key_value_heads");
  config.kv_heads = keys.size("num_key_value_heads", grouped ? Index{8} : config.heads);
  config.head_size = keys.size("head_dim", config.width / config.heads);
  keys.only("head_dim", config.head_size > 0, "there are more heads than hidden_size has elements");
  config.context = keys.size("max_position_embeddings", config.family == "llama" ? 2048 : 131072);
  config.epsilon = keys.number("rms_norm_eps", mixtral ? 1e-5 : 1e-6);
  config.rope_theta = read_rope(keys, mixtral ? 1e6 : 1e4);
  config.activation = keys.word("hidden_act", "silu");
  config.tied = keys.flag("tie_word_embeddings", false);
  // Mistral's window is 4096 unless the file says otherwise, and null says that there is none.
  if (mistral || mixtral) config.window = keys.size("sliding_window", mistral && !keys.is_null("sliding_window") ? 4096 : 0);
  if (config.family == "llama") {
    config.attention_bias = keys.flag("attention_bias", false);
    config.mlp_bias = keys.flag("mlp_bias", false);
  }
  if (mixtral) {
    config.experts = keys.size("num_local_experts", 8);
    config.active_experts = keys.size("num_experts_per_tok", 2);
    config.balance_loss = keys.number("router_aux_loss_coef", 0.001);
    keys.only("num_experts_per_tok", config.active_experts <= config.experts, "there are fewer experts than a token uses");
  }
  keys.only("hidden_act", config.activation == "silu", "only the activation \"silu\" is supported here");
  keys.only("num_key_value_heads", config.heads % config.kv_heads == 0, "num_key_value_heads must divide num_attention_heads");
}

inline void read_gpt2(Keys& keys, HfConfig& config) {
  config.vocab = keys.size("vocab_size");
  config.width = keys.size("n_embd");
  config.layers = keys.size("n_layer");
  config.heads = config.kv_heads = keys.size("n_head");
  config.head_size = config.width / config.heads;
  config.context = keys.size("n_positions", 1024);
  config.hidden = keys.size("n_inner", 4 * config.width);
  config.epsilon = keys.number("layer_norm_epsilon", 1e-5);
  config.activation = keys.word("activation_function", "gelu_new");
  config.tied = keys.flag("tie_word_embeddings", true);
  config.attention_bias = config.mlp_bias = true;
  keys.only("activation_function", config.activation == "gelu_new" || config.activation == "gelu",
            "only the activations \"gelu_new\" and \"gelu\" are supported here");
  keys.only("n_head", config.width % config.heads == 0, "n_head must divide n_embd");
  keys.only("scale_attn_weights", keys.flag("scale_attn_weights", true), "scores without scaling are not supported");
  keys.only("scale_attn_by_inverse_layer_idx", !keys.flag("scale_attn_by_inverse_layer_idx", false),
            "scaling scores by the layer's number is not supported");
}

inline void read_mamba2(Keys& keys, HfConfig& config) {
  config.vocab = keys.size("vocab_size");
  config.width = keys.size("hidden_size");
  config.layers = keys.size("num_hidden_layers");
  config.heads = keys.size("num_heads");
  config.head_size = keys.size("head_dim");
  config.ssm.state = keys.size("state_size");
  config.ssm.groups = keys.size("n_groups", 8);
  config.ssm.taps = keys.size("conv_kernel", 4);
  config.ssm.chunk = keys.size("chunk_size", 256);
  config.ssm.bias = keys.flag("use_bias", false);
  config.ssm.convolution_bias = keys.flag("use_conv_bias", true);
  config.epsilon = keys.number("layer_norm_epsilon", 1e-5);
  config.activation = keys.word("hidden_act", "silu");
  config.tied = keys.flag("tie_word_embeddings", false);
  const double expand = keys.number("expand", 2);
  config.ssm.inner = config.heads * config.head_size;
  keys.only("expand", expand * static_cast<double>(config.width) == static_cast<double>(config.ssm.inner),
            "expand times hidden_size must be num_heads times head_dim");
  keys.only("n_groups", config.heads % config.ssm.groups == 0, "n_groups must divide num_heads");
  keys.only("hidden_act", config.activation == "silu", "only the activation \"silu\" is supported here");
  if (keys.has("time_step_limit")) {
    const Object& limit = keys.object()["time_step_limit"];
    if (!limit.is_array() || limit.size() != 2) return keys.wrong("time_step_limit", "this key must be an array of two numbers");
    config.ssm.step_least = keys.real("time_step_limit", limit[0], true);
    config.ssm.step_most = keys.real("time_step_limit", limit[1], true);
    keys.only("time_step_limit", config.ssm.step_least <= config.ssm.step_most, "the limits are in the wrong order");
  }
}

/// Each family's reader. A new family is a line here.
struct Reader {
  std::string_view family;
  void (*read)(Keys&, HfConfig&);
};
inline constexpr Reader readers[] = {
    {"llama", read_llama}, {"mistral", read_llama}, {"mixtral", read_llama}, {"gpt2", read_gpt2}, {"mamba2", read_mamba2}};

}  // namespace hf

/// Reads the text of a config.json. where: named in errors.
inline Result<HfConfig> parse_hf_config(std::string_view text, std::string where = "config.json") {
  const std::string plain = hf::without_bare_words(text);
  // Our own reader judges the text first: strictly, with a bound on depth, and its errors name the place.
  JsonReader json(plain, 32, where);
  JsonToken token = json.next();
  while (token && token.kind != Json::end) token = json.next();
  if (!token) return json.error();
  const hf::Object object = hf::Object::parse(plain, nullptr, false);
  if (!object.is_object())
    return Error{.code = Code::file_damaged, .what = "the config is not an object", .where = std::move(where)};

  hf::Keys keys(object, where);
  HfConfig config;
  config.family = keys.word("model_type", nullptr);
  config.stored = keys.word(keys.has("dtype") ? "dtype" : "torch_dtype", "");
  if (keys.failed()) return keys.error();
  for (const hf::Reader& reader : hf::readers) {
    if (reader.family != config.family) continue;
    reader.read(keys, config);
    keys.only("rms_norm_eps or layer_norm_epsilon", config.epsilon > 0 && std::isfinite(config.epsilon),
              "epsilon must be positive");
    if (keys.failed()) return keys.error();
    return config;
  }
  return Error{.code = Code::file_mismatch,
               .what = "this model_type is not supported",
               .where = where + ": model_type",
               .detail = in_quotes(config.family)};
}

/// Reads a config.json of at most 1 MiB. (Published ones have some kilobytes; nlohmann-json makes 70 bytes of memory out of one
/// of the worst, and nobody's file should take a gigabyte.)
inline Result<HfConfig> read_hf_config(std::string path, System& system = default_system()) {
  constexpr Index most = Index{1} << 20;
  const Result<HeapArray<char>> text = read_file(path, most, system);
  if (!text) return text.error();
  return parse_hf_config({text->data(), to_size(text->size())}, std::move(path));
}

}  // namespace hybridmoe::io
