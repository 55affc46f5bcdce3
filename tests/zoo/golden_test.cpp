// Published families against what transformers computed from the same files: logits, greedy continuations, gradients.
#include <catch2/catch_test_macros.hpp>
#include <cmath>

#include <hybridmoe/generate/generate.hpp>
#include <hybridmoe/io/checkpoint.hpp>
#include <hybridmoe/io/families.hpp>
#include <hybridmoe/zoo/gpt2.hpp>
#include <hybridmoe/zoo/llama.hpp>
#include <hybridmoe/zoo/mamba2.hpp>

namespace hm = hybridmoe;
using hm::Index;

struct Llama : hm::zoo::Llama<hm::zoo::LlamaSizes{
                   .vocab = 101, .width = 32, .layers = 2, .heads = {4, 2, 10}, .hidden = 44, .context = 64}> {};
struct Mistral : hm::zoo::Mistral<hm::zoo::LlamaSizes{
                                      .vocab = 97, .width = 32, .layers = 2, .heads = {4, 2, 10}, .hidden = 48, .context = 64},
                                  7, hm::norm::Epsilon<1, 1'000'000>> {};
struct Mixtral
    : hm::zoo::Mixtral<
          hm::zoo::LlamaSizes{.vocab = 97, .width = 32, .layers = 2, .heads = {4, 2, 10}, .hidden = 20, .context = 64}, 5, 2> {};
struct Gpt2 : hm::zoo::Gpt2<hm::zoo::Gpt2Sizes{.vocab = 101, .width = 36, .layers = 2, .heads = 4, .context = 44, .hidden = 50}> {
};
struct Mamba2 : hm::zoo::Mamba2<hm::zoo::Mamba2Sizes{.vocab = 97,
                                                     .width = 32,
                                                     .layers = 2,
                                                     .mixer = {.heads = 4, .head = 16, .state = 10, .groups = 2, .chunk = 8},
                                                     .tied = false}> {};

namespace {

std::string path(const std::string& family, const char* file) {
  return std::string(HYBRIDMOE_TEST_DATA) + "/golden/" + family + "/" + file;
}

template <class T>
std::vector<T> read(const hm::io::SafetensorsFile& file, const std::string& name) {
  const auto tensor = file.find(name);
  INFO("tensor " << name);
  REQUIRE(tensor);
  std::vector<T> values(hm::to_size(tensor->shape.elements()));
  REQUIRE(file.read(*tensor, values.data()));
  return values;
}

struct Inputs {
  Index sequences, length;
  std::vector<std::int32_t> tokens;
};

Inputs inputs(const hm::io::SafetensorsFile& golden) {
  const auto shape = golden.find("input_ids")->shape;
  Inputs result{shape[0], shape[1], {}};
  for (const auto id : read<std::int64_t>(golden, "input_ids")) result.tokens.push_back(static_cast<std::int32_t>(id));
  return result;
}

template <class D, class Model>
void check_logits(const Model& packed, const hm::io::SafetensorsFile& golden, Index piece) {
  const Inputs in = inputs(golden);
  const auto expected = read<float>(golden, "logits");
  auto session = hm::generate::Session<Model>::create(packed, {.sequences = in.sequences});
  REQUIRE(session);
  double worst = 0;
  for (Index t = 0; t < in.length; t += piece) {
    const Index count = hm::smaller(piece, in.length - t);
    std::vector<hm::generate::Piece> pieces;
    for (Index s = 0; s < in.sequences; ++s) pieces.push_back({s, {in.tokens.data() + s * in.length + t, hm::to_size(count)}});
    REQUIRE(session->feed(pieces));
    for (Index s = 0; s < in.sequences; ++s)
      for (Index v = 0; v < D::vocab; ++v) {
        const double want = static_cast<double>(expected[hm::to_size((s * in.length + t + count - 1) * D::vocab + v)]);
        const double off = std::fabs(static_cast<double>(session->logits(s)[hm::to_size(v)]) - want);
        worst = off <= worst ? worst : off;  // fmax would pass over a NaN
      }
  }
  CAPTURE(piece, worst);
  CHECK(worst < 1e-4);
}

template <class Model>
void check_greedy(const Model& packed, const hm::io::SafetensorsFile& golden) {
  const Inputs in = inputs(golden);
  const auto expected = read<std::int64_t>(golden, "generated");
  const Index count = hm::to_index(expected.size()) / in.sequences;
  auto session = hm::generate::Session<Model>::create(packed, {.sequences = in.sequences});
  REQUIRE(session);
  std::vector<hm::generate::Request> requests;
  for (Index s = 0; s < in.sequences; ++s)
    requests.push_back({{in.tokens.data() + s * in.length, hm::to_size(in.length)}, count});
  std::vector<std::vector<std::int64_t>> written(hm::to_size(in.sequences));
  REQUIRE(hm::generate::generate(*session, std::span<const hm::generate::Request>(requests), {.temperature = 0},
                                 [&](Index s, std::int32_t token) { return written[hm::to_size(s)].push_back(token), true; }));
  for (Index s = 0; s < in.sequences; ++s)
    CHECK(written[hm::to_size(s)] == std::vector<std::int64_t>(expected.begin() + s * count, expected.begin() + (s + 1) * count));
}

/// Loss and gradient of the mean next-token cross-entropy, and every stored gradient within 1e-3 of its tensor's norm.
template <class D, class Model>
void check_gradients(const Model& model, const hm::io::SafetensorsFile& golden, const hm::io::Family& family) {
  const Inputs in = inputs(golden);
  const Index rows = in.sequences * in.length;
  hm::BatchPlan plan(rows, in.sequences);
  for (Index s = 0; s < in.sequences; ++s) plan.add(0, 0, in.length);
  std::vector<Index> indices(plan.data(), plan.data() + plan.count());
  std::vector<std::int32_t> target(hm::to_size(rows), -1);
  for (Index r = 0; r < rows; ++r)
    if (r % in.length + 1 < in.length) target[hm::to_size(r)] = in.tokens[hm::to_size(r) + 1];
  const double count = static_cast<double>(in.sequences * (in.length - 1));
  hm::exec::Buffer<hm::exec::Inline> arena({}, D::template training_bytes<float>(hm::Extent{rows, in.sequences, true}, false));
  hm::Call<hm::exec::Inline> call;
  call.batch = plan.view(indices.data());
  call.arena = {arena.data(), arena.data() + arena.bytes()};
  call.training = true;
  std::vector<float> gradient(hm::to_size(Model::elements));
  double loss = 0;
  D::loss_and_gradient(call, model.parameters(), in.tokens.data(), target.data(), static_cast<float>(1 / count), false, &loss,
                       gradient.data());
  CHECK(std::fabs(loss / count - static_cast<double>(read<float>(golden, "loss")[0])) < 1e-5);

  hm::io::ConstTensorList list;
  D::template visit<float, hm::Flat>(list, hm::Name{}, static_cast<const float*>(gradient.data()));
  const auto layout = hm::io::file_layout(list, family);
  REQUIRE(layout);
  Index compared = 0;
  for (const auto& tensor : *layout) {
    std::vector<float> ours(hm::to_size(tensor.shape.elements()));
    REQUIRE(hm::io::assemble(tensor, list, ours.data()));
    const bool whole = golden.find("grad." + tensor.name).has_value();
    if (!whole && !golden.find("grad_sample." + tensor.name)) {
      for (const float g : ours) CHECK(g == 0.0f);  // an expert that no token chose
      continue;
    }
    ++compared;
    const auto theirs = read<float>(golden, (whole ? "grad." : "grad_sample.") + tensor.name);
    const auto stride = whole ? 1 : static_cast<std::size_t>(read<std::int64_t>(golden, "grad_stride." + tensor.name)[0]);
    double norm = 0, norm_ours = 0, difference = 0;
    for (const float g : ours) norm_ours += static_cast<double>(g) * static_cast<double>(g);
    for (std::size_t i = 0; i < theirs.size(); ++i) {
      const double a = static_cast<double>(theirs[i]), b = static_cast<double>(ours[i * stride]);
      norm += a * a;
      difference += (a - b) * (a - b);
    }
    if (!whole) norm = std::pow(static_cast<double>(read<float>(golden, "grad_norm." + tensor.name)[0]), 2);
    INFO(tensor.name << ": norm " << std::sqrt(norm) << ", difference " << std::sqrt(difference));
    CHECK(std::sqrt(difference) <= 1e-3 * std::sqrt(norm));
    CHECK(std::fabs(std::sqrt(norm_ours) - std::sqrt(norm)) <= 1e-3 * std::sqrt(norm));
  }
  CHECK(compared > 10);
}

template <class D>
void check_family(const std::string& name, const hm::io::Family& family) {
  const auto golden = hm::io::SafetensorsFile::open(path(name, "golden.safetensors"));
  REQUIRE(golden);
  hm::Model<D, float> model{hm::exec::Inline{}};
  const auto loaded = hm::io::load_weights(model, path(name, "model.safetensors"), family);
  INFO((loaded ? std::string() : loaded.error().message()));
  REQUIRE(loaded);
  const auto packed = hm::pack(model);
  for (const Index piece : {1, 5, 24}) check_logits<D>(packed, *golden, piece);
  check_greedy(packed, *golden);
  check_gradients<D>(model, *golden, family);
}

}  // namespace

TEST_CASE("Llama's logits, continuations and gradients") { check_family<Llama>("llama", hm::io::llama); }
TEST_CASE("Mistral's logits, continuations and gradients") { check_family<Mistral>("mistral", hm::io::mistral); }
TEST_CASE("Mixtral's logits, continuations and gradients") { check_family<Mixtral>("mixtral", hm::io::mixtral); }
TEST_CASE("GPT-2's logits, continuations and gradients") { check_family<Gpt2>("gpt2", hm::io::gpt2); }
TEST_CASE("Mamba-2's logits, continuations and gradients") { check_family<Mamba2>("mamba2", hm::io::mamba2); }

TEST_CASE("a file that does not fit is refused with a list, and the model stays as it was") {
  hm::Model<Gpt2, float> model{hm::Seed{3}};
  std::vector<float> before(hm::to_size(model.elements)), after(before);
  model.download(before.data());
  const auto loaded = hm::io::load_weights(model, path("llama", "model.safetensors"), hm::io::gpt2);
  REQUIRE_FALSE(loaded);
  const std::string message = loaded.error().message();
  CAPTURE(message);
  CHECK(message.find("wte.weight") != std::string::npos);
  CHECK(message.find("model.layers.0.self_attn.q_proj.weight") != std::string::npos);
  model.download(after.data());
  CHECK(before == after);
}
