// Safetensors files that break one rule each: every one is refused, with the message of the rule that it breaks; and files on the
// legal side of every bound are read.
#include <catch2/catch_test_macros.hpp>

#include <map>
#include <set>

#include <hybridmoe/io/safetensors.hpp>

#include "support.hpp"

using namespace hybridmoe;
using support::Memory;
using support::safetensors;

namespace {

struct Case {
  std::string bytes;
  std::string what;
};

/// A header's size field before any bytes.
std::string sized(std::uint64_t size, const std::string& rest) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &size, 8);
  return file + rest;
}

/// One tensor's entry.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}
/// A file whose only tensor, of `bytes` bytes, has this entry.
std::string alone(const std::string& dtype, const std::string& shape, const std::string& offsets, std::size_t bytes) {
  return safetensors("{" + entry("x", dtype, shape, offsets) + "}", std::string(bytes, 'd'));
}

const std::string good = entry("x", "F32", "[2]", "[0,8]");

/// Rule → cases that break it.
std::map<std::string, std::vector<Case>> corpus() {
  std::map<std::string, std::vector<Case>> rules;
  const auto add = [&](const char* rule, std::string bytes, const char* what) {
    rules[rule].push_back({std::move(bytes), what});
  };
  const auto header = [&](const char* rule, const std::string& text, const char* what, std::size_t data = 8) {
    add(rule, safetensors(text, std::string(data, 'd')), what);
  };

  for (std::size_t size = 0; size < 8; ++size)
    add("shorter than 8 bytes", std::string(size, '{'), "the file is too short for a header's size");

  for (const std::uint64_t size :
       {std::uint64_t{1} << 63, (std::uint64_t{1} << 63) + 2, ~std::uint64_t{0}, ~std::uint64_t{7}, ~std::uint64_t{0} - 8}) {
    add("size not representable", sized(size, "{}"), "the header's size is no size at all");
  }
  for (const std::uint64_t size :
       {std::uint64_t{100'000'001}, std::uint64_t{1} << 31, std::uint64_t{1} << 32, (std::uint64_t{1} << 32) + 2,
        std::uint64_t{1} << 62, (std::uint64_t{1} << 63) - 1, (std::uint64_t{1} << 63) - 8}) {
    add("size above the bound", sized(size, "{}"), "the header is too large");
  }
  for (const std::uint64_t size : std::initializer_list<std::uint64_t>{3, 4, 10, 1000, 99'999'999, 100'000'000})
    add("header beyond the end", sized(size, "{}"), "the header reaches beyond the end of the file");
  add("header beyond the end", sized(1, ""), "the header reaches beyond the end of the file");

  for (const char* bad :
       {"\xFF", "\xC0\x80", "\xE2\x82", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80", "\xF8\x88\x80\x80\x80", "\xC1\xBF"}) {
    header("UTF-8", "{" + entry(std::string("x") + bad, "F32", "[2]", "[0,8]") + "}", "the header is not UTF-8");
  }
  header("UTF-8", "{" + good + "}\xC3", "the header is not UTF-8");
  header("UTF-8", "{\"__metadata__\":{\"a\":\"\xFE\"}," + good + "}", "the header is not UTF-8");

  header("JSON", "{" + good, "JSON: the text ends too early");
  header("JSON", "{" + good + "}}", "JSON: something follows the document");
  header("JSON", "{" + good + "}{}", "JSON: something follows the document");
  header("JSON", "{" + good + ",}", "JSON: a key in quotes is missing");
  header("JSON", "{," + good + "}", "JSON: a key in quotes is missing");
  header("JSON", "{x:1}", "JSON: a key in quotes is missing");
  header("JSON", "{'x':1}", "JSON: a key in quotes is missing");
  header("JSON", "{\"x\" {}}", "JSON: a colon is missing after a key");
  header("JSON", "{\"x\":}", "JSON: a value is missing");
  header("JSON", "{" + good + " " + entry("y", "F32", "[0]", "[8,8]") + "}", "JSON: a comma or '}' is missing");
  header("JSON", "{\"x\":nil}", "JSON: only true, false and null are words");
  header("JSON", "{\"x\\q\":{}}", "JSON: an escape is malformed");
  header("JSON", "{\"x\\uD800\":{}}", "JSON: an escape is malformed");
  header("JSON", std::string("{\"x\0\":{}}", 9), "JSON: a control character in a string must be escaped");
  header("JSON", "{\"x\n\":{}}", "JSON: a control character in a string must be escaped");
  header("JSON", "{" + good + "}" + std::string(1, '\0'), "JSON: something follows the document");
  header("JSON", "{/*c*/" + good + "}", "JSON: a key in quotes is missing");
  header("JSON", "{" + entry("x", "F32", "[2 3]", "[0,8]") + "}", "JSON: a comma or ']' is missing");
  header("JSON", "{" + entry("x", "F32", "[2,]", "[0,8]") + "}", "JSON: a value is missing");

  for (const char* value : {"1", "\"F32\"", "[0,8]", "null", "true", "[]"})
    header("entry no object", std::string("{\"x\":") + value + "}", "a tensor's entry must be an object");
  header("field missing", "{\"x\":{}}", "a tensor's entry has no dtype");
  header("field missing", "{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", "a tensor's entry has no dtype");
  header("field missing", "{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "a tensor's entry has no shape");
  header("field missing", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", "a tensor's entry has no data_offsets");
  header("field missing", "{\"x\":{\"dtype\":\"F32\"}}", "a tensor's entry has no shape");
  for (const char* field : {"extra", "Dtype", "dtype ", "", "data_offset", "__metadata__"}) {
    header("field unknown", "{\"x\":{\"" + std::string(field) + "\":1,\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
           "a tensor's entry has an unknown field");
  }
  for (const char* value : {"32", "null", "[\"F32\"]", "{}", "true"}) {
    header("dtype no string", "{\"x\":{\"dtype\":" + std::string(value) + ",\"shape\":[2],\"data_offsets\":[0,8]}}",
           "dtype must be a string");
  }
  for (const char* value : {"2", "\"[2]\"", "null", "{}", "false"}) {
    header("shape no array", "{\"x\":{\"dtype\":\"F32\",\"shape\":" + std::string(value) + ",\"data_offsets\":[0,8]}}",
           "shape must be an array");
  }
  for (const char* value :
       {"8", "null", "{\"begin\":0,\"end\":8}", "[]", "[0]", "[0,8,8]", "[\"0\",\"8\"]", "[[0,8]]", "[0,null]"}) {
    header("offsets no pair", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" + std::string(value) + "}}",
           "data_offsets must be an array of two integers");
  }

  for (const char* text : {"", " ", "\n\t", "[]", "x{}", "null", "\"{}\"", "\xEF\xBB\xBF{}", "\v{}", "1"})
    header("first character", text, "the header does not begin with '{'", 0);

  header("name twice", "{" + good + "," + good + "}", "two tensors have the same name");
  header("name twice", "{" + good + "," + entry("x", "F32", "[2]", "[8,16]") + "}", "two tensors have the same name", 16);
  header("name twice", "{" + good + "," + entry("\\u0078", "F32", "[2]", "[8,16]") + "}", "two tensors have the same name", 16);
  header("name twice", "{" + entry("", "F32", "[0]", "[0,0]") + "," + entry("", "U8", "[0]", "[0,0]") + "}",
         "two tensors have the same name", 0);
  header("name twice", "{" + good + "," + entry("y", "U8", "[1]", "[8,9]") + "," + entry("x", "U8", "[1]", "[9,10]") + "}",
         "two tensors have the same name", 10);
  header("metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}," + good + "}", "__metadata__ stands there twice");
  header("metadata twice", "{\"__metadata__\":{}," + good + ",\"__metadata__\":{\"a\":\"b\"}}",
         "__metadata__ stands there twice");
  header("metadata twice", "{\"__metadata__\":{},\"\\u005f_metadata__\":{}}", "__metadata__ stands there twice", 0);
  header("metadata twice", "{" + good + ",\"__metadata__\":{\"a\":\"b\"},\"__metadata__\":{\"a\":\"b\"}}",
         "__metadata__ stands there twice");
  header("metadata twice", "{\"__metadata__\":{},\"__metadata__\":1}", "__metadata__ stands there twice", 0);
  header("metadata key twice", R"({"__metadata__":{"a":"1","a":"1"}})", "__metadata__ has a key twice", 0);
  header("metadata key twice", R"({"__metadata__":{"a":"1","b":"2","a":"3"}})", "__metadata__ has a key twice", 0);
  header("metadata key twice", R"({"__metadata__":{"":"1","":"2"}})", "__metadata__ has a key twice", 0);
  header("metadata key twice", R"({"__metadata__":{"a":"1","\u0061":"1"}})", "__metadata__ has a key twice", 0);
  header("metadata key twice", "{\"__metadata__\":{\"\xC3\xA9\":\"1\",\"\\u00e9\":\"1\"}," + good + "}",
         "__metadata__ has a key twice");
  header("field twice", "{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
         "a tensor's entry has a field twice");
  header("field twice", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}",
         "a tensor's entry has a field twice");
  header("field twice", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"data_offsets\":[0,8]}}",
         "a tensor's entry has a field twice");
  header("field twice", "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8],\"shape\":[2]}}",
         "a tensor's entry has a field twice");
  header("field twice", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"\\u0064type\":\"F32\"}}",
         "a tensor's entry has a field twice");

  for (const char* value :
       {"1", "null", "[]", "\"a\"", "{\"a\":1}", "{\"a\":null}", "{\"a\":{}}", "{\"a\":[\"b\"]}", "{\"a\":\"b\",\"c\":true}"}) {
    header("metadata no strings", "{\"__metadata__\":" + std::string(value) + "," + good + "}",
           "__metadata__ must map strings to strings");
  }
  for (const char* name : {"f32", "F31", "", "F32 ", "FLOAT", "U4", "Q4_0", "F32\\u0000"})
    add("dtype unknown", alone(name, "[2]", "[0,8]", 8), "the dtype is unknown");

  header("hole", "{" + entry("x", "F32", "[1]", "[4,8]") + "}", "there is a hole before a tensor's data");
  header("hole", "{" + entry("x", "F32", "[1]", "[0,4]") + "," + entry("y", "F32", "[1]", "[8,12]") + "}",
         "there is a hole before a tensor's data", 12);
  header("hole", "{" + entry("x", "F32", "[1]", "[5,9]") + "," + entry("y", "F32", "[1]", "[0,4]") + "}",
         "there is a hole before a tensor's data", 9);
  header("hole", "{" + entry("x", "U8", "[0]", "[1,1]") + "}", "there is a hole before a tensor's data", 1);
  header("hole", "{" + entry("x", "U8", "[0]", "[9223372036854775807,9223372036854775807]") + "}",
         "there is a hole before a tensor's data", 0);
  header("overlap", "{" + entry("x", "F32", "[2]", "[0,8]") + "," + entry("y", "F32", "[2]", "[4,12]") + "}", "tensors overlap",
         12);
  header("overlap", "{" + entry("x", "F32", "[2]", "[0,8]") + "," + entry("y", "F32", "[2]", "[0,8]") + "}", "tensors overlap");
  header("overlap", "{" + entry("x", "F32", "[2]", "[0,8]") + "," + entry("y", "F32", "[1]", "[0,4]") + "}", "tensors overlap");
  header("overlap", "{" + entry("x", "F32", "[2]", "[0,8]") + "," + entry("y", "U8", "[0]", "[3,3]") + "}", "tensors overlap");
  header("overlap", "{" + entry("x", "U8", "[8]", "[0,8]") + "," + entry("y", "U8", "[1]", "[7,8]") + "}", "tensors overlap");

  for (const char* offsets :
       {"[8,0]", "[1,0]", "[8,7]", "[9223372036854775807,0]", "[9223372036854775807,9223372036854775806]"}) {
    add("end before begin", alone("F32", "[2]", offsets, 8), "data_offsets end before they begin");
  }
  for (const char* shape : {"[4611686018427387904,4]", "[4294967296,4294967296]", "[9223372036854775807,2]",
                            "[3,3074457345618258603]", "[65536,65536,65536,65536]", "[4294967296,4294967296,0]"}) {
    add("product overflows", alone("U8", shape, "[0,8]", 8), "the product of a tensor's shape overflows");
  }
  add("product overflows", alone("F32", "[1152921504606846976]", "[0,8]", 8),
      "the product of a tensor's shape overflows");  // × 32 bits = 2^65
  add("product overflows", alone("U8", "[2305843009213693952]", "[0,8]", 8),
      "the product of a tensor's shape overflows");  // × 8 bits = 2^64
  for (const auto& [dtype, shape] :
       {std::pair{"F4", "[1]"}, {"F4", "[3,5]"}, {"F6_E2M3", "[1]"}, {"F6_E3M2", "[2]"}, {"F6_E2M3", "[3]"}, {"F4", "[]"}}) {
    add("no whole bytes", alone(dtype, shape, "[0,1]", 1), "a tensor's bits do not fill whole bytes");
  }
  add("size disagrees", alone("F32", "[3]", "[0,8]", 8), "data_offsets do not agree with dtype and shape");
  add("size disagrees", alone("F32", "[1]", "[0,8]", 8), "data_offsets do not agree with dtype and shape");
  add("size disagrees", alone("F16", "[2]", "[0,8]", 8), "data_offsets do not agree with dtype and shape");
  add("size disagrees", alone("F32", "[]", "[0,8]", 8), "data_offsets do not agree with dtype and shape");
  add("size disagrees", alone("F32", "[0,2]", "[0,8]", 8), "data_offsets do not agree with dtype and shape");
  add("size disagrees", alone("F32", "[2]", "[0,0]", 0), "data_offsets do not agree with dtype and shape");
  add("size disagrees", alone("F32", "[2]", "[0,9223372036854775807]", 8), "data_offsets do not agree with dtype and shape");

  for (const std::size_t bytes : {0u, 1u, 7u})
    add("data cut", alone("F32", "[2]", "[0,8]", bytes), "the file ends before its data does");
  add("data cut", safetensors("{" + good + "," + entry("y", "U8", "[1]", "[8,9]") + "}", "12345678"),
      "the file ends before its data does");
  add("data cut", alone("U8", "[1099511627776]", "[0,1099511627776]", 8), "the file ends before its data does");
  for (const std::size_t bytes : {9u, 16u, 1000u})
    add("trailing bytes", alone("F32", "[2]", "[0,8]", bytes), "something follows the last tensor");
  add("trailing bytes", safetensors("{}", "x"), "something follows the last tensor");
  add("trailing bytes", safetensors("{\"__metadata__\":{}}", "PK\x03\x04"), "something follows the last tensor");
  add("trailing bytes", alone("U8", "[0]", "[0,0]", 1), "something follows the last tensor");

  add("rank", alone("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]", 1), "a shape has too many extents");
  add("rank", alone("U8", "[0,0,0,0,0,0,0,0,0]", "[0,0]", 0), "a shape has too many extents");
  add("rank", alone("U8", "[1,2,1,2,1,2,1,2,1,2]", "[0,32]", 32), "a shape has too many extents");
  for (const int rank : {64, 100'000}) {
    std::string shape = "[1";
    for (int i = 1; i < rank; ++i) shape += ",1";
    add("rank", alone("U8", shape + "]", "[0,1]", 1), "a shape has too many extents");
  }
  for (const std::size_t size : {4097u, 5000u, 65536u, 65537u, 1'000'000u}) {
    header("name too long", "{" + entry(std::string(size, 'n'), "F32", "[2]", "[0,8]") + "}", "a tensor's name is too long");
  }

  constexpr const char* integers = "JSON: an integer from 0, in digits only, is wanted here";
  for (const char* number : {"2.0", "2e0", "-0", "-2", "0.2e1", "20E-1", "\"2\"", "null", "[2]", "{}", "true"}) {
    add("integers only", alone("F32", "[" + std::string(number) + "]", "[0,8]", 8), integers);
  }
  for (const char* number : {"8.0", "8e0", "-8", "0.8e1", "-0"})
    add("integers only", alone("F32", "[2]", "[0," + std::string(number) + "]", 8), integers);
  for (const char* number : {"9223372036854775808", "18446744073709551616", "18446744073709551618",
                             "340282366920938463463374607431768211456", "99999999999999999999"}) {
    add("integers in range", alone("U8", "[" + std::string(number) + "]", "[0,2]", 2), "JSON: the integer is too large");
    add("integers in range", alone("U8", "[2]", "[0," + std::string(number) + "]", 2), "JSON: the integer is too large");
  }
  // Depth: no entry can legally be deeper than three; deep documents are refused where they leave the schema.
  for (const int depth : {5, 64, 65, 1000, 1'000'000}) {
    const std::string deep = std::string(static_cast<std::size_t>(depth), '[');
    header("depth", "{\"x\":{\"dtype\":" + deep, "dtype must be a string");
    add("depth", alone("F32", deep, "[0,8]", 8), integers);
  }
  return rules;
}

std::string fault_of(const std::string& bytes) {
  Memory memory(bytes);
  const Result<io::SafetensorsFile> file = io::SafetensorsFile::open("memory", memory);
  if (file) return "accepted";
  CHECK(file.error().code == Code::file_damaged);
  CHECK(file.error().where.starts_with("memory"));
  return std::string(file.error().what);
}

}  // namespace

TEST_CASE("files that break one rule are refused with that rule's message") {
  Index cases = 0;
  std::map<std::string, std::set<std::string>> rules_of_message;
  for (const auto& [rule, files] : corpus()) {
    CHECK(files.size() >= 5);
    for (const Case& each : files) {
      CAPTURE(rule, each.bytes.substr(0, 200));
      CHECK(fault_of(each.bytes) == each.what);
      rules_of_message[each.what].insert(rule);
      ++cases;
    }
  }
  CHECK(cases >= 200);
  // A message belongs to one rule (depth is noticed as whatever stands in place of what the schema wants).
  for (auto& [message, rules] : rules_of_message) {
    CAPTURE(message);
    rules.erase("depth");
    CHECK(rules.size() <= 1);
  }
}

TEST_CASE("too many tensors or metadata entries") {
  std::string header = "{";
  for (Index i = 0; i < io::SafetensorsLimits::tensors; ++i) {
    header += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  }
  CHECK(fault_of(safetensors(header + "}")) == "accepted");
  CHECK(fault_of(safetensors(header + "," + entry("one more", "U8", "[0]", "[0,0]") + "}")) == "there are too many tensors");
  std::string metadata = "{\"__metadata__\":{";
  for (Index i = 0; i < io::SafetensorsLimits::metadata_entries; ++i)
    metadata += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
  CHECK(fault_of(safetensors(metadata + "}}")) == "accepted");
  CHECK(fault_of(safetensors(metadata + ",\"one more\":\"\"}}")) == "__metadata__ has too many entries");
}

TEST_CASE("what the rules allow is read") {
  const std::string one = entry("x", "F32", "[2]", "[0,8]"), data = "12345678";
  const std::vector<std::string> files = {
      safetensors("{}"),
      safetensors("{ }   "),
      safetensors(" \t\r\n{" + one + "} \n", data),
      safetensors("{\"__metadata__\":{}}"),
      safetensors(R"({"__metadata__":{"":"","a":"\u0000"}})"),
      safetensors("{" + one + ",\"__metadata__\":{\"a\":\"b\"}}", data),
      safetensors("{" + entry("", "F32", "[2]", "[0,8]") + "}", data),
      safetensors("{" + entry("\\u0000\\n\\uD83D\\uDE00", "F32", "[2]", "[0,8]") + "}", data),
      safetensors("{" + entry(std::string(4096, 'n'), "F32", "[2]", "[0,8]") + "}", data),
      safetensors("{\"x\" : { \"data_offsets\" : [ 0 , 8 ] , \"shape\" : [ 2 ] , \"\\u0064type\" : \"F\\u00332\" } }", data),
      alone("F32", "[]", "[0,4]", 4),
      alone("F32", "[0]", "[0,0]", 0),
      alone("F32", "[0,9223372036854775807,9223372036854775807]", "[0,0]", 0),
      alone("U8", "[1,1,1,1,1,1,1,8]", "[0,8]", 8),
      alone("F4", "[2]", "[0,1]", 1),
      alone("F6_E2M3", "[4]", "[0,3]", 3),
      alone("C64", "[1]", "[0,8]", 8),
      // Order in the header is free; tensors without elements lie on any border.
      safetensors("{" + entry("b", "U8", "[2]", "[6,8]") + "," + entry("a", "U8", "[6]", "[0,6]") + "}", data),
      safetensors("{" + entry("e", "U8", "[0]", "[8,8]") + "," + one + "," + entry("d", "U8", "[0]", "[0,0]") + "}", data),
      // Values are nobody's business.
      safetensors("{" + one + "}", std::string("\0\0\xC0\x7F\0\0\x80\xFF", 8)),
  };
  for (const std::string& bytes : files) {
    CAPTURE(bytes.substr(0, 200));
    CHECK(fault_of(bytes) == "accepted");
  }
  Memory memory(files[7]);
  const Result<io::SafetensorsFile> file = io::SafetensorsFile::open("memory", memory);
  REQUIRE(file);
  CHECK((*file)[0].name == std::string("\0\n\xF0\x9F\x98\x80", 6));
}
