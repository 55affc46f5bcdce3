#pragma once
/// @file fuzz.hpp
/// Inputs for the safetensors reader that are nearly right: files made from a model of the format, with one thing or several
/// changed; and a second opinion on them, written with a DOM parser and plain loops.

#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include <hybridmoe/io/safetensors_reader.hpp>

#include "support.hpp"

namespace support {

/// A file as the generator thinks of it: texts, so that anything can be changed.
struct Draft {
  struct Tensor {
    std::string name, dtype;
    std::vector<std::string> shape;
    std::string begin, end;
  };
  std::vector<std::pair<std::string, std::string>> metadata;
  bool has_metadata = false;
  std::vector<Tensor> tensors;
  Index data = 0;
  Index size_error = 0;  ///< added to the header's size field
  Index cut = 0;         ///< bytes missing (or, below 0, added) at the end
};

inline std::string draft_name(Random& random) {
  if (random.chance(0.02)) return "";
  if (random.chance(0.02)) return "\\u0000\\uD83D\\uDE00\xC3\xA9";
  if (random.chance(0.005)) return std::string(static_cast<std::size_t>(4090 + random.below(12)), 'n');
  return "layers." + std::to_string(random.below(40)) + (random.chance(0.5) ? ".weight" : ".bias");
}

inline Draft sound_draft(Random& random) {
  Draft draft;
  std::set<std::string> names;
  for (Index n = random.below(8); n > 0; --n) {
    const io::DtypeFacts& facts = io::dtype_facts[random.below(22)];
    Draft::Tensor tensor{draft_name(random), std::string(facts.name), {}, {}, {}};
    if (!names.insert(tensor.name).second) continue;
    Index bits = facts.bits;
    for (Index rank = random.below(random.chance(0.1) ? 9 : 4); rank > 0; --rank) {
      const Index extent = random.chance(0.05) ? 0 : 1 + random.below(5);
      tensor.shape.push_back(std::to_string(extent));
      bits *= extent;
    }
    if (bits % 8 != 0) tensor.shape.assign(1, "8"), bits = 8 * facts.bits;
    if (tensor.shape.size() > 8) tensor.shape.clear(), bits = facts.bits % 8 == 0 ? facts.bits : 0;
    if (bits == 0 && tensor.shape.empty()) continue;
    tensor.begin = std::to_string(draft.data);
    draft.data += bits / 8;
    tensor.end = std::to_string(draft.data);
    draft.tensors.push_back(tensor);
  }
  for (Index i = to_index(draft.tensors.size()) - 1; i > 0; --i) {
    if (random.chance(0.5)) std::swap(draft.tensors[to_size(i)], draft.tensors[to_size(random.below(i + 1))]);
  }
  draft.has_metadata = random.chance(0.5);
  for (Index n = random.below(3); n > 0 && draft.has_metadata; --n)
    draft.metadata.emplace_back("key" + std::to_string(n), "\"v\"");
  return draft;
}

/// A number that may be wrong in an interesting way.
inline std::string odd_number(Random& random, const std::string& old) {
  static const char* const odd[] = {"0",
                                    "1",
                                    "-1",
                                    "-0",
                                    "1.0",
                                    "1e3",
                                    "01",
                                    "2147483647",
                                    "2147483648",
                                    "4294967295",
                                    "4294967296",
                                    "4611686018427387904",
                                    "9223372036854775807",
                                    "9223372036854775808",
                                    "18446744073709551615",
                                    "18446744073709551616",
                                    "null",
                                    "\"1\"",
                                    "[]",
                                    "{}",
                                    "true",
                                    "1 ",
                                    "0x1",
                                    "1152921504606846976"};
  if (random.chance(0.5)) return odd[random.below(static_cast<Index>(std::size(odd)))];
  const auto near = std::strtoull(old.c_str(), nullptr, 10) + static_cast<std::uint64_t>(random.below(5)) - 2;
  return std::to_string(static_cast<std::int64_t>(near));
}

/// Changes one thing.
inline void disturb(Random& random, Draft& draft) {
  const Index kind = random.below(16);
  if (kind == 0) draft.size_error = random.below(7) - 3;
  if (kind == 1) draft.cut = random.below(9) - 4;
  if (kind == 2) draft.metadata.emplace_back("key1", random.chance(0.5) ? "1" : "\"w\""), draft.has_metadata = true;
  if (kind == 3) draft.data += random.below(9) - 4;
  if (draft.tensors.empty() || kind <= 3) return;
  Draft::Tensor& tensor = draft.tensors[to_size(random.below(to_index(draft.tensors.size())))];
  if (kind == 4) tensor.dtype = random.chance(0.8) ? std::string(io::dtype_facts[random.below(22)].name) : "F33";
  if (kind == 5) tensor.begin = odd_number(random, tensor.begin);
  if (kind == 6) tensor.end = odd_number(random, tensor.end);
  if (kind == 7 && !tensor.shape.empty()) {
    std::string& extent = tensor.shape[to_size(random.below(to_index(tensor.shape.size())))];
    extent = odd_number(random, extent);
  }
  if (kind == 8) tensor.shape.push_back(odd_number(random, "1"));
  if (kind == 9 && !tensor.shape.empty()) tensor.shape.pop_back();
  if (kind == 10) tensor.name = draft.tensors.front().name;
  if (kind == 11) std::swap(tensor.begin, tensor.end);
  if (kind == 12) draft.tensors.push_back(Draft::Tensor(tensor));
  if (kind == 13) draft.tensors.erase(draft.tensors.begin());
  if (kind == 14) std::swap(tensor.begin, draft.tensors.front().begin), std::swap(tensor.end, draft.tensors.front().end);
  if (kind == 15) tensor.name = "__metadata__";
}

inline std::string written(Random& random, const Draft& draft) {
  const auto space = [&] { return std::string(random.chance(0.05) ? 1 : 0, " \n\t\r"[random.below(4)]); };
  std::string text = space() + "{";
  bool first = true;
  const auto comma = [&] {
    if (!first && !random.chance(0.001)) text += ",";
    first = false;
    text += space();
  };
  const auto put_metadata = [&] {
    comma();
    text += "\"__metadata__\":{";
    for (std::size_t i = 0; i < draft.metadata.size(); ++i)
      text += (i > 0 ? ",\"" : "\"") + draft.metadata[i].first + "\":" + draft.metadata[i].second;
    text += "}";
  };
  const bool early = random.chance(0.7);
  if (draft.has_metadata && early) put_metadata();
  for (const Draft::Tensor& tensor : draft.tensors) {
    comma();
    text += "\"" + tensor.name + "\":{";
    std::string fields[3] = {"\"dtype\":\"" + tensor.dtype + "\"", "\"shape\":[",
                             "\"data_offsets\":[" + tensor.begin + "," + tensor.end + "]"};
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) fields[1] += (i > 0 ? "," : "") + tensor.shape[i];
    fields[1] += "]";
    if (random.chance(0.2)) std::swap(fields[0], fields[random.below(3)]);
    if (random.chance(0.005)) fields[2] = fields[random.below(3)];
    text += fields[0] + "," + space() + fields[1] + "," + fields[2] + (random.chance(0.003) ? ",\"more\":1}" : "}");
  }
  if (draft.has_metadata && !early) put_metadata();
  text += "}" + std::string(static_cast<std::size_t>(random.below(9)), ' ');
  const std::uint64_t size = text.size() + static_cast<std::uint64_t>(draft.size_error);
  std::string file(8, '\0');
  std::memcpy(file.data(), &size, 8);
  file += text;
  for (Index i = 0; i < draft.data - draft.cut; ++i) file += static_cast<char>(random());
  return file;
}

/// One input: half of them sound, the others changed in the model, in the bytes, or both.
inline std::string fuzz_input(Random& random) {
  Draft draft = sound_draft(random);
  while (random.chance(0.35)) disturb(random, draft);
  std::string file = written(random, draft);
  while (random.chance(0.15)) {
    const auto at = static_cast<std::size_t>(random.below(to_index(file.size())));
    switch (random.below(5)) {
      case 0:
        file[at] = static_cast<char>(file[at] ^ (1 << random.below(8)));
        break;
      case 1:
        file.erase(at, static_cast<std::size_t>(1 + random.below(6)));
        break;
      case 2:
        file.insert(at, 1, "{}[],:\"\\0129eE-. u"[random.below(18)]);
        break;
      case 3:
        file.insert(at, file.substr(at, static_cast<std::size_t>(random.below(40))));
        break;
      default:
        file.resize(std::max<std::size_t>(at, 1));
    }
    if (file.empty()) break;
  }
  return file;
}

/// The rules of the format, said another way.
inline bool second_opinion(const std::string& file) {
  if (file.size() < 8) return false;
  std::uint64_t size = 0;
  std::memcpy(&size, file.data(), 8);
  if (size > 100'000'000 || size > file.size() - 8) return false;
  const std::string text = file.substr(8, size);
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || text[first] != '{' || text.find('\0') != std::string::npos) return false;
  std::vector<std::set<std::string>> keys;
  bool twice = false;
  const auto watch = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    if (event == nlohmann::json::parse_event_t::object_start) keys.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end) keys.pop_back();
    if (event == nlohmann::json::parse_event_t::key) twice = !keys.back().insert(value.get<std::string>()).second || twice;
    return true;
  };
  const nlohmann::json header = nlohmann::json::parse(text, watch, false);
  if (!header.is_object() || twice) return false;
  const auto natural = [](const nlohmann::json& value) {
    return value.is_number_unsigned() && value.get<std::uint64_t>() <= INT64_MAX;
  };
  std::multimap<std::pair<std::uint64_t, std::uint64_t>, int> places;
  for (const auto& [name, entry] : header.items()) {
    if (!entry.is_object()) return false;
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) return false;
      }
      continue;
    }
    if (name.size() > 4096 || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
        !entry.contains("data_offsets"))
      return false;
    const nlohmann::json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
    if (!dtype.is_string() || !shape.is_array() || !offsets.is_array() || shape.size() > 8 || offsets.size() != 2) return false;
    if (!natural(offsets[0]) || !natural(offsets[1])) return false;
    const auto type = io::dtype_named(dtype.get<std::string>());
    if (!type) return false;
    __extension__ using Wide = unsigned __int128;
    Wide bits = 1;
    for (const nlohmann::json& extent : shape) {
      if (!natural(extent)) return false;
      bits *= extent.get<std::uint64_t>();
      if (bits > Wide{INT64_MAX}) return false;
    }
    bits *= static_cast<Wide>(io::bits_of(*type));
    const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
    if (bits > Wide{INT64_MAX} || begin > end || bits != Wide{end - begin} * 8) return false;
    places.emplace(std::pair{begin, end}, 0);
  }
  // nlohmann reads -0 as an integer; here no number may have a sign.
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quoted && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && text[i] == '-') {
      return false;
    }
  }
  std::uint64_t at = 0;
  for (const auto& [place, unused] : places) {
    if (place.first != at) return false;
    at = place.second;
  }
  return at == file.size() - 8 - size;
}

/// Opens the input and, if it is accepted, uses all of it. Returns whether it was accepted.
inline bool open_and_use(const std::string& input) {
  Memory memory(input);
  const hybridmoe::Result<io::SafetensorsFile> file = io::SafetensorsFile::open("input", memory);
  if (!file) return file.error().message().empty();  // a message costs nothing that may crash
  Index bytes = 0;
  std::string piece;
  for (Index i = 0; i < file->size(); ++i) {
    const io::TensorInfo tensor = (*file)[i];
    piece.resize(to_size(tensor.bytes));
    if (tensor.begin != bytes || file->number(tensor.name) != i || !file->read_bytes(tensor, 0, tensor.bytes, piece.data()))
      std::abort();
    if (io::converts_to<float>(tensor.dtype)) {
      std::vector<float> values(to_size(tensor.shape.elements()));
      if (!file->read(tensor, values.data())) std::abort();
    }
    bytes += tensor.bytes;
  }
  for (Index i = 0; i < file->metadata_entries(); ++i) {
    if (file->metadata(file->metadata(i).first) != file->metadata(i).second) std::abort();
  }
  static_cast<void>(file->compare_checksum());
  return true;
}

}  // namespace support
