// The pull parser against nlohmann-json on generated documents, and against tables of what must and must not pass.
#include <catch2/catch_test_macros.hpp>

#include <nlohmann/json.hpp>

#include <hybridmoe/io/json.hpp>

#include "support.hpp"

using namespace hybridmoe;
using io::Json;
using io::JsonReader;
using io::JsonToken;
using support::Random;

namespace {

/// The document as one line of events, or "error".
std::string events_of(const std::string& text) {
  JsonReader json(text);
  std::string events;
  for (;;) {
    const JsonToken token = json.next();
    switch (token.kind) {
      case Json::object_begin:
        events += "{";
        break;
      case Json::object_end:
        events += "}";
        break;
      case Json::array_begin:
        events += "[";
        break;
      case Json::array_end:
        events += "]";
        break;
      case Json::key:
        events += "k" + token.decoded() + "\n";
        break;
      case Json::string:
        events += "s" + token.decoded() + "\n";
        break;
      case Json::number:
        events += "d" + std::to_string(std::strtod(std::string(token.text).c_str(), nullptr) + 0.0) + "\n";
        break;
      case Json::yes:
        events += "t";
        break;
      case Json::no:
        events += "f";
        break;
      case Json::null:
        events += "n";
        break;
      case Json::end:
        return events;
      case Json::failed:
        return "error";
    }
  }
}

/// The same from nlohmann-json.
struct Oracle : nlohmann::json_sax<nlohmann::json> {
  std::string events;
  bool number_overflowed = false;
  bool add(const std::string& event) { return events += event, true; }
  bool number(double value) { return add("d" + std::to_string(value + 0.0) + "\n"); }  // -0 and 0 are one
  bool null() override { return add("n"); }
  bool boolean(bool value) override { return add(value ? "t" : "f"); }
  bool number_integer(number_integer_t value) override { return number(static_cast<double>(value)); }
  bool number_unsigned(number_unsigned_t value) override { return number(static_cast<double>(value)); }
  bool number_float(number_float_t value, const string_t&) override { return number(value); }
  bool string(string_t& value) override { return add("s" + value + "\n"); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return add("{"); }
  bool key(string_t& value) override { return add("k" + value + "\n"); }
  bool end_object() override { return add("}"); }
  bool start_array(std::size_t) override { return add("["); }
  bool end_array() override { return add("]"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& fault) override {
    number_overflowed = fault.id == 406;
    events = "error";
    return false;
  }
};

std::string utf8(unsigned point) {
  char buffer[4];
  return {buffer, static_cast<std::size_t>(io::put_utf8(point, buffer))};
}

std::string random_string(Random& random) {
  std::string text = "\"";
  for (Index n = random.below(12); n > 0; --n) {
    switch (random.below(6)) {
      case 0:
        text += utf8(static_cast<unsigned>(0x80 + random.below(0xD800 - 0x80)));
        break;
      case 1:
        text += utf8(static_cast<unsigned>(0xE000 + random.below(0x110000 - 0xE000)));
        break;
      case 2:
        text += std::string("\\") + "\"\\/bfnrt"[random.below(8)];
        break;
      case 3: {
        char escape[16];
        if (random.chance(0.5)) {
          std::snprintf(escape, sizeof escape, "\\u%04X", static_cast<unsigned>(random.below(0xD800)));
        } else {
          std::snprintf(escape, sizeof escape, "\\uD%03x\\uD%03X", 0x800u + static_cast<unsigned>(random.below(0x400)),
                        0xC00u + static_cast<unsigned>(random.below(0x400)));
        }
        text += escape;
        break;
      }
      default:
        text += "abcxyz ._{}[],:0"[random.below(16)];
    }
  }
  return text + '"';
}

std::string space(Random& random) {
  std::string text;
  while (random.chance(0.2)) text += " \t\r\n"[random.below(4)];
  return text;
}

std::string random_value(Random& random, int depth) {
  const Index kind = random.below(depth > 0 ? 9 : 6);
  switch (kind) {
    case 0:
      return random_string(random);
    case 1:
      return std::to_string(static_cast<std::int64_t>(random()) >> random.below(64));
    case 2:
      return std::to_string(random.below(1000)) + "." + std::to_string(random.below(1000));
    case 3:
      return (random.chance(0.5) ? "-0" : "7") + std::string(random.chance(0.5) ? "e" : ".25E+") +
             std::to_string(random.below(30));
    case 4:
      return random.chance(0.5) ? "true" : "false";
    case 5:
      return "null";
    default: {
      const bool object = kind != 6;
      std::string text = object ? "{" : "[";
      const Index count = random.below(4);
      for (Index i = 0; i < count; ++i) {
        text += (i > 0 ? "," : "") + space(random);
        if (object) text += random_string(random) + space(random) + ":" + space(random);
        text += random_value(random, depth - 1) + space(random);
      }
      return text + space(random) + (object ? "}" : "]");
    }
  }
}

void mutate(Random& random, std::string& text) {
  for (Index n = 1 + random.below(3); n > 0 && !text.empty(); --n) {
    const auto at = static_cast<std::size_t>(random.below(static_cast<Index>(text.size())));
    switch (random.below(5)) {
      case 0:
        text.erase(at, static_cast<std::size_t>(1 + random.below(4)));
        break;
      case 1:
        text.insert(at, 1, "{}[],:\"\\u0-.eE+ tnf/"[random.below(20)]);
        break;
      case 2:
        text[at] = static_cast<char>(random());
        break;
      case 3:
        text.insert(at, text.substr(at, static_cast<std::size_t>(random.below(8))));
        break;
      default:
        text.resize(at);
    }
  }
}

std::string fault_of(const std::string& text, int depth = JsonReader::deepest) {
  JsonReader json(text, depth);
  JsonToken token = json.next();
  while (token && token.kind != Json::end) token = json.next();
  return token ? "" : std::string(json.error().what) + " @" + json.error().where;
}

}  // namespace

TEST_CASE("a pull parser reads what nlohmann-json reads and refuses what it refuses") {
  Random random(1);
  Index accepted = 0, refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = space(random) + random_value(random, 5) + space(random);
    for (int round = 0; round < 2; ++round) {
      Oracle oracle;
      nlohmann::json::sax_parse(text, &oracle);
      const std::string ours = events_of(text);
      // nlohmann skips a byte order mark, takes a zero byte for the end and refuses numbers that a double cannot hold; strict
      // JSON does none of these.
      const bool excused = oracle.number_overflowed || text.starts_with("\xEF\xBB\xBF") || text.find('\0') != std::string::npos;
      if (!excused && ours != oracle.events) {
        CAPTURE(text);
        REQUIRE(ours == oracle.events);
      }
      ++(ours == "error" ? refused : accepted);
      mutate(random, text);
    }
  }
  CHECK(accepted > 21'000);
  CHECK(refused > 12'000);
}

TEST_CASE("faults are told apart and placed") {
  const struct {
    const char* text;
    const char* fault;
  } cases[] = {
      {"", "JSON: the text ends too early @byte 0"},
      {"  ", "JSON: the text ends too early @byte 2"},
      {"[1", "JSON: the text ends too early @byte 2"},
      {"{\"a", "JSON: the text ends too early @byte 3"},
      {"{\"a\"", "JSON: the text ends too early @byte 4"},
      {"[1 2]", "JSON: a comma or ']' is missing @byte 3"},
      {"{\"a\":1 \"b\":2}", "JSON: a comma or '}' is missing @byte 7"},
      {"[1,]", "JSON: a value is missing @byte 3"},
      {"[,1]", "JSON: a value is missing @byte 1"},
      {"{\"a\":1,}", "JSON: a key in quotes is missing @byte 7"},
      {"{a:1}", "JSON: a key in quotes is missing @byte 1"},
      {"{\"a\" 1}", "JSON: a colon is missing after a key @byte 5"},
      {"{\"a\":}", "JSON: a value is missing @byte 5"},
      {"1 2", "JSON: something follows the document @byte 2"},
      {"{}}", "JSON: something follows the document @byte 2"},
      {"]", "JSON: a value is missing @byte 0"},
      {"[}", "JSON: a value is missing @byte 1"},
      {"{]", "JSON: a key in quotes is missing @byte 1"},
      {"tru", "JSON: only true, false and null are words @byte 0"},
      {"nul1", "JSON: only true, false and null are words @byte 0"},
      {"True", "JSON: a value is missing @byte 0"},
      {"NaN", "JSON: a value is missing @byte 0"},
      {"Infinity", "JSON: a value is missing @byte 0"},
      {"'a'", "JSON: a value is missing @byte 0"},
      {"/* */1", "JSON: a value is missing @byte 0"},
      {"\xEF\xBB\xBF{}", "JSON: a value is missing @byte 0"},
      {"01", "JSON: a number is malformed @byte 0"},
      {"-", "JSON: a number is malformed @byte 0"},
      {"-01", "JSON: a number is malformed @byte 0"},
      {"1.", "JSON: a number is malformed @byte 0"},
      {"1.e1", "JSON: a number is malformed @byte 0"},
      {"[.5]", "JSON: a value is missing @byte 1"},
      {"1e", "JSON: a number is malformed @byte 0"},
      {"1e+", "JSON: a number is malformed @byte 0"},
      {"+1", "JSON: a value is missing @byte 0"},
      {"0x1", "JSON: something follows the document @byte 1"},
      {"\"\\x\"", "JSON: an escape is malformed @byte 1"},
      {"\"\\u12G4\"", "JSON: an escape is malformed @byte 1"},
      {"\"\\uD800\"", "JSON: an escape is malformed @byte 1"},
      {"\"\\uD800\\u0041\"", "JSON: an escape is malformed @byte 1"},
      {"\"\\uDC00\"", "JSON: an escape is malformed @byte 1"},
      {"\"a\tb\"", "JSON: a control character in a string must be escaped @byte 2"},
      {"\"a\nb\"", "JSON: a control character in a string must be escaped @byte 2"},
      {"\"\xC0\x80\"", "JSON: a string is not UTF-8 @byte 1"},
      {"\"\xED\xA0\x80\"", "JSON: a string is not UTF-8 @byte 1"},
      {"\"\xF4\x90\x80\x80\"", "JSON: a string is not UTF-8 @byte 1"},
      {"\"\xE2\x82\"", "JSON: a string is not UTF-8 @byte 1"},
  };
  for (const auto& each : cases) {
    CAPTURE(each.text);
    CHECK(fault_of(each.text) == each.fault);
  }
  CHECK(fault_of(std::string("[\0]", 3)) == "JSON: a value is missing @byte 1");
  CHECK(fault_of(std::string("\"\0\"", 3)) == "JSON: a control character in a string must be escaped @byte 1");
}

TEST_CASE("errors name the file and count bytes from the document's place in it") {
  JsonReader json("{\"a\":?}", 8, "model.safetensors", 8);
  while (json.next()) {
  }
  CHECK(json.error().code == Code::file_damaged);
  CHECK(json.error().where == "model.safetensors: byte 13");
  CHECK(!json.next());
  CHECK(json.error().where == "model.safetensors: byte 13");
}

TEST_CASE("depth is bounded, whatever the document's size") {
  CHECK(fault_of("[[[[]]]]", 4).empty());
  CHECK(fault_of("[[[[[]]]]]", 4) == "JSON: nested too deeply @byte 4");
  CHECK(fault_of("{\"a\":{\"a\":{\"a\":{}}}}", 3) == "JSON: nested too deeply @byte 15");
  CHECK(fault_of("[[]", 0) == "JSON: nested too deeply @byte 0");
  CHECK(fault_of(std::string(100, '['), -1) == "JSON: nested too deeply @byte 0");
  CHECK(fault_of(std::string(64, '[') + std::string(64, ']')).empty());
  CHECK(fault_of(std::string(65, '[') + std::string(65, ']'), 1000) == "JSON: nested too deeply @byte 64");
  CHECK(fault_of(std::string(10'000'000, '[')) == "JSON: nested too deeply @byte 64");
  // Arrays and objects in turn: the reader must remember which is open at each depth.
  std::string open, close;
  for (int i = 0; i < 32; ++i) open += "[{\"k\":", close = "}]" + close;
  CHECK(fault_of(open + "1" + close).empty());
  CHECK(!fault_of(open + "1" + "]}" + close.substr(2)).empty());
}

TEST_CASE("natural numbers are digits only, and fit") {
  const auto natural = [](const char* text, Index& value) {
    JsonReader json(text);
    const bool good = json.natural(json.next(), value);
    CHECK(good != json.failed());
    return good;
  };
  Index value = -1;
  CHECK((natural("0", value) && value == 0));
  CHECK((natural("9223372036854775807", value) && value == INT64_MAX));
  for (const char* bad : {"-0", "-1", "1.0", "1e3", "1E0", "0.0", "\"1\"", "true", "null", "[]", "9223372036854775808",
                          "18446744073709551616", "99999999999999999999999999"}) {
    CAPTURE(bad);
    CHECK(!natural(bad, value));
  }
}

TEST_CASE("skip passes over a value of any size") {
  JsonReader json(R"({"a":[1,{"b":[2,"]"]},3],"c":4})");
  REQUIRE(json.next().kind == Json::object_begin);
  REQUIRE(json.next().equals("a"));
  REQUIRE(json.skip(json.next()));
  CHECK(json.next().equals("c"));
  JsonToken last = json.next();
  CHECK(json.skip(last));
  CHECK(last.text == "4");
  CHECK(json.next().kind == Json::object_end);
  CHECK(json.next().kind == Json::end);
  JsonReader cut("[1,[2");
  CHECK(!cut.skip(cut.next()));
}

TEST_CASE("strings that we write are read back, by nlohmann-json too") {
  Random random(2);
  for (int i = 0; i < 5'000; ++i) {
    std::string text;
    for (Index n = random.below(20); n > 0; --n) {
      const auto point = static_cast<unsigned>(random.chance(0.5) ? random.below(0x100) : random.below(0x110000));
      if (point < 0xD800 || point > 0xDFFF) text += utf8(point);
    }
    std::string json;
    io::append_json_string(json, text);
    CHECK(nlohmann::json::parse(json).get<std::string>() == text);
    JsonReader reader(json);
    const JsonToken token = reader.next();
    CHECK(token.decoded() == text);
    CHECK(token.equals(text));
    CHECK(!token.equals(text + "x"));
  }
  CHECK(io::in_quotes("a\"\n\xFF") == "\"a\\\"\\u000a?\"");
  CHECK(io::in_quotes(std::string(1000, 'x')) == "\"" + std::string(200, 'x') + "\"...");
}

TEST_CASE("UTF-8 is exactly what the standard says") {
  // Every code point, encoded by the textbook formula, is accepted; surrogates are not.
  for (unsigned point = 0; point < 0x110000; ++point) {
    const std::string text = utf8(point);
    const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
    if (io::utf8_fault(text).has_value() != surrogate) FAIL("code point " << point);
  }
  // Nothing else is: of the strings of three bytes that begin with any of these, exactly as many are UTF-8 as there are ways to
  // fill three bytes.
  Index valid = 0;
  for (unsigned first = 0; first <= 0xFF; ++first) {
    if (first < 0xC0 && first != 0 && first != 0x7F && first != 0x80 && first != 0xBF) continue;
    for (unsigned rest = 0; rest < 1u << 16; ++rest) {
      const char text[] = {static_cast<char>(first), static_cast<char>(rest >> 8), static_cast<char>(rest)};
      valid += !io::utf8_fault({text, 3}).has_value();
    }
  }
  const Index one = 0x80, two = 0x800 - 0x80, three = 0x10000 - 0x800 - 0x800;
  CHECK(valid == 2 * (one * one + two) + two * one + three);
  // Four bytes: those that begin with F0 … FF.
  valid = 0;
  for (unsigned first = 0xF0; first <= 0xFF; ++first) {
    for (unsigned second = 0; second <= 0xFF; ++second) {
      for (const unsigned third : {0x7Fu, 0x80u, 0xBFu, 0xC0u}) {
        const char text[] = {static_cast<char>(first), static_cast<char>(second), static_cast<char>(third), '\x80'};
        valid += !io::utf8_fault({text, 4}).has_value();
      }
    }
  }
  CHECK(valid == 2 * 0x100);  // planes 1 to 16: 0x100 second-and-first-byte pairs of 16 × 16, two good third bytes
  CHECK(io::utf8_fault("ab\xC3") == 2);
  CHECK(!io::utf8_fault(""));
}
