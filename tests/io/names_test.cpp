// Published checkpoints into our tensors and back: the fixtures element by element against plain indexing, every complaint in one
// error, and nothing written unless all fits.
#include <set>

#include "tensors.hpp"

using namespace hybridmoe;
using namespace support;
using io::Match;

namespace {

std::string detail_of(const Status& status) {
  REQUIRE(!status);
  CHECK(status.error().code == Code::file_mismatch);
  CHECK(status.error().what == "the file does not fit the model");
  return status.error().detail;
}

}  // namespace

TEST_CASE("patterns match whole names") {
  const auto numbers = [](const char* pattern, const char* name) {
    const std::optional<Match> found = io::match(pattern, name);
    std::string text = found ? "" : "no";
    for (std::size_t i = 0; found && i < found->numbers.size(); ++i) text += std::string(found->numbers[i]) + ";";
    return found ? text + std::string(found->word) : text;
  };
  CHECK(numbers("layers.#.mixer.query.@", "layers.12.mixer.query.weight") == "12;weight");
  CHECK(numbers("layers.#.mixer.query.@", "layers.0.mixer.query.bias") == "0;bias");
  CHECK(numbers("layers.#.experts.#.up.weight", "layers.3.experts.15.up.weight") == "3;15;");
  for (const char* name :
       {"layers..mixer.query.bias", "layers.1.mixer.query.", "layers.1.mixer.query.biases", "layers.1.mixer.query.weigh",
        "layers.x.mixer.query.bias", "layers.01.mixer.query.bias", "layers.-1.mixer.query.bias", "layers.1.mixer.query",
        "xlayers.1.mixer.query.bias", "", "layers.1.mixer.query.bia"}) {
    CAPTURE(name);
    CHECK(numbers("layers.#.mixer.query.@", name) == "no");
  }
  CHECK(numbers("optimizer.*", "optimizer.first.x") == "");
  CHECK(numbers("optimizer.*", "optimizer") == "no");
  CHECK(io::substitute("a.#.b.#.@", *io::match("#.#.@", "7.10.bias")) == "a.7.b.10.bias");
}

TEST_CASE("llama, mistral and mixtral fixtures load, and are their files again when assembled") {
  {
    const SafetensorsFile file = opened(golden("llama/model.safetensors"));
    const Tensors t = llama_like({101, 32, 4, 2, 10, 44});
    load(file, t, io::llama);
    CHECK(is_equal(t["layers.1.mixer.key.weight"], values(file, "model.layers.1.self_attn.k_proj.weight")));
    CHECK(is_equal(t["layers.0.channel.gate.weight"], values(file, "model.layers.0.mlp.gate_proj.weight")));
    CHECK(is_equal(t["layers.0.channel.up.weight"], values(file, "model.layers.0.mlp.up_proj.weight")));
    CHECK(is_equal(t["head.weight"], values(file, "lm_head.weight")));
    compare_assembled(file, t, io::llama);
  }
  {
    const SafetensorsFile file = opened(golden("mistral/model.safetensors"));
    const Tensors t = llama_like({97, 32, 4, 2, 10, 48});
    load(file, t, io::mistral);
    CHECK(is_equal(t["layers.0.channel_norm.weight"], values(file, "model.layers.0.post_attention_layernorm.weight")));
    compare_assembled(file, t, io::mistral);
  }
  {
    const SafetensorsFile file = opened(golden("mixtral/model.safetensors"));
    const Tensors t = llama_like({97, 32, 4, 2, 10, 20, 5});
    load(file, t, io::mixtral);
    CHECK(is_equal(t["layers.1.channel.experts.3.gate.weight"],
                   values(file, "model.layers.1.block_sparse_moe.experts.3.w1.weight")));
    CHECK(
        is_equal(t["layers.1.channel.experts.3.up.weight"], values(file, "model.layers.1.block_sparse_moe.experts.3.w3.weight")));
    CHECK(is_equal(t["layers.1.channel.experts.4.down.weight"],
                   values(file, "model.layers.1.block_sparse_moe.experts.4.w2.weight")));
    CHECK(is_equal(t["layers.0.channel.router.weight"], values(file, "model.layers.0.block_sparse_moe.gate.weight")));
    compare_assembled(file, t, io::mixtral);
  }
}

TEST_CASE("the gpt2 fixture: transposed, and split into query, key and value") {
  const SafetensorsFile file = opened(golden("gpt2/model.safetensors"));
  const Tensors t = gpt2_like();
  load(file, t, io::gpt2);
  const std::vector<float> fused = values(file, "transformer.h.1.attn.c_attn.weight"),
                           bias = values(file, "transformer.h.1.attn.c_attn.bias");
  Index first = 0;
  for (const char* part : {"query", "key", "value"}) {
    CHECK(is_transposed(t[std::string("layers.1.mixer.") + part + ".weight"], 36, 36, fused, 108, first));
    CHECK(std::equal(bias.begin() + first, bias.begin() + first + 36, t[std::string("layers.1.mixer.") + part + ".bias"]));
    first += 36;
  }
  CHECK(is_transposed(t["layers.0.mixer.output.weight"], 36, 36, values(file, "transformer.h.0.attn.c_proj.weight"), 36, 0));
  CHECK(is_transposed(t["layers.0.channel.up.weight"], 50, 36, values(file, "transformer.h.0.mlp.c_fc.weight"), 50, 0));
  CHECK(is_transposed(t["layers.0.channel.down.weight"], 36, 50, values(file, "transformer.h.0.mlp.c_proj.weight"), 36, 0));
  CHECK(is_equal(t["position.weight"], values(file, "transformer.wpe.weight")));
  CHECK(is_equal(t["final_norm.bias"], values(file, "transformer.ln_f.bias")));
  compare_assembled(file, t, io::gpt2);
}

TEST_CASE("the mamba2 fixture: mixed types, and an axis that only the file has") {
  const SafetensorsFile file = opened(golden("mamba2/model.safetensors"));
  const Tensors t = mamba2_like();
  load(file, t, io::mamba2);
  CHECK(is_equal(t["layers.0.mixer.convolution.weight"], values(file, "backbone.layers.0.mixer.conv1d.weight")));
  CHECK(is_equal(t["layers.1.mixer.decay_log"], values(file, "backbone.layers.1.mixer.A_log")));
  CHECK(is_equal(t["layers.1.mixer.skip"], values(file, "backbone.layers.1.mixer.D")));
  CHECK(is_equal(t["layers.1.mixer.step_bias"], values(file, "backbone.layers.1.mixer.dt_bias")));
  CHECK(is_equal(t["layers.1.mixer_norm.weight"], values(file, "backbone.layers.1.norm.weight")));
  CHECK(is_equal(t["layers.1.mixer.norm.weight"], values(file, "backbone.layers.1.mixer.norm.weight")));
  compare_assembled(file, t, io::mamba2);
}

TEST_CASE("every gradient of the fixtures has a tensor of ours behind it") {
  const auto covered = [](const char* folder, const Tensors& t, const Family& family) {
    Result<std::vector<FileTensor>> layout = io::file_layout(t.list, family);
    REQUIRE(layout);
    const SafetensorsFile file = opened(golden(std::string(folder) + "/golden.safetensors"));
    Index gradients = 0;
    for (const FileTensor& tensor : *layout) {
      const std::optional<TensorInfo> full = file.find("grad." + tensor.name);
      const bool sampled = file.find("grad_sample." + tensor.name).has_value();
      CAPTURE(tensor.name);
      CHECK((full.has_value() != sampled));
      if (full) CHECK(full->shape == tensor.shape);
      ++gradients;
    }
    Index stored = 0;
    for (Index i = 0; i < file.size(); ++i)
      stored += file[i].name.starts_with("grad.") || file[i].name.starts_with("grad_sample.");
    CHECK(stored == gradients);
  };
  covered("llama", llama_like({101, 32, 4, 2, 10, 44}), io::llama);
  covered("mistral", llama_like({97, 32, 4, 2, 10, 48}), io::mistral);
  covered("mixtral", llama_like({97, 32, 4, 2, 10, 20, 5}), io::mixtral);
  covered("gpt2", gpt2_like(), io::gpt2);
  covered("mamba2", mamba2_like(), io::mamba2);
}

TEST_CASE("one error lists all that is missing, surplus, misshapen and mistyped, and nothing is written") {
  support::Directory directory;
  const Tensors source = llama_like({11, 4, 2, 1, 3, 5});
  Result<std::vector<FileTensor>> layout = io::file_layout(source.list, io::llama);
  REQUIRE(layout);
  std::vector<std::vector<float>> memory;
  std::vector<std::int64_t> whole(1000);
  io::SafetensorsWriter writer;
  for (const FileTensor& tensor : *layout) {
    memory.emplace_back(to_size(tensor.shape.elements()) + 100, 1.0f);
    if (tensor.name == "model.layers.0.self_attn.q_proj.weight" || tensor.name == "model.norm.weight") continue;
    if (tensor.name == "model.layers.1.mlp.up_proj.weight") {
      writer.add(tensor.name, shape({4, 5}), memory.back().data());
    } else if (tensor.name == "model.layers.1.input_layernorm.weight") {
      writer.add(tensor.name, shape({4, 1}), memory.back().data());
    } else if (tensor.name == "model.embed_tokens.weight") {
      writer.add(tensor.name, tensor.shape, whole.data());
    } else {
      writer.add(tensor.name, tensor.shape, memory.back().data());
    }
  }
  writer.add("model.layers.2.input_layernorm.weight", shape({4}), memory[0].data());
  writer.add("strange \"name\"\n", shape({}), memory[0].data());
  writer.add("model.layers.0.self_attn.rotary_emb.inv_freq", shape({2}), memory[0].data());
  REQUIRE(writer.write(directory / "file"));
  const SafetensorsFile file = opened(directory / "file");
  const Tensors ours = llama_like({11, 4, 2, 1, 3, 5});
  const std::string detail = detail_of(io::load_tensors(file, ours.list, io::llama));
  CHECK(ours.untouched());
  std::set<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t end = 0; end != std::string::npos; begin = end + 1) {
    end = detail.find('\n', begin);
    lines.insert(detail.substr(begin, end - begin));
  }
  CHECK(lines == std::set<std::string>{
                     "2 missing, 2 surplus, 2 misshapen, 1 mistyped",
                     "missing: \"model.layers.0.self_attn.q_proj.weight\" [6, 4]",
                     "missing: \"model.norm.weight\" [4]",
                     "surplus: \"model.layers.2.input_layernorm.weight\" [4]",
                     "surplus: \"strange \\\"name\\\"\\u000a\" []",
                     "misshapen: \"model.layers.1.mlp.up_proj.weight\": the file has [4, 5], the model needs [5, 4]",
                     "misshapen: \"model.layers.1.input_layernorm.weight\": the file has [4, 1], the model needs [4]",
                     "mistyped: \"model.embed_tokens.weight\": the file has I64, the model needs F32 for embedding.weight",
                 });
}

TEST_CASE("a fused tensor of another width is misshapen as a whole") {
  const SafetensorsFile file = opened(golden("gpt2/model.safetensors"));
  const Tensors ours = gpt2_like(101, 44, 36, 51);
  CHECK(detail_of(io::load_tensors(file, ours.list, io::gpt2)).starts_with("0 missing, 0 surplus, 6 misshapen, 0 mistyped\n"));
  CHECK(ours.untouched());
  const Tensors other = gpt2_like(101, 44, 32, 50);
  CHECK(detail_of(io::load_tensors(file, other.list, io::gpt2))
            .find("\"transformer.h.0.attn.c_attn.weight\": the file has [36, 108], the model needs [32, 96]") !=
        std::string::npos);
}

TEST_CASE("a model of another family names what the family lacks") {
  const SafetensorsFile file = opened(golden("llama/model.safetensors"));
  const Tensors ours = mamba2_like();
  const Status done = io::load_tensors(file, ours.list, io::llama);
  REQUIRE(!done);
  CHECK(done.error().what == "the model has tensors that this family of files does not have");
  CHECK(done.error().detail.starts_with(
      "unknown: layers.0.mixer.input.weight [172, 32]\nunknown: layers.0.mixer.convolution.weight [104, 4]\n"));
  CHECK(ours.untouched());
}

TEST_CASE("prefixes that some files lack, buffers that others carry, and tied heads") {
  support::Directory directory;
  const SafetensorsFile published = opened(golden("gpt2/model.safetensors"));
  const auto rewritten = [&](bool prefixed, bool buffers, const char* head, float change) {
    std::deque<std::vector<float>> memory;
    io::SafetensorsWriter writer;
    for (Index i = 0; i < published.size(); ++i) {
      const TensorInfo tensor = published[i];
      memory.push_back(values(published, std::string(tensor.name)));
      writer.add(std::string(tensor.name.substr(prefixed ? 0 : 12)), tensor.shape, memory.back().data());
    }
    const std::string prefix = prefixed ? "transformer." : "";
    if (buffers) writer.add(prefix + "h.0.attn.bias", shape({1, 1, 4, 4}), memory.front().data());
    if (buffers) writer.add(prefix + "h.1.attn.masked_bias", shape({}), memory.front().data());
    if (head != nullptr) {
      memory.push_back(values(published, "transformer.wte.weight"));
      memory.back().back() += change;
      writer.add(head, shape({101, 36}), memory.back().data());
    }
    REQUIRE(writer.write(directory / "file"));
    const SafetensorsFile file = opened(directory / "file");
    Tensors ours = gpt2_like();
    const Status done = io::load_tensors(file, ours.list, io::gpt2);
    if (!done) {
      CHECK(ours.untouched());
      return done.error().detail;
    }
    CHECK(is_equal(ours["final_norm.bias"], values(published, "transformer.ln_f.bias")));
    return std::string("loaded");
  };
  for (const bool prefixed : {false, true}) {
    CHECK(rewritten(prefixed, false, nullptr, 0) == "loaded");
    CHECK(rewritten(prefixed, true, nullptr, 0) == "loaded");
    CHECK(rewritten(prefixed, true, "lm_head.weight", 0) == "loaded");
    CHECK(rewritten(prefixed, false, "lm_head.weight", 1) ==
          "0 missing, 1 surplus, 0 misshapen, 0 mistyped\nsurplus: \"lm_head.weight\" [101, 36]");
    CHECK(rewritten(prefixed, false, "other.weight", 0) ==
          "0 missing, 1 surplus, 0 misshapen, 0 mistyped\nsurplus: \"other.weight\" [101, 36]");
  }
}

TEST_CASE("a hostile file cannot make the list of complaints grow without bound") {
  support::Directory directory;
  const float value = 0;
  io::SafetensorsWriter writer;
  for (int i = 0; i < 60'000; ++i) writer.add("n" + std::to_string(i) + std::string(100, 'x'), shape({}), &value);
  REQUIRE(writer.write(directory / "file"));
  const SafetensorsFile file = opened(directory / "file");
  const Tensors ours = llama_like({11, 4, 2, 1, 3, 5});
  const std::string detail = detail_of(io::load_tensors(file, ours.list, io::llama));
  CHECK(detail.starts_with("21 missing, 60000 surplus, 0 misshapen, 0 mistyped\n"));
  CHECK(detail.ends_with("\nand 10000 more surplus"));
  CHECK(detail.size() < 15'000'000);
}
