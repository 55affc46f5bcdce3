#pragma once
/// @file load.hpp
/// Loading a file's tensors into ours. Everything is compared first, and one Error lists every missing, surplus, misshapen and
/// mistyped tensor; only a file that fits in all of them is copied.

#include <hybridmoe/io/layout.hpp>
#include <hybridmoe/io/safetensors_reader.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// Calls f with a null pointer of the C++ type of `dtype`; returns `otherwise` for types that C++ lacks.
template <class R, class Body>
R with_type(Dtype dtype, R otherwise, const Body& f) {
  switch (dtype) {
    case Dtype::f32:
      return f(static_cast<float*>(nullptr));
    case Dtype::f64:
      return f(static_cast<double*>(nullptr));
    case Dtype::u8:
      return f(static_cast<std::uint8_t*>(nullptr));
    case Dtype::i8:
      return f(static_cast<std::int8_t*>(nullptr));
    case Dtype::i16:
      return f(static_cast<std::int16_t*>(nullptr));
    case Dtype::u16:
      return f(static_cast<std::uint16_t*>(nullptr));
    case Dtype::i32:
      return f(static_cast<std::int32_t*>(nullptr));
    case Dtype::u32:
      return f(static_cast<std::uint32_t*>(nullptr));
    case Dtype::i64:
      return f(static_cast<std::int64_t*>(nullptr));
    case Dtype::u64:
      return f(static_cast<std::uint64_t*>(nullptr));
    default:
      return otherwise;
  }
}

/// What does not fit between a file and our tensors.
class Misfits {
 public:
  void missing(const FileTensor& wanted) {
    ++missing_;
    add("missing: " + in_quotes(wanted.name) + " " + wanted.shape.text());
  }
  void surplus(const TensorInfo& found) {
    // The one list whose length the file decides.
    if (++surplus_ <= most_surplus) add("surplus: " + in_quotes(found.name) + " " + found.shape.text());
  }
  void misshapen(const FileTensor& wanted, const TensorInfo& found) {
    ++misshapen_;
    add("misshapen: " + in_quotes(wanted.name) + ": the file has " + found.shape.text() + ", the model needs " +
        wanted.shape.text());
  }
  void mistyped(const TensorInfo& found, std::string_view ours, Dtype wanted) {
    ++mistyped_;
    add("mistyped: " + in_quotes(found.name) + ": the file has " + std::string(name_of(found.dtype)) + ", the model needs " +
        std::string(name_of(wanted)) + " for " + std::string(ours));
  }
  bool none() const { return missing_ + surplus_ + misshapen_ + mistyped_ == 0; }
  Error error(std::string where) const {
    std::string detail = std::to_string(missing_) + " missing, " + std::to_string(surplus_) + " surplus, " +
                         std::to_string(misshapen_) + " misshapen, " + std::to_string(mistyped_) + " mistyped" + lines_;
    if (surplus_ > most_surplus) detail += "\nand " + std::to_string(surplus_ - most_surplus) + " more surplus";
    return {.code = Code::file_mismatch,
            .what = "the file does not fit the model",
            .where = std::move(where),
            .detail = std::move(detail)};
  }

 private:
  static constexpr Index most_surplus = 50'000;
  void add(const std::string& line) { lines_ += '\n' + line; }
  std::string lines_;
  Index missing_ = 0, surplus_ = 0, misshapen_ = 0, mistyped_ = 0;
};

/// Whether two tensors of a file are the same, byte for byte.
inline Result<bool> equal_tensors(const SafetensorsFile& file, const TensorInfo& a, const TensorInfo& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  std::byte piece_a[8192], piece_b[8192];
  constexpr Index most = sizeof piece_a;
  for (Index at = 0; at < a.bytes; at += most) {
    const Index part = smaller(most, a.bytes - at);
    if (const Status read = file.read_bytes(a, at, part, piece_a); !read) return read.error();
    if (const Status read = file.read_bytes(b, at, part, piece_b); !read) return read.error();
    if (std::memcmp(piece_a, piece_b, to_size(part)) != 0) return false;
  }
  return true;
}

/// Reads neighbours of the file into elements of ours that lie `step` apart.
template <class T>
Status read_run(const SafetensorsFile& file, const TensorInfo& tensor, Index first, Index count, T* out, Index step) {
  if (step == 1) return file.read_elements(tensor, first, count, out);
  constexpr Index most = 2048;
  T piece[most];
  for (Index done = 0; done < count; done += most) {
    const Index part = smaller(most, count - done);
    if (Status read = file.read_elements(tensor, first + done, part, piece); !read) return read;
    for (Index i = 0; i < part; ++i) out[(done + i) * step] = piece[i];
  }
  return Done{};
}

/// Whether a file's tensor is the copy that a file may hold of an embedding that our model shares with its head.
inline Result<bool> is_tied_copy(const SafetensorsFile& file, const TensorInfo& found, const TensorList& list,
                                 const Family& family, const std::vector<FileTensor>& layout) {
  if (found.name != family.tied_copy || list.find("head.weight") != nullptr) return false;
  for (const FileTensor& wanted : layout) {
    if (list[wanted.parts.front().ours].name != "embedding.weight") continue;
    const std::optional<TensorInfo> embedding = file.find(wanted.name);
    return embedding ? equal_tensors(file, found, *embedding) : Result<bool>(false);
  }
  return false;
}

/// Compares names, shapes and types; an Error lists all that does not fit. Drops the family's prefix from the layout's names if
/// the file does without it.
inline Status compare(const SafetensorsFile& file, const TensorList& list, const Family& family,
                      std::vector<FileTensor>& layout) {
  const std::string_view prefix = family.optional_prefix;
  bool prefixed = prefix.empty();
  for (Index i = 0; i < file.size() && !prefixed; ++i) prefixed = file[i].name.starts_with(prefix);
  HeapArray<bool> used(file.size());
  if (!used) return out_of_memory(file.path(), file.size());
  std::fill(used.begin(), used.end(), false);

  Misfits misfits;
  for (FileTensor& wanted : layout) {
    if (!prefixed && wanted.name.starts_with(prefix)) wanted.name.erase(0, prefix.size());
    const Index number = file.number(wanted.name);
    if (number < 0) {
      misfits.missing(wanted);
      continue;
    }
    used[number] = true;
    const TensorInfo found = file[number];
    if (found.shape != wanted.shape) misfits.misshapen(wanted, found);
    for (const FileTensor::Part& part : wanted.parts) {
      const TensorView& ours = list[part.ours];
      const bool converts = with_type(ours.dtype, false, [&]<class T>(T*) { return converts_to<T>(found.dtype); });
      if (!converts || (family.exact && found.dtype != ours.dtype)) misfits.mistyped(found, ours.name, ours.dtype);
    }
  }
  for (Index i = 0; i < file.size(); ++i) {
    if (used[i]) continue;
    const TensorInfo found = file[i];
    if (family.ignores(prefixed ? std::string(found.name) : std::string(prefix) + std::string(found.name))) continue;
    const Result<bool> copy = is_tied_copy(file, found, list, family, layout);
    if (!copy) return copy.error();
    if (!copy.value()) misfits.surplus(found);
  }
  if (misfits.none()) return Done{};
  return misfits.error(file.path());
}

/// Fills every tensor of the list from the file. Nothing is written unless names, shapes and types all fit; a read error (the
/// disk fails, the file is cut) may leave the list partly filled.
inline Status load_tensors(const SafetensorsFile& file, const TensorList& list, const Family& family) {
  Result<std::vector<FileTensor>> layout = file_layout(list, family);
  if (!layout) return std::move(layout).error();
  if (Status fits = compare(file, list, family, layout.value()); !fits) return fits;
  for (const FileTensor& tensor : layout.value()) {
    const TensorInfo found = *file.find(tensor.name);
    for (const FileTensor::Part& part : tensor.parts) {
      const TensorView& ours = list[part.ours];
      const auto copy = [&]<class T>(T*) {
        T* const out = reinterpret_cast<T*>(ours.data);
        return each_run(tensor, part, ours.shape, [&](Index first, Index there, Index count, Index step) {
          return read_run(file, found, there, count, out + first, step);
        });
      };
      if (Status done = with_type(ours.dtype, Status(Done{}), copy); !done) return done;
    }
  }
  return Done{};
}

}  // namespace hybridmoe::io
