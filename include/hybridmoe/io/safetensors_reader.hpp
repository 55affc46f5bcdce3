#pragma once
/// @file safetensors_reader.hpp
/// Reading safetensors files: the header is checked whole and first, data is read on demand and in ranges. Whatever the file
/// holds, opening it takes at most the file's size plus 64 MiB of memory, and the only outcomes are a sound file or an Error.

#include <hybridmoe/io/checksum.hpp>
#include <hybridmoe/io/file.hpp>
#include <hybridmoe/io/safetensors_header.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// The metadata key under which our writer leaves a checksum of the file: 16 hexadecimal digits, computed with zeros in place
/// of themselves.
inline constexpr std::string_view checksum_key = "hybridmoe.checksum2";

/// 64 bits as 16 hexadecimal digits.
inline std::string hex_text(std::uint64_t value) {
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

/// A safetensors file, open for reading. It reads from the file it opened even if another is renamed onto its name.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(std::string path, System& system = default_system()) {
    Result<File> opened = File::open(std::move(path), system);
    if (!opened) return std::move(opened).error();
    File& file = opened.value();
    const auto damaged = [&](std::string_view what, Index got, Index expected) {
      return Error{Code::file_damaged, what, file.path(), got, expected, {}};
    };
    if (file.size() < 8) return damaged("the file is too short for a header's size", file.size(), 8);
    std::uint64_t announced = 0;
    if (const Status read = file.read(0, &announced, 8); !read) return read.error();
    if (announced > INT64_MAX)
      return damaged("the header's size is no size at all", Error::unset, SafetensorsLimits::header_bytes);
    const auto size = static_cast<Index>(announced);
    if (size > SafetensorsLimits::header_bytes) return damaged("the header is too large", size, SafetensorsLimits::header_bytes);
    if (size > file.size() - 8) return damaged("the header reaches beyond the end of the file", size, file.size() - 8);
    HeapArray<char> text(size);
    if (!text) return out_of_memory(file.path(), size);
    // The header is checked in our own copy: the file may change under us.
    if (const Status read = file.read(8, text.data(), size); !read) return read.error();
    Result<SafetensorsHeader> header = SafetensorsHeader::parse(std::move(text), file.size() - 8 - size, file.path());
    if (!header) return std::move(header).error();
    return SafetensorsFile(std::move(file), std::move(header).value());
  }

  /// Tensors are numbered in the order of their data.
  Index size() const { return header_.tensors(); }
  TensorInfo operator[](Index i) const { return header_.tensor(i); }
  std::optional<TensorInfo> find(std::string_view name) const {
    const Index i = header_.find(name);
    return i < 0 ? std::nullopt : std::optional<TensorInfo>(header_.tensor(i));
  }
  /// The number of the tensor of that name, or −1.
  Index number(std::string_view name) const { return header_.find(name); }

  std::optional<std::string_view> metadata(std::string_view key) const { return header_.metadata(key); }
  Index metadata_entries() const { return header_.metadata_entries(); }
  /// Entry i, sorted by key: {key, value}.
  std::pair<std::string_view, std::string_view> metadata(Index i) const { return header_.metadata(i); }

  const std::string& path() const { return file_.path(); }
  Index bytes() const { return file_.size(); }

  /// out[0 … count−1] = elements first … first+count−1 of the flattened tensor, converted (see converts_to).
  template <class T>
  Status read_elements(const TensorInfo& tensor, Index first, Index count, T* out) const {
    if (!converts_to<T>(tensor.dtype)) {
      return Error{
          .code = Code::file_mismatch,
          .what = "a tensor's elements are of another type",
          .where = place(tensor),
          .detail = "stored as " + std::string(name_of(tensor.dtype)) + ", wanted as " + std::string(name_of(dtype_of<T>))};
    }
    const Index width = bits_of(tensor.dtype) / 8, elements = tensor.shape.elements();
    if (first < 0 || count < 0 || first > elements || count > elements - first) {
      return Error{.code = Code::bad_argument, .what = "the range lies outside the tensor", .where = place(tensor)};
    }
    if (tensor.dtype == dtype_of<T>) return read_bytes(tensor, first * width, count * width, out);
    if constexpr (Scalar<T>) {
      std::byte piece[16384];
      const Index most = static_cast<Index>(sizeof piece) / width;
      for (Index done = 0; done < count; done += most) {
        const Index part = smaller(most, count - done);
        if (const Status read = read_bytes(tensor, (first + done) * width, part * width, piece); !read) return read.error();
        convert(tensor.dtype, piece, part, out + done);
      }
    }
    return Done{};
  }
  /// Rows first … first+rows−1, a row being one index of the first axis: out[rows, row_elements].
  template <class T>
  Status read(const TensorInfo& tensor, Index first, Index rows, T* out) const {
    const Index all = tensor.shape.rows(), width = tensor.shape.row_elements();
    if (first < 0 || rows < 0 || first > all || rows > all - first) {
      return Error{.code = Code::bad_argument,
                   .what = "the rows lie outside the tensor",
                   .where = place(tensor),
                   .got = rows,
                   .expected = all};
    }
    return read_elements(tensor, first * width, rows * width, out);
  }
  /// The whole tensor.
  template <class T>
  Status read(const TensorInfo& tensor, T* out) const {
    return read_elements(tensor, 0, tensor.shape.elements(), out);
  }
  /// Stored bytes, as they are; the way to read types that have no C++ type.
  Status read_bytes(const TensorInfo& tensor, Index first, Index count, void* out) const {
    if (first < 0 || count < 0 || first > tensor.bytes || count > tensor.bytes - first) {
      return Error{.code = Code::bad_argument, .what = "the bytes lie outside the tensor", .where = place(tensor)};
    }
    return file_.read(8 + header_.bytes() + tensor.begin + first, out, count);
  }

  /// Reads the file through and compares the checksum that our writer left. A file without one is an error too: ask metadata().
  Status compare_checksum() const {
    const std::optional<std::string_view> written = metadata(checksum_key);
    if (!written || written->size() != 16) {
      return Error{.code = Code::file_damaged, .what = "the file carries no checksum", .where = path()};
    }
    const Index zeros = 8 + header_.offset_of(*written);
    constexpr Index most = 1 << 18;
    HeapArray<char> piece(most);
    if (!piece) return out_of_memory(path(), most);
    Checksum sum;
    for (Index at = 0; at < bytes(); at += most) {
      const Index part = smaller(most, bytes() - at);
      if (const Status read = file_.read(at, piece.data(), part); !read) return read.error();
      for (Index i = larger(zeros - at, 0); i < smaller(zeros + 16 - at, part); ++i) piece[i] = '0';
      sum.add(piece.data(), part);
    }
    if (hex_text(sum.value()) == *written) return Done{};
    return Error{.code = Code::file_damaged,
                 .what = "the checksum does not match: the file is damaged",
                 .where = path(),
                 .detail = "the file says " + in_quotes(*written) + ", its bytes give \"" + hex_text(sum.value()) + "\""};
  }

 private:
  SafetensorsFile(File file, SafetensorsHeader header) : file_(std::move(file)), header_(std::move(header)) {}
  std::string place(const TensorInfo& tensor) const { return path() + ": tensor " + in_quotes(tensor.name); }

  File file_;
  SafetensorsHeader header_;
};

}  // namespace hybridmoe::io
