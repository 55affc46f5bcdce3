#pragma once
/// @file safetensors_header.hpp
/// The header of a safetensors file: a JSON object that gives each tensor's type, shape and place in the data behind it. Every
/// rule of the format is checked before anything else uses the header; tables stay below 64 MiB whatever the header says.

#include <algorithm>
#include <optional>
#include <utility>

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/io/dtype.hpp>
#include <hybridmoe/io/heap_array.hpp>
#include <hybridmoe/io/json.hpp>
#include <hybridmoe/io/shape.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// What readers accept and the writer keeps to. The header's size is the format's own bound; the others are ours.
struct SafetensorsLimits {
  static constexpr Index header_bytes = 100'000'000;
  static constexpr Index tensors = 1'000'000;
  static constexpr Index name_bytes = 4096;
  static constexpr Index metadata_entries = 65'536;
  static constexpr int json_depth = 4;
};

/// A tensor of a file. `name` lives as long as the file's object.
struct TensorInfo {
  std::string_view name;
  Dtype dtype = Dtype::f32;
  Shape shape;
  Index begin = 0;  ///< first byte, counted from the start of the data
  Index bytes = 0;
};

/// Bytes of a tensor, or nothing if a product overflows or the bits do not fill whole bytes (`whole` tells which). The product is
/// taken from the left, as the reference implementation does.
inline std::optional<Index> tensor_bytes(Dtype dtype, const Shape& shape, bool* whole = nullptr) {
  Index bits = 1;
  if (whole != nullptr) *whole = true;
  for (Index i = 0; i < shape.rank; ++i) {
    if (__builtin_mul_overflow(bits, shape[i], &bits)) return std::nullopt;
  }
  if (__builtin_mul_overflow(bits, bits_of(dtype), &bits)) return std::nullopt;
  if (whole != nullptr) *whole = bits % 8 == 0;
  return bits % 8 == 0 ? std::optional<Index>(bits / 8) : std::nullopt;
}

/// A parsed header. It owns the text; names and metadata are views into it.
class SafetensorsHeader {
 public:
  /// text: the bytes between the file's first eight and the data. data_bytes: what follows them. file: named in errors.
  static Result<SafetensorsHeader> parse(HeapArray<char> text, Index data_bytes, std::string_view file) {
    SafetensorsHeader header(std::move(text));
    JsonReader json(header.view(), SafetensorsLimits::json_depth, file, 8);
    if (!header.check_characters(json) || !header.read_entries(json) || !header.index_names(json) ||
        !header.check_layout(json, data_bytes)) {
      return json.failed() ? json.error() : out_of_memory(std::string(file), header.text_.size());
    }
    return Result<SafetensorsHeader>(std::move(header));
  }

  /// Tensors are numbered in the order of their data.
  Index tensors() const { return tensors_.size(); }
  TensorInfo tensor(Index i) const {
    const Record& record = tensors_[i];
    TensorInfo info{name(record), record.dtype, {}, record.begin, record.bytes};
    info.shape.rank = record.rank;
    const char* next = text_.data() + record.shape_at;
    for (Index axis = 0; axis < info.shape.rank; ++axis) {
      while (*next < '0' || *next > '9') ++next;
      next = std::from_chars(next, text_.end(), info.shape.extent[to_size(axis)]).ptr;
    }
    return info;
  }
  /// The number of the tensor of that name, or −1.
  Index find(std::string_view wanted) const {
    const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), wanted,
                                     [this](std::uint32_t i, std::string_view key) { return name(tensors_[i]) < key; });
    return at == by_name_.end() || name(tensors_[*at]) != wanted ? -1 : Index{*at};
  }

  /// The free-form strings, sorted by key.
  Index metadata_entries() const { return metadata_.size(); }
  std::pair<std::string_view, std::string_view> metadata(Index i) const { return {key(metadata_[i]), value(metadata_[i])}; }
  std::optional<std::string_view> metadata(std::string_view wanted) const {
    const auto at = std::lower_bound(metadata_.begin(), metadata_.end(), wanted,
                                     [this](const Entry& entry, std::string_view other) { return key(entry) < other; });
    if (at == metadata_.end() || key(*at) != wanted) return std::nullopt;
    return value(*at);
  }
  Index bytes() const { return text_.size(); }
  /// Where a name, key or value without escapes stands in the header's text.
  Index offset_of(std::string_view piece) const { return static_cast<Index>(piece.data() - text_.data()); }

 private:
  /// Sixteen bytes and two offsets; the shape stays in the text. (An entry takes at least 49 bytes of text.)
  struct Record {
    std::uint32_t name_at, shape_at;
    std::uint16_t name_bytes;
    std::uint8_t rank;
    Dtype dtype;
    Index begin, bytes;
  };
  struct Entry {
    std::uint32_t key_at, key_bytes, value_at, value_bytes;
  };

  explicit SafetensorsHeader(HeapArray<char> text) : text_(std::move(text)) {}

  std::string_view view() const { return {text_.data(), to_size(text_.size())}; }
  std::string_view view(std::uint32_t at, std::uint32_t bytes) const { return {text_.data() + at, bytes}; }
  std::string_view name(const Record& record) const { return view(record.name_at, record.name_bytes); }
  std::string_view key(const Entry& entry) const { return view(entry.key_at, entry.key_bytes); }
  std::string_view value(const Entry& entry) const { return view(entry.value_at, entry.value_bytes); }

  bool check_characters(JsonReader& json) const {
    if (const std::optional<Index> fault = utf8_fault(view())) return json.reject("the header is not UTF-8", *fault);
    const std::size_t first = view().find_first_not_of(" \t\r\n");
    if (first != std::string_view::npos && text_.data()[first] == '{') return true;
    return json.reject("the header does not begin with '{'", first == std::string_view::npos ? 0 : to_index(first));
  }

  /// A key or string with its escapes resolved where it stands, which later tokens never touch again.
  std::string_view resolve(const JsonToken& token) {
    if (!token.escaped) return token.text;
    char* const start = text_.data() + (token.text.data() - text_.data());
    return {start, to_size(unescape(token.text, start))};
  }
  std::uint32_t offset(std::string_view piece) const { return static_cast<std::uint32_t>(piece.data() - text_.data()); }

  bool read_entries(JsonReader& json) {
    constexpr Index least_entry = 49;
    tensors_ = HeapArray<Record>(smaller(SafetensorsLimits::tensors, text_.size() / least_entry + 1));
    if (!tensors_) return false;
    Index count = 0;
    bool has_metadata = false;
    JsonToken token = json.next();
    for (token = json.next(); token.kind == Json::key; token = json.next()) {
      const std::string_view name = resolve(token);
      if (name == "__metadata__") {
        if (has_metadata) return json.reject("__metadata__ stands there twice", token.at);
        has_metadata = true;
        if (!read_metadata(json)) return false;
        continue;
      }
      if (to_index(name.size()) > SafetensorsLimits::name_bytes) {
        return json.reject("a tensor's name is too long", token.at, to_index(name.size()), SafetensorsLimits::name_bytes);
      }
      if (count == tensors_.size()) return json.reject("there are too many tensors", token.at, count + 1, count);
      Record& record = tensors_[count++];
      record.name_at = offset(name);
      record.name_bytes = static_cast<std::uint16_t>(name.size());
      if (!read_tensor(json, record)) return false;
    }
    tensors_.shorten(count);
    return token && json.next().kind == Json::end;
  }

  bool read_metadata(JsonReader& json) {
    constexpr std::string_view otherwise = "__metadata__ must map strings to strings";
    if (!json.expect(Json::object_begin, otherwise)) return false;
    metadata_ = HeapArray<Entry>(smaller(SafetensorsLimits::metadata_entries, text_.size() / 6 + 1));
    if (!metadata_) return false;
    Index count = 0;
    JsonToken token;
    for (token = json.next(); token.kind == Json::key; token = json.next()) {
      if (count == metadata_.size()) return json.reject("__metadata__ has too many entries", token.at, count + 1, count);
      const std::string_view entry_key = resolve(token);
      const JsonToken string = json.expect(Json::string, otherwise);
      if (!string) return false;
      const std::string_view text = resolve(string);
      metadata_[count++] = {offset(entry_key), static_cast<std::uint32_t>(entry_key.size()), offset(text),
                            static_cast<std::uint32_t>(text.size())};
    }
    metadata_.shorten(count);
    if (!token) return false;
    std::sort(metadata_.begin(), metadata_.end(), [this](const Entry& a, const Entry& b) { return key(a) < key(b); });
    for (Index i = 1; i < count; ++i) {
      if (key(metadata_[i - 1]) == key(metadata_[i])) {
        const std::uint32_t at = (std::max)(metadata_[i - 1].key_at, metadata_[i].key_at);
        return json.reject("__metadata__ has a key twice", at - 1);
      }
    }
    return true;
  }

  bool read_tensor(JsonReader& json, Record& record) {
    const JsonToken open = json.expect(Json::object_begin, "a tensor's entry must be an object");
    if (!open) return false;
    enum Field { dtype, shape, offsets, fields };
    constexpr std::string_view spelling[fields] = {"dtype", "shape", "data_offsets"};
    bool seen[fields] = {};
    Shape extents;
    JsonToken token;
    for (token = json.next(); token.kind == Json::key; token = json.next()) {
      int field = 0;
      while (field < fields && !token.equals(spelling[field])) ++field;
      if (field == fields) return json.reject("a tensor's entry has an unknown field", token.at);
      if (std::exchange(seen[field], true)) return json.reject("a tensor's entry has a field twice", token.at);
      if (field == dtype && !read_dtype(json, record)) return false;
      if (field == shape && !read_shape(json, record, extents)) return false;
      if (field == offsets && !read_offsets(json, record)) return false;
    }
    if (!token) return false;
    if (!seen[dtype]) return json.reject("a tensor's entry has no dtype", open.at);
    if (!seen[shape]) return json.reject("a tensor's entry has no shape", open.at);
    if (!seen[offsets]) return json.reject("a tensor's entry has no data_offsets", open.at);
    bool whole = true;
    const std::optional<Index> bytes = tensor_bytes(record.dtype, extents, &whole);
    if (!whole) return json.reject("a tensor's bits do not fill whole bytes", open.at);
    if (!bytes) return json.reject("the product of a tensor's shape overflows", open.at);
    if (*bytes != record.bytes) {
      return json.reject("data_offsets do not agree with dtype and shape", open.at, record.bytes, *bytes);
    }
    return true;
  }
  bool read_dtype(JsonReader& json, Record& record) {
    const JsonToken token = json.expect(Json::string, "dtype must be a string");
    if (!token) return false;
    for (const DtypeFacts& facts : dtype_facts) {
      if (token.equals(facts.name)) return record.dtype = facts.dtype, true;
    }
    return json.reject("the dtype is unknown", token.at);
  }
  bool read_shape(JsonReader& json, Record& record, Shape& extents) {
    const JsonToken open = json.expect(Json::array_begin, "shape must be an array");
    if (!open) return false;
    record.shape_at = static_cast<std::uint32_t>(open.at);
    JsonToken token;
    for (token = json.next(); token && token.kind != Json::array_end; token = json.next()) {
      if (extents.rank == Shape::most) {
        return json.reject("a shape has too many extents", token.at, Shape::most + 1, Shape::most);
      }
      if (!json.natural(token, extents.extent[to_size(extents.rank++)])) return false;
    }
    record.rank = static_cast<std::uint8_t>(extents.rank);
    return static_cast<bool>(token);
  }
  bool read_offsets(JsonReader& json, Record& record) {
    constexpr std::string_view otherwise = "data_offsets must be an array of two integers";
    const JsonToken open = json.expect(Json::array_begin, otherwise);
    Index end = 0;
    if (!open || !json.natural(json.expect(Json::number, otherwise), record.begin) ||
        !json.natural(json.expect(Json::number, otherwise), end) || !json.expect(Json::array_end, otherwise)) {
      return false;
    }
    if (end < record.begin) return json.reject("data_offsets end before they begin", open.at, end, record.begin);
    record.bytes = end - record.begin;
    return true;
  }

  /// The tensors, in the order of their data, must fill the file from the header's end to its own without hole or overlap.
  bool check_layout(JsonReader& json, Index data_bytes) {
    Index end = 0;
    for (const Record& record : tensors_) {
      if (record.begin > end) return json.reject("there is a hole before a tensor's data", record.shape_at, record.begin, end);
      if (record.begin < end) return json.reject("tensors overlap", record.shape_at, record.begin, end);
      end += record.bytes;
    }
    if (end > data_bytes) return json.reject("the file ends before its data does", text_.size(), data_bytes, end);
    if (end < data_bytes) return json.reject("something follows the last tensor", text_.size() + end, data_bytes, end);
    return true;
  }

  /// Sorts the tensors by their place and an index of them by name; names must differ.
  bool index_names(JsonReader& json) {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const Record& a, const Record& b) { return a.begin != b.begin ? a.begin < b.begin : a.bytes < b.bytes; });
    by_name_ = HeapArray<std::uint32_t>(tensors_.size());
    if (!by_name_) return false;
    for (Index i = 0; i < by_name_.size(); ++i) by_name_[i] = static_cast<std::uint32_t>(i);
    std::sort(by_name_.begin(), by_name_.end(),
              [this](std::uint32_t a, std::uint32_t b) { return name(tensors_[a]) < name(tensors_[b]); });
    for (Index i = 1; i < by_name_.size(); ++i) {
      const Record &a = tensors_[by_name_[i - 1]], &b = tensors_[by_name_[i]];
      if (name(a) == name(b)) return json.reject("two tensors have the same name", (std::max)(a.name_at, b.name_at) - 1);
    }
    return true;
  }

  HeapArray<char> text_;
  HeapArray<Record> tensors_;
  HeapArray<std::uint32_t> by_name_;
  HeapArray<Entry> metadata_;
};

}  // namespace hybridmoe::io
