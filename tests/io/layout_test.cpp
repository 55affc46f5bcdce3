// Lists of tensors and how files may lay them out: our own files, layers visited, and what families to come will need.

#include "tensors.hpp"

using namespace hybridmoe;
using namespace support;
using io::Match;
using io::Source;

namespace {

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
Source stacked(Source source, const Match& match, const Shape&) {
  source.slab = match.numbers[0][0] - '0';
  return source;
}
Source beyond(Source source, const Match&, const Shape&) {
  source.first = 3;
  return source;
}

}  // namespace

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
  CHECK(io::load_tensors(file, narrow, io::own_names).error().detail ==
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
  std::vector<float> count(10'000);
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
    ours.add("w.weight", {5000, 2});  // more than twice the buffer's 2048 elements
    loaded("w", shape({2, 5000}), ours, Family{.name = "transposed", .rules = rules});
    CHECK(is_transposed(ours["w.weight"], 5000, 2, count, 5000, 0));
  }
}

TEST_CASE("parts that do not fit together are a fault of the family, not a crash") {
  static constexpr io::Rule rules[] = {{.ours = "a", .theirs = "x"},
                                       {.ours = "b", .theirs = "x", .before = {"a"}},
                                       {.ours = "c", .theirs = "x"},
                                       {.ours = "d", .theirs = "y", .place = beyond},
                                       {.ours = "e", .theirs = "z", .unit_axis = 0},
                                       {.ours = "s.#", .theirs = "s", .place = stacked}};
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
  // Two of ours at the same place, so that the file's other rows belong to nobody.
  CHECK(!fits("a", {2, 3}, "c", {2, 3}));
  // One matrix of a stack twice, or one of another height, or one missing.
  CHECK(fits("s.0", {2, 3}, "s.1", {2, 3}));
  CHECK(!fits("s.0", {2, 3}, "s.1", {1, 3}));
  CHECK(!fits("s.1", {1, 3}, "s.0", {2, 3}));
  CHECK(!fits("s.0", {2, 3}, "s.2", {2, 3}));
  CHECK(!fits("s.1", {2, 3}, "s.2", {2, 3}));
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
