// Published checkpoints into our tensors and back: the fixtures element by element against plain indexing, every complaint in one
// error, nothing written unless all fits, and the layouts that families to come will need.
#include <catch2/catch_test_macros.hpp>

#include <deque>
#include <set>

#include <hybridmoe/io/families.hpp>
#include <hybridmoe/io/load.hpp>
#include <hybridmoe/io/safetensors.hpp>

#include "support.hpp"

using namespace hybridmoe;
using io::Family;
using io::FileTensor;
using io::Match;
using io::SafetensorsFile;
using io::Shape;
using io::Source;
using io::TensorInfo;
using io::TensorList;
using support::golden;

namespace {

Shape shape(std::initializer_list<Index> extents) {
  Shape result;
  for (const Index extent : extents) result.extent[to_size(result.rank++)] = extent;
  return result;
}

/// A model as its tensors alone, all elements −77 to begin with.
struct Tensors {
  TensorList list;
  std::deque<std::vector<float>> memory;

  float* add(const std::string& name, std::initializer_list<Index> extents) {
    const Shape s = shape(extents);
    memory.emplace_back(to_size(s.elements()), -77.0f);
    list.add(name, s, memory.back().data());
    return memory.back().data();
  }
  const float* operator[](const std::string& name) const { return reinterpret_cast<const float*>(list.find(name)->data); }
  bool untouched() const {
    for (const std::vector<float>& tensor : memory) {
      for (const float value : tensor) {
        if (value != -77.0f) return false;
      }
    }
    return true;
  }
};

/// Sizes of the fixtures.
struct Sizes {
  Index vocab, width, heads, kv, size, hidden, experts = 0;
};

Tensors llama_like(const Sizes& s, bool tied = false) {
  Tensors t;
  t.add("embedding.weight", {s.vocab, s.width});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    t.add(layer + "mixer_norm.weight", {s.width});
    t.add(layer + "mixer.query.weight", {s.heads * s.size, s.width});
    t.add(layer + "mixer.key.weight", {s.kv * s.size, s.width});
    t.add(layer + "mixer.value.weight", {s.kv * s.size, s.width});
    t.add(layer + "mixer.output.weight", {s.width, s.heads * s.size});
    t.add(layer + "channel_norm.weight", {s.width});
    if (s.experts > 0) t.add(layer + "channel.router.weight", {s.experts, s.width});
    for (Index e = 0; e < (s.experts > 0 ? s.experts : 1); ++e) {
      const std::string mlp = layer + "channel." + (s.experts > 0 ? "experts." + std::to_string(e) + "." : "");
      t.add(mlp + "gate.weight", {s.hidden, s.width});
      t.add(mlp + "up.weight", {s.hidden, s.width});
      t.add(mlp + "down.weight", {s.width, s.hidden});
    }
  }
  t.add("final_norm.weight", {s.width});
  if (!tied) t.add("head.weight", {s.vocab, s.width});
  return t;
}

Tensors gpt2_like(Index vocab = 101, Index context = 44, Index width = 36, Index hidden = 50) {
  Tensors t;
  t.add("embedding.weight", {vocab, width});
  t.add("position.weight", {context, width});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    for (const char* norm : {"mixer_norm", "channel_norm"}) {
      t.add(layer + norm + ".weight", {width});
      t.add(layer + norm + ".bias", {width});
    }
    for (const char* projection : {"query", "key", "value", "output"}) {
      t.add(layer + "mixer." + projection + ".weight", {width, width});
      t.add(layer + "mixer." + projection + ".bias", {width});
    }
    t.add(layer + "channel.up.weight", {hidden, width});
    t.add(layer + "channel.up.bias", {hidden});
    t.add(layer + "channel.down.weight", {width, hidden});
    t.add(layer + "channel.down.bias", {width});
  }
  t.add("final_norm.weight", {width});
  t.add("final_norm.bias", {width});
  return t;
}

Tensors mamba2_like() {
  Tensors t;
  t.add("embedding.weight", {97, 32});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    t.add(layer + "mixer_norm.weight", {32});
    t.add(layer + "mixer.input.weight", {172, 32});
    t.add(layer + "mixer.convolution.weight", {104, 4});
    t.add(layer + "mixer.convolution.bias", {104});
    t.add(layer + "mixer.step_bias", {4});
    t.add(layer + "mixer.decay_log", {4});
    t.add(layer + "mixer.skip", {4});
    t.add(layer + "mixer.norm.weight", {64});
    t.add(layer + "mixer.output.weight", {32, 64});
  }
  t.add("final_norm.weight", {32});
  t.add("head.weight", {97, 32});
  return t;
}

SafetensorsFile opened(const std::string& path) {
  Result<SafetensorsFile> file = SafetensorsFile::open(path);
  if (!file) FAIL(file.error().message());
  return std::move(file).value();
}

std::vector<float> values(const SafetensorsFile& file, const std::string& name) {
  const std::optional<TensorInfo> tensor = file.find(name);
  if (!tensor) FAIL("no " << name);
  std::vector<float> result(to_size(tensor->shape.elements()));
  REQUIRE(file.read(*tensor, result.data()));
  return result;
}

void load(const SafetensorsFile& file, const Tensors& tensors, const Family& family) {
  const Status done = io::load_tensors(file, tensors.list, family);
  if (!done) FAIL(done.error().message());
  for (const std::vector<float>& tensor : tensors.memory) {
    for (const float value : tensor) REQUIRE(value != -77.0f);
  }
}

/// Our tensors, put together again, are the file's tensors: all of them, with their shapes.
void compare_assembled(const SafetensorsFile& file, const Tensors& tensors, const Family& family) {
  Result<std::vector<FileTensor>> layout = io::file_layout(tensors.list, family);
  REQUIRE(layout);
  CHECK(to_index(layout->size()) == file.size());
  for (const FileTensor& tensor : *layout) {
    CAPTURE(tensor.name);
    REQUIRE(file.find(tensor.name));
    CHECK(tensor.shape == file.find(tensor.name)->shape);
    std::vector<float> made(to_size(tensor.shape.elements()), -77.0f);
    REQUIRE(io::assemble(tensor, tensors.list, made.data()));
    CHECK(made == values(file, tensor.name));
  }
}

/// Whether ours[r, c] = theirs[c, first + r] of a matrix with `columns` columns.
bool is_transposed(const float* ours, Index rows, Index width, const std::vector<float>& theirs, Index columns, Index first) {
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < width; ++c) {
      if (ours[r * width + c] != theirs[to_size(c * columns + first + r)]) return false;
    }
  }
  return true;
}
bool is_equal(const float* ours, const std::vector<float>& theirs) { return std::equal(theirs.begin(), theirs.end(), ours); }

std::string detail_of(const Status& status) {
  REQUIRE(!status);
  CHECK(status.error().code == Code::file_mismatch);
  CHECK(status.error().what == "the file does not fit the model");
  return status.error().detail;
}

/// Per head [q, k, v], three rows each: bloom.
template <int part>
Source by_head(Source source, const Match&, const Shape&) {
  source.first = part * 3;
  source.block = 3;
  source.stride = 9;
  return source;
}
/// Experts packed as [experts, in, 2·hidden], gate and up in turn: gpt_oss.
template <int first>
Source interleaved(Source source, const Match& match, const Shape&) {
  source.slab = match.numbers[0][0] - '0';
  source.transposed = true;
  source.first = first;
  source.block = 1;
  source.stride = 2;
  return source;
}
Source beyond(Source source, const Match&, const Shape&) {
  source.first = 3;
  return source;
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

TEST_CASE("our own files: equal names, equal types, several types in one list") {
  support::Directory directory;
  float weight[6] = {1, 2, 3, 4, 5, 6};
  double moment[2] = {0.1, 0.2};
  std::int64_t cursor[1] = {1234567890123};
  io::ConstTensorList saved;
  saved.add("weight", shape({2, 3}), static_cast<const float*>(weight));
  saved.add("moment", shape({2}), static_cast<const double*>(moment));
  saved.add("cursor", shape({}), static_cast<const std::int64_t*>(cursor));
  io::SafetensorsWriter writer;
  writer.add(saved);
  REQUIRE(writer.write(directory / "file"));
  const SafetensorsFile file = opened(directory / "file");
  float weight_again[6];
  double moment_again[2];
  std::int64_t cursor_again[1];
  TensorList list;
  list.add("weight", shape({2, 3}), weight_again);
  list.add("moment", shape({2}), moment_again);
  list.add("cursor", shape({}), cursor_again);
  REQUIRE(io::load_tensors(file, list, io::own_names));
  CHECK(std::equal(weight, weight + 6, weight_again));
  CHECK(std::equal(moment, moment + 2, moment_again));
  CHECK(cursor_again[0] == cursor[0]);
  // A double is not silently rounded to float when training is to go on bit for bit.
  TensorList narrow;
  narrow.add("weight", shape({2, 3}), weight_again);
  narrow.add("moment", shape({2}), weight_again);
  narrow.add("cursor", shape({}), cursor_again);
  CHECK(detail_of(io::load_tensors(file, narrow, io::own_names)) ==
        "0 missing, 0 surplus, 0 misshapen, 1 mistyped\nmistyped: \"moment\": the file has F64, the model needs F32 for moment");
  // Weights alone out of a file that holds more.
  constexpr std::string_view rest[] = {"mom*", "cursor"};
  const Family weights_only{.name = "weights", .rules = {}, .ignored = rest, .exact = true};
  TensorList part;
  part.add("weight", shape({2, 3}), weight_again);
  CHECK(io::load_tensors(file, part, weights_only));
  CHECK(!io::load_tensors(file, part, io::own_names));
}

TEST_CASE("layouts of families to come: fused by head, packed experts, interleaved, unequal parts") {
  support::Directory directory;
  // A tensor of the file whose element at flat index i is i, so that values say where they came from.
  std::vector<float> count(4096);
  for (std::size_t i = 0; i < count.size(); ++i) count[i] = static_cast<float>(i);
  const auto loaded = [&](const std::string& name, const Shape& theirs, const Tensors& ours, const Family& family) {
    io::SafetensorsWriter writer;
    writer.add(name, theirs, count.data());
    REQUIRE(writer.write(directory / "file"));
    const SafetensorsFile file = opened(directory / "file");
    load(file, ours, family);
    compare_assembled(file, ours, family);
  };
  {
    // q|k|v by rows, as many queries as fit twice the keys.
    static constexpr io::Rule rules[] = {{.ours = "q.@", .theirs = "qkv.@"},
                                         {.ours = "k.@", .theirs = "qkv.@", .before = {"q.@"}},
                                         {.ours = "v.@", .theirs = "qkv.@", .before = {"q.@", "k.@"}}};
    Tensors ours;
    ours.add("q.weight", {8, 3});
    ours.add("k.weight", {4, 3});
    ours.add("v.weight", {4, 3});
    loaded("qkv.weight", shape({16, 3}), ours, Family{.name = "fused", .rules = rules});
    CHECK((ours["q.weight"][23] == 23 && ours["k.weight"][0] == 24 && ours["v.weight"][0] == 36 && ours["v.weight"][11] == 47));
  }
  {
    static constexpr io::Rule rules[] = {{.ours = "q", .theirs = "qkv", .place = by_head<0>},
                                         {.ours = "k", .theirs = "qkv", .place = by_head<1>},
                                         {.ours = "v", .theirs = "qkv", .place = by_head<2>}};
    Tensors ours;
    for (const char* name : {"q", "k", "v"}) ours.add(name, {6, 2});  // two heads
    loaded("qkv", shape({18, 2}), ours, Family{.name = "by head", .rules = rules});
    for (Index part = 0; part < 3; ++part) {
      const float* tensor = ours[part == 0 ? "q" : part == 1 ? "k" : "v"];
      for (Index head = 0; head < 2; ++head) {
        for (Index i = 0; i < 6; ++i) CHECK(tensor[head * 6 + i] == static_cast<float>((head * 9 + part * 3) * 2 + i));
      }
    }
  }
  {
    static constexpr io::Rule rules[] = {{.ours = "experts.#.gate.weight", .theirs = "gate_up", .place = interleaved<0>},
                                         {.ours = "experts.#.up.weight", .theirs = "gate_up", .place = interleaved<1>}};
    Tensors ours;
    for (const char* expert : {"experts.0.", "experts.1.", "experts.2."}) {
      ours.add(expert + std::string("gate.weight"), {5, 4});
      ours.add(expert + std::string("up.weight"), {5, 4});
    }
    loaded("gate_up", shape({3, 4, 10}), ours, Family{.name = "packed", .rules = rules});
    for (Index expert = 0; expert < 3; ++expert) {
      const std::string name = "experts." + std::to_string(expert);
      for (Index row = 0; row < 5; ++row) {
        for (Index column = 0; column < 4; ++column) {
          const Index there = (expert * 4 + column) * 10 + 2 * row;
          CHECK(ours[name + ".gate.weight"][row * 4 + column] == static_cast<float>(there));
          CHECK(ours[name + ".up.weight"][row * 4 + column] == static_cast<float>(there + 1));
        }
      }
    }
  }
  {
    // Long transposed runs go through a buffer in pieces.
    static constexpr io::Rule rules[] = {{.ours = "w.weight", .theirs = "w", .transposed = true}};
    Tensors ours;
    ours.add("w.weight", {2000, 2});
    std::vector<float> large(4000);
    for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<float>(i);
    loaded("w", shape({2, 2000}), ours, Family{.name = "transposed", .rules = rules});
    CHECK(is_transposed(ours["w.weight"], 2000, 2, large, 2000, 0));
  }
}

TEST_CASE("parts that do not fit together are a fault of the family, not a crash") {
  static constexpr io::Rule rules[] = {{.ours = "a", .theirs = "x"},
                                       {.ours = "b", .theirs = "x", .before = {"a"}},
                                       {.ours = "c", .theirs = "x"},
                                       {.ours = "d", .theirs = "y", .place = beyond},
                                       {.ours = "e", .theirs = "z", .unit_axis = 0}};
  const Family family{.name = "broken", .rules = rules};
  const auto fits = [&](const char* one, std::initializer_list<Index> first, const char* two,
                        std::initializer_list<Index> second) {
    Tensors t;
    t.add(one, first);
    t.add(two, second);
    return static_cast<bool>(io::file_layout(t.list, family));
  };
  CHECK(fits("a", {2, 3}, "b", {4, 3}));
  CHECK(!fits("a", {2, 3}, "b", {4, 2}));
  CHECK(!fits("a", {2, 3}, "b", {4}));
  CHECK(!fits("a", {}, "b", {}));
  CHECK(!fits("a", {2}, "d", {2}));
  CHECK(!fits("a", {2}, "e", {1, 1, 1, 1, 1, 1, 1, 1}));
  CHECK(fits("a", {2}, "e", {1, 1, 1, 1, 1, 1, 1}));
}

TEST_CASE("a layer's visit fills a list") {
  struct Parameters {
    Array<float, 2, 3> weight;
    Array<float, 2> bias;
    Stacked<Array<float, 4>, 2> experts;
  };
  const auto visit = [](auto& f, const Name& at, auto& p) {
    f(at / "weight", Trait::weight(), p.weight);
    f(at / "bias", Trait::bias(), p.bias);
    for (Index e = 0; e < 2; ++e) f(at / "experts" / e / "gain", Trait::gain(), p.experts[e]);
  };
  Parameters parameters{};
  TensorList list;
  visit(list, Name{} / "layers" / 3, parameters);
  REQUIRE(list.size() == 4);
  CHECK(list[0].name == "layers.3.weight");
  CHECK(list[0].shape == shape({2, 3}));
  CHECK(list[3].name == "layers.3.experts.1.gain");
  CHECK(reinterpret_cast<float*>(list[3].data) == parameters.experts[1].data);
  CHECK(list[3].dtype == io::Dtype::f32);
  CHECK(list.find("layers.3.bias")->shape == shape({2}));
  CHECK(list.find("layers.3") == nullptr);
  const Parameters& constant = parameters;
  io::ConstTensorList read_only;
  visit(read_only, Name{}, constant);
  CHECK(read_only[1].name == "bias");
}

TEST_CASE("a hostile file cannot make the list of complaints grow without bound") {
  support::Directory directory;
  const float value = 0;
  io::SafetensorsWriter writer;
  for (int i = 0; i < 60'000; ++i) writer.add("n" + std::to_string(i) + std::string(400, 'x'), shape({}), &value);
  REQUIRE(writer.write(directory / "file"));
  const SafetensorsFile file = opened(directory / "file");
  const Tensors ours = llama_like({11, 4, 2, 1, 3, 5});
  const std::string detail = detail_of(io::load_tensors(file, ours.list, io::llama));
  CHECK(detail.starts_with("21 missing, 60000 surplus, 0 misshapen, 0 mistyped\n"));
  CHECK(detail.ends_with("\nand 10000 more surplus"));
  CHECK(detail.size() < 15'000'000);
}
