// config.json of the five families: the fixtures in both spellings, defaults, and an error that names the key for whatever is
// wrong.
#include <catch2/catch_test_macros.hpp>

#include <cmath>

#include <hybridmoe/io/hf_config.hpp>

#include "support.hpp"

using namespace hybridmoe;
using io::HfConfig;

namespace {

HfConfig parsed(const std::string& text) {
  Result<HfConfig> config = io::parse_hf_config(text);
  if (!config) FAIL(config.error().message());
  return std::move(config).value();
}
HfConfig fixture(const std::string& file) {
  Result<HfConfig> config = io::read_hf_config(support::golden(file));
  if (!config) FAIL(config.error().message());
  return std::move(config).value();
}
std::string fault(const std::string& text) {
  const Result<HfConfig> config = io::parse_hf_config(text);
  return config ? "accepted" : config.error().where + " | " + std::string(config.error().what);
}

const std::string llama = R"("model_type":"llama","vocab_size":100,"hidden_size":64,"num_hidden_layers":2,)"
                          R"("intermediate_size":128,"num_attention_heads":4)";
const std::string gpt2 = R"("model_type":"gpt2","vocab_size":100,"n_embd":64,"n_layer":2,"n_head":4)";
const std::string mamba2 = R"("model_type":"mamba2","vocab_size":100,"hidden_size":64,"num_hidden_layers":2,)"
                           R"("num_heads":8,"head_dim":16,"state_size":16)";

}  // namespace

TEST_CASE("the fixtures' configs, in both spellings") {
  for (const char* file : {"llama/config.json", "llama/config.legacy.json"}) {
    const HfConfig c = fixture(file);
    CHECK((c.family == "llama" && c.stored == "float32" && c.vocab == 101 && c.width == 32 && c.layers == 2 && c.context == 64));
    CHECK((c.heads == 4 && c.kv_heads == 2 && c.head_size == 10 && c.hidden == 44 && c.window == 0 && c.experts == 0));
    CHECK((c.epsilon == 1e-5 && c.rope_theta == 1e4 && !c.tied && c.activation == "silu" && !c.attention_bias && !c.mlp_bias));
  }
  for (const char* file : {"mistral/config.json", "mistral/config.legacy.json"}) {
    const HfConfig c = fixture(file);
    CHECK((c.family == "mistral" && c.stored == "bfloat16" && c.vocab == 97 && c.hidden == 48 && c.window == 7 &&
           c.epsilon == 1e-6));
  }
  for (const char* file : {"mixtral/config.json", "mixtral/config.legacy.json"}) {
    const HfConfig c = fixture(file);
    CHECK((c.family == "mixtral" && c.experts == 5 && c.active_experts == 2 && c.hidden == 20 && c.window == 0 &&
           c.balance_loss == 0.001));
    CHECK((c.kv_heads == 2 && c.head_size == 10 && c.rope_theta == 1e4));
  }
  {
    const HfConfig c = fixture("gpt2/config.json");
    CHECK((c.family == "gpt2" && c.vocab == 101 && c.width == 36 && c.layers == 2 && c.heads == 4 && c.kv_heads == 4 &&
           c.head_size == 9));
    CHECK((c.hidden == 50 && c.context == 44 && c.epsilon == 1e-5 && c.tied && c.activation == "gelu_new" && c.attention_bias &&
           c.mlp_bias && c.rope_theta == 0));
  }
  for (const char* file : {"mamba2/config.json", "mamba2/config.legacy.json"}) {
    const HfConfig c = fixture(file);
    CHECK((c.family == "mamba2" && c.vocab == 97 && c.width == 32 && c.layers == 2 && c.heads == 4 && c.head_size == 16 &&
           !c.tied));
    CHECK((c.ssm.inner == 64 && c.ssm.state == 10 && c.ssm.groups == 2 && c.ssm.taps == 4 && c.ssm.chunk == 8));
    CHECK((!c.ssm.bias && c.ssm.convolution_bias && c.ssm.step_least == 0 && std::isinf(c.ssm.step_most) && c.ssm.step_most > 0));
  }
}

TEST_CASE("what a config leaves out has the family's default") {
  const HfConfig a = parsed("{" + llama + "}");
  CHECK((a.kv_heads == 4 && a.head_size == 16 && a.context == 2048 && a.epsilon == 1e-6 && a.rope_theta == 1e4 && !a.tied &&
         a.stored.empty()));
  const std::string other = llama.substr(llama.find(','));
  const HfConfig b = parsed("{\"model_type\":\"mistral\"" + other + ",\"num_key_value_heads\":2}");
  CHECK((b.window == 4096 && b.context == 131072));
  CHECK(parsed("{\"model_type\":\"mistral\"" + other + ",\"num_key_value_heads\":2,\"sliding_window\":null}").window == 0);
  CHECK(parsed("{\"model_type\":\"mistral\"" + other + ",\"num_key_value_heads\":null}").kv_heads == 4);
  const HfConfig c = parsed("{\"model_type\":\"mixtral\"" + other + ",\"num_key_value_heads\":2}");
  CHECK((c.experts == 8 && c.active_experts == 2 && c.window == 0 && c.rope_theta == 1e6 && c.epsilon == 1e-5));
  const HfConfig d = parsed("{" + gpt2 + ",\"n_inner\":null}");
  CHECK((d.hidden == 256 && d.context == 1024 && d.tied && d.activation == "gelu_new"));
  const HfConfig e = parsed("{" + mamba2 + "}");
  CHECK((e.ssm.groups == 8 && e.ssm.taps == 4 && e.ssm.chunk == 256 && e.ssm.convolution_bias && std::isinf(e.ssm.step_most)));
  CHECK(parsed("{" + mamba2 + ",\"time_step_limit\":[0.001, 0.1]}").ssm.step_most == 0.1);
}

TEST_CASE("bare words that only Python writes") {
  CHECK(std::isinf(parsed("{" + mamba2 + ",\"time_step_limit\":[0.0,Infinity]}").ssm.step_most));
  CHECK(std::isinf(parsed("{" + mamba2 + ",\"time_step_limit\":[-Infinity,1]}").ssm.step_least));
  CHECK(parsed("{" + llama + ",\"note\":\"to Infinity and \\\"NaN\\\" \\\\\"}").width == 64);
  CHECK(fault("{" + llama + ",\"rms_norm_eps\":Infinity}") == "config.json: rms_norm_eps | this key must be a number");
  CHECK(fault("{" + llama + ",\"rms_norm_eps\":NaN}") == "config.json: rms_norm_eps | this key must be a number");
  CHECK(fault("{" + mamba2 + ",\"time_step_limit\":[0,NaN]}") == "config.json: time_step_limit | this key must be a number");
}

TEST_CASE("errors name the key") {
  const struct {
    std::string text, fault;
  } cases[] = {
      {"", "config.json: byte 0 | JSON: the text ends too early"},
      {"{", "config.json: byte 1 | JSON: the text ends too early"},
      {"{} x", "config.json: byte 3 | JSON: something follows the document"},
      {"[]", "config.json | the config is not an object"},
      {"{}", "config.json: model_type | this key is missing"},
      {std::string(100, '['), "config.json: byte 32 | JSON: nested too deeply"},
      {"{\"model_type\":7}", "config.json: model_type | this key must be a string"},
      {"{\"model_type\":\"bert\"}", "config.json: model_type | this model_type is not supported"},
      {"{\"model_type\":\"llama\"}", "config.json: vocab_size | this key is missing"},
      {"{\"model_type\":\"gpt2\",\"vocab_size\":5}", "config.json: n_embd | this key is missing"},
      {"{\"model_type\":\"mamba2\",\"vocab_size\":5,\"hidden_size\":8}", "config.json: num_hidden_layers | this key is missing"},
      {"{\"model_type\":\"llama\",\"vocab_size\":\"5\"}", "config.json: vocab_size | this key must be a non-negative integer"},
      {"{\"model_type\":\"llama\",\"vocab_size\":-5}", "config.json: vocab_size | this key must be a non-negative integer"},
      {"{\"model_type\":\"llama\",\"vocab_size\":5.0}", "config.json: vocab_size | this key must be a non-negative integer"},
      {"{\"model_type\":\"llama\",\"vocab_size\":0}", "config.json: vocab_size | this key is out of range"},
      {"{\"model_type\":\"llama\",\"vocab_size\":2147483649}", "config.json: vocab_size | this key is out of range"},
      {"{\"model_type\":\"llama\",\"vocab_size\":18446744073709551615}", "config.json: vocab_size | this key is out of range"},
      {"{" + llama + ",\"num_key_value_heads\":3}",
       "config.json: num_key_value_heads | num_key_value_heads must divide num_attention_heads"},
      {"{\"model_type\":\"llama\",\"vocab_size\":5,\"hidden_size\":2,\"num_hidden_layers\":1,\"intermediate_size\":4,"
       "\"num_attention_heads\":4}",
       "config.json: head_dim | there are more heads than hidden_size has elements"},
      {"{" + llama + ",\"num_key_value_heads\":0}", "config.json: num_key_value_heads | this key is out of range"},
      {"{" + llama + ",\"tie_word_embeddings\":1}", "config.json: tie_word_embeddings | this key must be true or false"},
      {"{" + llama + ",\"rms_norm_eps\":\"small\"}", "config.json: rms_norm_eps | this key must be a number"},
      {"{" + llama + ",\"rms_norm_eps\":0}", "config.json: rms_norm_eps or layer_norm_epsilon | epsilon must be positive"},
      {"{" + llama + ",\"hidden_act\":\"gelu\"}", "config.json: hidden_act | only the activation \"silu\" is supported here"},
      {"{" + llama + ",\"rope_theta\":-1}", "config.json: rope_theta | rope_theta must be positive"},
      {"{" + llama + ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
       "config.json: rope_scaling: rope_type | only the rope type \"default\" is supported"},
      {"{" + llama + ",\"rope_scaling\":{\"rope_type\":null,\"type\":\"linear\",\"factor\":2}}",
       "config.json: rope_scaling: rope_type | only the rope type \"default\" is supported"},
      {"{" + llama + ",\"rope_parameters\":{\"rope_type\":\"yarn\"}}",
       "config.json: rope_parameters: rope_type | only the rope type \"default\" is supported"},
      {"{" + llama + ",\"rope_parameters\":[]}", "config.json: rope_parameters | this key must be an object"},
      {"{" + llama + ",\"partial_rotary_factor\":0.5}",
       "config.json: partial_rotary_factor | rotary positions on a part of a head are not supported"},
      {"{" + gpt2 + ",\"activation_function\":\"relu\"}",
       "config.json: activation_function | only the activations \"gelu_new\" and \"gelu\" are supported here"},
      {"{" + gpt2 + ",\"scale_attn_by_inverse_layer_idx\":true}",
       "config.json: scale_attn_by_inverse_layer_idx | scaling scores by the layer's number is not supported"},
      {"{" + gpt2 + ",\"scale_attn_weights\":false}",
       "config.json: scale_attn_weights | scores without scaling are not supported"},
      {"{\"model_type\":\"gpt2\",\"vocab_size\":5,\"n_embd\":10,\"n_layer\":1,\"n_head\":3}",
       "config.json: n_head | n_head must divide n_embd"},
      {"{" + mamba2 + ",\"n_groups\":3}", "config.json: n_groups | n_groups must divide num_heads"},
      {"{" + mamba2 + ",\"expand\":3}", "config.json: expand | expand times hidden_size must be num_heads times head_dim"},
      {"{" + mamba2 + ",\"time_step_limit\":5}", "config.json: time_step_limit | this key must be an array of two numbers"},
      {"{" + mamba2 + ",\"time_step_limit\":[1,0]}", "config.json: time_step_limit | the limits are in the wrong order"},
  };
  for (const auto& each : cases) {
    CAPTURE(each.text);
    CHECK(fault(each.text) == each.fault);
  }
  // The largest sizes that pass do not overflow what is computed from them.
  CHECK(fault("{\"model_type\":\"mamba2\",\"vocab_size\":1,\"hidden_size\":2147483648,\"num_hidden_layers\":1,\"num_heads\":"
              "2147483648,\"head_dim\":2147483648,\"state_size\":1}") ==
        "config.json: expand | expand times hidden_size must be num_heads times head_dim");
}

TEST_CASE("a config file that is none") {
  support::Directory directory;
  CHECK(!io::read_hf_config(directory / "missing"));
  support::spill(directory / "empty", "");
  CHECK(io::read_hf_config(directory / "empty").error().what == "the file is empty");
  support::spill(directory / "large", std::string((1 << 20) + 1, ' '));
  CHECK(io::read_hf_config(directory / "large").error().what == "the file is larger than allowed");
}

TEST_CASE("damaged configs are errors or configs, never crashes") {
  support::Random random(6);
  const std::string sound[] = {
      support::slurp(support::golden("llama/config.json")), support::slurp(support::golden("gpt2/config.json")),
      support::slurp(support::golden("mamba2/config.legacy.json")), support::slurp(support::golden("mixtral/config.json"))};
  Index accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = sound[random.below(4)];
    for (Index n = 1 + random.below(3); n > 0; --n) {
      const auto at = to_size(random.below(to_index(text.size())));
      switch (random.below(4)) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.insert(at, 1, "0123456789-eE.{}[]\",:nulI"[random.below(25)]);
          break;
        case 2:
          text.erase(at, to_size(1 + random.below(20)));
          break;
        default:
          text.insert(at, text.substr(to_size(random.below(to_index(text.size()))), to_size(random.below(30))));
      }
    }
    const Result<HfConfig> config = io::parse_hf_config(text);
    accepted += static_cast<bool>(config);
    if (!config) CHECK(!config.error().message().empty());
  }
  CHECK(accepted > 500);
}
