#pragma once
/// @file safetensors_writer.hpp
/// Writing safetensors files: the old file is replaced in one step when the new one is complete and on the disk. Tensors stream
/// from where they lie; only the header is built in memory.

#include <algorithm>
#include <numeric>
#include <vector>

#include <hybridmoe/io/atomic_file.hpp>
#include <hybridmoe/io/safetensors_reader.hpp>
#include <hybridmoe/io/tensor_list.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// Whether to spend one more pass over the data on a checksum in the header, for SafetensorsFile::compare_checksum.
enum class Checksums { none, whole_file };

/// Collects tensors (their memory must live until write()) and strings, and writes them. write() may be called again, for
/// instance once a step: it reads the tensors anew.
class SafetensorsWriter {
 public:
  /// Names must differ and be UTF-8; they are checked by write().
  void add(std::string name, Dtype dtype, const Shape& shape, const void* data) {
    tensors_.push_back({std::move(name), dtype, shape, static_cast<const std::byte*>(data)});
  }
  template <class T>
  void add(std::string name, const Shape& shape, const T* data) {
    add(std::move(name), dtype_of<T>, shape, data);
  }
  template <class Memory>
  void add(const TensorListOf<Memory>& list) {
    for (const TensorViewOf<Memory>& tensor : list) add(tensor.name, tensor.dtype, tensor.shape, tensor.data);
  }
  /// Sets a free-form string; a later value replaces an earlier one.
  void metadata(std::string_view key, std::string_view value) {
    for (auto& [known, text] : metadata_) {
      if (known == key) return void(text = value);
    }
    metadata_.emplace_back(key, value);
  }

  Status write(std::string path, Checksums checksums = Checksums::none, System& system = default_system()) const {
    std::vector<std::size_t> order(tensors_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    // Wide elements first, so that each tensor lies at a multiple of its element's size; otherwise in the order of add().
    std::stable_sort(order.begin(), order.end(),
                     [this](std::size_t a, std::size_t b) { return bits_of(tensors_[a].dtype) > bits_of(tensors_[b].dtype); });
    if (Status sound = examine(path, order); !sound) return sound;
    std::size_t digits = 0;
    std::string header = build_header(order, checksums, digits);
    if (to_index(header.size()) - 8 > SafetensorsLimits::header_bytes) {
      return refuse("the header would become too large", path, to_index(header.size()) - 8, SafetensorsLimits::header_bytes);
    }
    if (checksums == Checksums::whole_file) {
      Checksum sum;
      sum.add(header.data(), to_index(header.size()));
      for (const std::size_t i : order) sum.add(tensors_[i].data, *tensor_bytes(tensors_[i].dtype, tensors_[i].shape));
      header.replace(digits, 16, hex_text(sum.value()));
    }
    Result<AtomicFile> file = AtomicFile::create(std::move(path), system);
    if (!file) return std::move(file).error();
    if (Status written = file->write(header.data(), to_index(header.size())); !written) return written;
    for (const std::size_t i : order) {
      const TensorViewOf<const std::byte>& tensor = tensors_[i];
      if (Status written = file->write(tensor.data, *tensor_bytes(tensor.dtype, tensor.shape)); !written) return written;
    }
    return file->commit();
  }

 private:
  static Error refuse(std::string_view what, std::string where, Index got = Error::unset, Index expected = Error::unset) {
    return {Code::bad_argument, what, std::move(where), got, expected, {}};
  }

  /// What we write must be what we read.
  Status examine(const std::string& path, const std::vector<std::size_t>& order) const {
    if (to_index(tensors_.size()) > SafetensorsLimits::tensors) {
      return refuse("there are too many tensors", path, to_index(tensors_.size()), SafetensorsLimits::tensors);
    }
    if (to_index(metadata_.size()) >= SafetensorsLimits::metadata_entries) {
      return refuse("there are too many metadata entries", path, to_index(metadata_.size()), SafetensorsLimits::metadata_entries);
    }
    Index total = 0;
    for (const TensorViewOf<const std::byte>& tensor : tensors_) {
      const auto where = [&] { return path + ": tensor " + in_quotes(tensor.name); };
      if (tensor.name == "__metadata__") return refuse("this name is reserved", where());
      if (to_index(tensor.name.size()) > SafetensorsLimits::name_bytes) {
        return refuse("a tensor's name is too long", where(), to_index(tensor.name.size()), SafetensorsLimits::name_bytes);
      }
      if (utf8_fault(tensor.name)) return refuse("a tensor's name is not UTF-8", where());
      if (tensor.shape.rank < 0 || tensor.shape.rank > Shape::most) {
        return refuse("a shape has too many extents", where(), tensor.shape.rank, Shape::most);
      }
      for (Index i = 0; i < tensor.shape.rank; ++i) {
        if (tensor.shape[i] < 0) return refuse("an extent is negative", where(), tensor.shape[i]);
      }
      const std::optional<Index> bytes = tensor_bytes(tensor.dtype, tensor.shape);
      if (!bytes || __builtin_add_overflow(total, *bytes, &total)) return refuse("a tensor's size is not representable", where());
    }
    for (const auto& [key, value] : metadata_) {
      if (utf8_fault(key) || utf8_fault(value)) return refuse("metadata is not UTF-8", path + ": " + in_quotes(key));
    }
    std::vector<std::size_t> by_name = order;
    std::sort(by_name.begin(), by_name.end(),
              [this](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
    for (std::size_t i = 1; i < by_name.size(); ++i) {
      const std::string& name = tensors_[by_name[i]].name;
      if (tensors_[by_name[i - 1]].name == name)
        return refuse("two tensors have the same name", path + ": tensor " + in_quotes(name));
    }
    return Done{};
  }

  /// The file's beginning: the header's size, the header, padded with spaces so that the data begins at a multiple of eight.
  /// digits: where the checksum's digits, zeros for now, stand in it.
  std::string build_header(const std::vector<std::size_t>& order, Checksums checksums, std::size_t& digits) const {
    std::string text(8, '\0');
    text += '{';
    const char* separator = "\"__metadata__\":{";
    const auto entry = [&](std::string_view key, std::string_view value) {
      text += separator;
      append_json_string(text, key);
      text += ':';
      append_json_string(text, value);
      separator = ",";
    };
    for (const auto& [key, value] : metadata_) {
      if (key != checksum_key) entry(key, value);
    }
    if (checksums == Checksums::whole_file) {
      entry(checksum_key, std::string(16, '0'));
      digits = text.size() - 17;
    }
    const bool has_metadata = *separator == ',';
    if (has_metadata) text += '}';
    separator = has_metadata ? "," : "";
    Index begin = 0;
    for (const std::size_t i : order) {
      const TensorViewOf<const std::byte>& tensor = tensors_[i];
      const Index end = begin + *tensor_bytes(tensor.dtype, tensor.shape);
      text += separator;
      append_json_string(text, tensor.name);
      text += ":{\"dtype\":\"";
      text += name_of(tensor.dtype);
      text += "\",\"shape\":[";
      for (Index axis = 0; axis < tensor.shape.rank; ++axis) text += numbered(axis == 0 ? "" : ",", tensor.shape[axis]);
      text += "],\"data_offsets\":[" + std::to_string(begin) + ',' + std::to_string(end) + "]}";
      separator = ",";
      begin = end;
    }
    text += '}';
    text.resize(to_size(round_up(to_index(text.size()), 8)), ' ');
    const std::uint64_t size = text.size() - 8;
    std::memcpy(text.data(), &size, 8);
    return text;
  }

  std::vector<TensorViewOf<const std::byte>> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

}  // namespace hybridmoe::io
