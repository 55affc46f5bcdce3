// Safetensors files, read and written: the fixtures against what the Python package says, types exhaustively, round trips.
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <sstream>

#include <hybridmoe/io/safetensors.hpp>

#include "support.hpp"

using namespace hybridmoe;
using io::Dtype;
using io::SafetensorsFile;
using io::SafetensorsWriter;
using io::Shape;
using io::TensorInfo;
using support::Directory;
using support::Memory;
using support::Watched;

namespace {

SafetensorsFile opened(const std::string& path, io::System& system = io::default_system()) {
  Result<SafetensorsFile> file = SafetensorsFile::open(path, system);
  if (!file) FAIL(file.error().message());
  return std::move(file).value();
}

Shape shape(std::initializer_list<Index> extents) {
  Shape result;
  for (const Index extent : extents) result.extent[to_size(result.rank++)] = extent;
  return result;
}

/// One tensor's file, for reading elements of every type.
std::string one_tensor(const std::string& dtype, Index elements, const std::string& data) {
  return support::safetensors("{\"x\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + std::to_string(elements) +
                                  "],\"data_offsets\":[0," + std::to_string(data.size()) + "]}}",
                              data);
}

}  // namespace

TEST_CASE("the fixtures hold what the Python package says") {
  std::istringstream listing(support::slurp(support::golden("listing.txt")));
  std::string line, file_name, name, dtype, extents;
  Index tensors = 0, files = 0;
  std::string open_name;
  std::optional<SafetensorsFile> file;
  double plain = 0, weighted = 0;
  Index seen = 0;
  while (listing >> file_name >> name >> dtype >> extents >> plain >> weighted) {
    if (file_name != open_name) {
      if (file) CHECK(file->size() == seen);
      file.emplace(opened(support::golden(file_name)));
      open_name = file_name;
      seen = 0;
      ++files;
    }
    ++seen;
    ++tensors;
    CAPTURE(file_name, name);
    const std::optional<TensorInfo> tensor = file->find(name);
    REQUIRE(tensor);
    CHECK(io::name_of(tensor->dtype) == dtype);
    std::string ours;
    for (Index i = 0; i < tensor->shape.rank; ++i) ours += (i > 0 ? "," : "") + std::to_string(tensor->shape[i]);
    CHECK((ours.empty() ? "-" : ours) == extents);
    std::vector<double> values(to_size(tensor->shape.elements()));
    if (tensor->dtype == Dtype::i64) {
      std::vector<std::int64_t> whole(values.size());
      REQUIRE(file->read(*tensor, whole.data()));
      std::copy(whole.begin(), whole.end(), values.begin());
    } else {
      REQUIRE(file->read(*tensor, values.data()));
    }
    double sum = 0, weighted_sum = 0, size = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      sum += values[i];
      weighted_sum += static_cast<double>(i % 97) * values[i];
      size += std::abs(values[i]);
    }
    CHECK(std::abs(sum - plain) <= 1e-12 * size);
    CHECK(std::abs(weighted_sum - weighted) <= 1e-10 * size);
    // As float, row by row.
    if (tensor->dtype != Dtype::i64) {
      const Index width = tensor->shape.row_elements();
      std::vector<float> row(to_size(width));
      for (Index r = 0; r < tensor->shape.rows(); ++r) {
        REQUIRE(file->read(*tensor, r, 1, row.data()));
        for (Index c = 0; c < width; ++c) {
          if (static_cast<double>(row[to_size(c)]) != values[to_size(r * width + c)]) FAIL("row " << r);
        }
      }
    }
  }
  CHECK(file->size() == seen);
  CHECK(files == 12);
  CHECK(tensors > 400);
  CHECK(opened(support::golden("llama/model.safetensors")).metadata("format") == "pt");
}

TEST_CASE("every type has its own name's size") {
  // Said again, since files that the library wrote and the second reader of the fuzz test share the library's own table.
  const std::pair<const char*, Index> bits[] = {
      {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
      {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
      {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  CHECK(std::size(bits) == std::size(io::dtype_facts));
  for (const auto& [name, count] : bits) {
    Memory memory(one_tensor(name, 8, std::string(to_size(count), 'x')));
    const SafetensorsFile file = opened("memory", memory);
    CHECK(io::name_of(file[0].dtype) == name);
  }
  const auto of = []<class T>(T) { return io::name_of(io::dtype_of<T>); };
  CHECK((of(0.0f) == "F32" && of(0.0) == "F64" && of(std::int8_t{}) == "I8" && of(std::uint8_t{}) == "U8"));
  CHECK((of(std::int16_t{}) == "I16" && of(std::uint16_t{}) == "U16" && of(std::int32_t{}) == "I32"));
  CHECK((of(std::uint32_t{}) == "U32" && of(std::int64_t{}) == "I64" && of(std::uint64_t{}) == "U64"));
}

TEST_CASE("half precision is converted exactly, bit pattern by bit pattern") {
  std::string data(2 * 65536, '\0');
  for (unsigned bits = 0; bits < 65536; ++bits) {
    data[2 * bits] = static_cast<char>(bits);
    data[2 * bits + 1] = static_cast<char>(bits >> 8);
  }
  std::vector<float> narrow(65536);
  std::vector<double> wide(65536);
  const auto exact = [&](const std::string& dtype, int exponent_bits, int bias) {
    Memory memory(one_tensor(dtype, 65536, data));
    const SafetensorsFile file = opened("memory", memory);
    REQUIRE(file.read(file[0], narrow.data()));
    REQUIRE(file.read(file[0], wide.data()));
    const int fraction_bits = 15 - exponent_bits, top = (1 << exponent_bits) - 1;
    for (int bits = 0; bits < 65536; ++bits) {
      const int exponent = bits >> fraction_bits & top, fraction = bits & ((1 << fraction_bits) - 1);
      double value = exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                                   : std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
      if (exponent == top) value = fraction == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
      if ((bits & 0x8000) != 0) value = -value;
      const auto i = static_cast<std::size_t>(bits);
      const bool both_nan = std::isnan(value) && std::isnan(narrow[i]) && std::isnan(wide[i]);
      if (both_nan) continue;
      if (static_cast<double>(narrow[i]) != value || wide[i] != value || std::signbit(narrow[i]) != ((bits & 0x8000) != 0)) {
        FAIL(dtype << " " << bits);
      }
    }
  };
  exact("F16", 5, 15);
  exact("BF16", 8, 127);
}

TEST_CASE("elements convert between real types only") {
  double value = 0.1;
  Memory memory(one_tensor("F64", 1, std::string(reinterpret_cast<char*>(&value), 8)));
  const SafetensorsFile file = opened("memory", memory);
  float rounded = 0;
  REQUIRE(file.read(file[0], &rounded));
  CHECK(rounded == 0.1f);
  std::int64_t whole = 0;
  const Status refused = file.read(file[0], &whole);
  REQUIRE(!refused);
  CHECK(refused.error().message() ==
        "memory: tensor \"x\": a tensor's elements are of another type\nstored as F64, wanted as I64");
  Memory integers(one_tensor("I32", 1, "abcd"));
  const SafetensorsFile other = opened("memory", integers);
  CHECK(!other.read(other[0], &rounded));
  CHECK(!other.read(other[0], &whole));
  std::int32_t exact = 0;
  REQUIRE(other.read(other[0], &exact));
  CHECK(exact == 0x64636261);
}

TEST_CASE("rows and ranges are checked") {
  std::vector<float> values(24);
  for (std::size_t i = 0; i < 24; ++i) values[i] = static_cast<float>(i);
  Memory memory(support::safetensors(
      R"({"m":{"dtype":"F32","shape":[4,3,2],"data_offsets":[0,96]},"s":{"dtype":"F32","shape":[],"data_offsets":[96,100]},)"
      R"("z":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[96,96]}})",
      std::string(reinterpret_cast<char*>(values.data()), 96) + std::string("\0\0\x80?", 4)));
  const SafetensorsFile file = opened("memory", memory);
  const TensorInfo m = *file.find("m");
  float out[24] = {};
  REQUIRE(file.read(m, 1, 2, out));
  CHECK((out[0] == 6 && out[11] == 17 && out[12] == 0));
  REQUIRE(file.read_elements(m, 23, 1, out));
  CHECK(out[0] == 23);
  REQUIRE(file.read(m, 4, 0, out));
  CHECK(!file.read(m, 4, 1, out));
  CHECK(!file.read(m, -1, 1, out));
  CHECK(!file.read(m, 0, 5, out));
  CHECK(!file.read(m, 3, INT64_MAX, out));
  CHECK(!file.read_elements(m, 20, 5, out));
  CHECK(!file.read_elements(m, 25, 0, out));
  CHECK(!file.read_bytes(m, 0, 97, out));
  const TensorInfo s = *file.find("s");
  CHECK(s.shape.elements() == 1);
  REQUIRE(file.read(s, out));
  CHECK(out[0] == 1);
  const TensorInfo z = *file.find("z");
  CHECK(z.shape.row_elements() == 0);
  REQUIRE(file.read(z, out));
  CHECK(!file.find("M"));
  CHECK(!file.find(""));
  CHECK(file.number("nothing") == -1);
}

TEST_CASE("what is written is read: every type, shape and name") {
  Directory directory;
  support::Random random(3);
  SafetensorsWriter writer;
  struct Made {
    std::string name;
    Dtype dtype;
    Shape shape;
    std::string data;
  };
  std::vector<Made> made;
  for (const io::DtypeFacts& facts : io::dtype_facts) {
    for (const Shape& extents :
         {shape({}), shape({0}), shape({8}), shape({3, 8}), shape({2, 0, 5}), shape({1, 2, 1, 2, 1, 2, 1, 2})}) {
      const Index bits = extents.elements() * facts.bits;
      if (bits % 8 != 0) continue;
      made.push_back({"layers." + std::to_string(made.size()) + "." + std::string(facts.name), facts.dtype, extents, {}});
      for (Index i = 0; i < bits / 8; ++i) made.back().data += static_cast<char>(random());
    }
  }
  for (const char* name : {"", "\"\\\n\x01", "\xF0\x9F\x98\x80", "a b", "__metadata", "\x7F"})
    made.push_back({name, Dtype::u8, shape({1}), "x"});
  made.push_back({std::string("zero\0byte", 9), Dtype::u8, shape({1}), "y"});
  made.push_back({std::string(4096, 'n'), Dtype::u8, shape({1}), "z"});
  for (const Made& tensor : made) writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.data.data());
  writer.metadata("step", "1");
  writer.metadata("text", "a \"quoted\"\nline \xC3\xA9");
  writer.metadata("step", "17");
  for (const io::Checksums checksums : {io::Checksums::none, io::Checksums::whole_file}) {
    REQUIRE(writer.write(directory / "file", checksums));
    const SafetensorsFile file = opened(directory / "file");
    REQUIRE(file.size() == to_index(made.size()));
    for (const Made& tensor : made) {
      const std::optional<TensorInfo> found = file.find(tensor.name);
      REQUIRE(found);
      CHECK(found->dtype == tensor.dtype);
      CHECK(found->shape == tensor.shape);
      std::string data(tensor.data.size(), ' ');
      REQUIRE(file.read_bytes(*found, 0, found->bytes, data.data()));
      CHECK(data == tensor.data);
      if (io::bits_of(tensor.dtype) >= 8) CHECK(found->begin % (io::bits_of(tensor.dtype) / 8) == 0);
    }
    CHECK(file.metadata("step") == "17");
    CHECK(file.metadata("text") == "a \"quoted\"\nline \xC3\xA9");
    CHECK(!file.metadata("other"));
    CHECK(file.metadata_entries() == (checksums == io::Checksums::none ? 2 : 3));
    CHECK(static_cast<bool>(file.compare_checksum()) == (checksums == io::Checksums::whole_file));
    const std::string bytes = support::slurp(directory / "file");
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    CHECK(header % 8 == 0);
    CHECK(bytes[8] == '{');
  }
  // Within one width, tensors stay in the order in which they were added.
  const SafetensorsFile file = opened(directory / "file");
  Index previous = -1;
  for (const Made& tensor : made) {
    if (tensor.dtype != Dtype::f32) continue;
    CHECK(file.number(tensor.name) > previous);
    previous = file.number(tensor.name);
  }
}

TEST_CASE("the writer refuses what the reader would") {
  Directory directory;
  support::spill(directory / "file", "old");
  const float value = 0;
  const auto fault = [&](const auto& fill) {
    SafetensorsWriter writer;
    fill(writer);
    const Status written = writer.write(directory / "file");
    REQUIRE(!written);
    CHECK(written.error().code == Code::bad_argument);
    CHECK(support::slurp(directory / "file") == "old");
    CHECK(directory.names().size() == 1);
    return std::string(written.error().what);
  };
  CHECK(fault([&](auto& writer) { writer.add("__metadata__", shape({1}), &value); }) == "this name is reserved");
  CHECK(fault([&](auto& writer) { writer.add(std::string(4097, 'n'), shape({1}), &value); }) == "a tensor's name is too long");
  CHECK(fault([&](auto& writer) { writer.add("\xFF", shape({1}), &value); }) == "a tensor's name is not UTF-8");
  CHECK(fault([&](auto& writer) {
          writer.add("a", shape({1}), &value);
          writer.add("b", shape({1}), &value);
          writer.add("a", shape({1}), &value);
        }) == "two tensors have the same name");
  CHECK(fault([&](auto& writer) {
          Shape nine = shape({1});
          nine.rank = 9;
          writer.add("a", nine, &value);
        }) == "a shape has too many extents");
  CHECK(fault([&](auto& writer) { writer.add("a", shape({-1}), &value); }) == "an extent is negative");
  CHECK(fault([&](auto& writer) { writer.add("a", shape({INT64_MAX, 2}), &value); }) == "a tensor's size is not representable");
  CHECK(fault([&](auto& writer) { writer.add("a", Dtype::f4, shape({3}), &value); }) == "a tensor's size is not representable");
  CHECK(fault([&](auto& writer) {
          writer.add("a", Dtype::u8, shape({INT64_MAX / 8}), &value);
          for (int i = 0; i < 9; ++i) writer.add("b" + std::to_string(i), Dtype::u8, shape({INT64_MAX / 8}), &value);
        }) == "a tensor's size is not representable");
  CHECK(fault([&](auto& writer) { writer.metadata("k\xFF", "v"); }) == "metadata is not UTF-8");
  CHECK(fault([&](auto& writer) { writer.metadata("k", "\xC0\x80"); }) == "metadata is not UTF-8");
  CHECK(fault([&](auto& writer) { writer.metadata("k", std::string(100'000'000, 'v')); }) == "the header would become too large");
}

TEST_CASE("tens of thousands of tensors, as a checkpoint with optimizer state has them") {
  Directory directory;
  constexpr Index count = 50'000;
  std::vector<float> values(to_size(count));
  SafetensorsWriter writer;
  for (Index i = 0; i < count; ++i) {
    values[to_size(i)] = static_cast<float>(i);
    writer.add("optimizer.layers." + std::to_string(i) + ".mixer.query.weight", shape({1, 1}), &values[to_size(i)]);
  }
  REQUIRE(writer.write(directory / "file", io::Checksums::whole_file));
  const SafetensorsFile file = opened(directory / "file");
  REQUIRE(file.size() == count);
  REQUIRE(file.compare_checksum());
  for (Index i = 0; i < count; i += 7) {
    const std::optional<TensorInfo> tensor = file.find("optimizer.layers." + std::to_string(i) + ".mixer.query.weight");
    REQUIRE(tensor);
    float value = -1;
    REQUIRE(file.read(*tensor, &value));
    if (value != static_cast<float>(i)) FAIL(i);
  }
  values[3] = -3;  // writing again reads the tensors anew
  REQUIRE(writer.write(directory / "file"));
  const SafetensorsFile again = opened(directory / "file");
  float value = 0;
  REQUIRE(again.read(*again.find("optimizer.layers.3.mixer.query.weight"), &value));
  CHECK(value == -3);
  // The first file object still reads what it opened.
  REQUIRE(file.read(*file.find("optimizer.layers.3.mixer.query.weight"), &value));
  CHECK(value == 3);
}

TEST_CASE("with a checksum, no flipped bit and no cut goes unnoticed") {
  Directory directory;
  SafetensorsWriter writer;
  std::vector<float> values(60);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.37f;
  writer.add("a", shape({4, 5}), values.data());
  writer.add("b.c", shape({40}), values.data() + 20);
  writer.metadata("step", "1234");
  REQUIRE(writer.write(directory / "file", io::Checksums::whole_file));
  const std::string sound = support::slurp(directory / "file");
  const auto accepted = [](const std::string& bytes) {
    Memory memory(bytes);
    const Result<SafetensorsFile> file = SafetensorsFile::open("memory", memory);
    return file && file->compare_checksum();
  };
  REQUIRE(accepted(sound));
  Index unnoticed = 0;
  for (std::size_t at = 0; at < sound.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = sound;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      unnoticed += accepted(damaged);
    }
    unnoticed += accepted(sound.substr(0, at));
  }
  CHECK(unnoticed == 0);
  // Blocks swapped, zeroed or repeated, as after a crash of a disk that reorders writes.
  support::Random random(5);
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = sound;
    const Index length = 1 + random.below(64), from = random.below(to_index(sound.size()) - length),
                to = random.below(to_index(sound.size()) - length);
    if (random.chance(0.5)) {
      damaged.replace(to_size(to), to_size(length), to_size(length), '\0');
    } else {
      damaged.replace(to_size(to), to_size(length), sound, to_size(from), to_size(length));
    }
    if (damaged != sound) unnoticed += accepted(damaged);
  }
  CHECK(unnoticed == 0);
}

TEST_CASE("two flipped bits do not hide each other from the checksum") {
  support::Random random(6);
  unsigned char text[96];
  for (unsigned char& byte : text) byte = static_cast<unsigned char>(random());
  const auto sum = [&] {
    io::Checksum checksum;
    checksum.add(text, sizeof text);
    return checksum.value();
  };
  const std::uint64_t sound = sum();
  const auto flip = [&](std::size_t bit) { text[bit / 8] = static_cast<unsigned char>(text[bit / 8] ^ (1u << bit % 8)); };
  Index unnoticed = 0;
  for (std::size_t a = 0; a < 8 * sizeof text; ++a) {
    flip(a);
    for (std::size_t b = 0; b < a; ++b) {
      flip(b);
      unnoticed += sum() == sound;
      flip(b);
    }
    flip(a);
  }
  CHECK(unnoticed == 0);
}

TEST_CASE("the checksum does not depend on how its input is cut") {
  support::Random random(4);
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(random());
  for (const std::size_t size : {0u, 1u, 31u, 32u, 33u, 64u, 1000u}) {
    io::Checksum whole;
    whole.add(text.data(), to_index(size));
    for (int round = 0; round < 50; ++round) {
      io::Checksum pieces;
      for (std::size_t at = 0; at < size;) {
        const std::size_t part = std::min(size - at, static_cast<std::size_t>(random.below(80)));
        pieces.add(text.data() + at, to_index(part));
        at += part;
      }
      CHECK(pieces.value() == whole.value());
    }
  }
  io::Checksum none, zero;
  zero.add("\0", 1);
  CHECK(none.value() != zero.value());
}

TEST_CASE("opening, reading and saving fail cleanly at any call to the system") {
  Directory directory;
  std::vector<float> values(1000, 1.5f);
  SafetensorsWriter writer;
  writer.add("a", shape({10, 50}), values.data());
  writer.add("b", shape({500}), values.data());
  REQUIRE(writer.write(directory / "sound", io::Checksums::whole_file));
  const auto use = [&](io::System& system) -> Status {
    const Result<SafetensorsFile> file = SafetensorsFile::open(directory / "sound", system);
    if (!file) return file.error();
    std::vector<float> into(500);
    if (Status read = file->read(*file->find("a"), into.data()); !read) return read;
    if (into != std::vector<float>(500, 1.5f)) return Error{.what = "wrong values"};
    if (Status read = file->compare_checksum(); !read) return read;
    return writer.write(directory / "copy", io::Checksums::whole_file, system);
  };
  Watched counting;
  REQUIRE(use(counting));
  for (int k = 0; k < counting.calls; ++k) {
    for (const Index order : {Index{-EIO}, Index{-ENOSPC}, Index{-EINTR}, Index{3}}) {
      for (const bool always : {false, true}) {
        support::spill(directory / "copy", "old");
        Watched system;
        system.interfere = [&](int call) { return call == k || (always && call > k) ? order : 0; };
        const Status done = use(system);
        CAPTURE(k, order, always, done ? "done" : done.error().message());
        if (order > 0 || (order == -EINTR && !always)) CHECK(done);
        if (!done) CHECK((done.error().code == Code::file_unreadable || done.error().code == Code::file_unwritable));
        CHECK(system.open_handles == 0);
        const std::string copy = support::slurp(directory / "copy");
        CHECK((copy == "old" || copy == support::slurp(directory / "sound")));
        if (done) CHECK(copy != "old");
      }
    }
  }
}
