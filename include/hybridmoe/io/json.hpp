#pragma once
/// @file json.hpp
/// A strict pull parser for JSON (RFC 8259): no recursion, no allocation, no dependency; its memory is the token it returns.
/// Duplicate keys are the consumer's to judge. Numbers stay text until the consumer asks for a natural number.

#include <charconv>
#include <string>
#include <string_view>

#include <hybridmoe/core/error.hpp>
#include <hybridmoe/io/json_text.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

enum class Json : std::uint8_t {
  object_begin,
  object_end,
  array_begin,
  array_end,
  key,
  string,
  number,
  yes,
  no,
  null,
  end,    ///< the document is complete and nothing but white space follows
  failed  ///< see error(); every later token is `failed` too
};

struct JsonToken {
  Json kind = Json::failed;
  bool escaped = false;     ///< key, string: `text` holds escapes
  Index at = 0;             ///< byte of the token's first character, counted from the document's start
  std::string_view text{};  ///< key, string: what stands between the quotes; number: its characters

  explicit operator bool() const { return kind != Json::failed; }
  /// The characters of a key or string.
  std::string decoded() const {
    std::string result(text);
    if (escaped) result.resize(to_size(unescape(text, result.data())));
    return result;
  }
  /// Whether a key or string reads `plain`. An escape is at most six times as long as its character.
  bool equals(std::string_view plain) const {
    if (!escaped) return text == plain;
    return text.size() <= 6 * plain.size() && decoded() == plain;
  }
};

/// Yields a document's tokens. The text must outlive the reader.
class JsonReader {
 public:
  static constexpr int deepest = 64;

  /// depth: the most objects and arrays that may be open at once (at most `deepest`). file, base: what errors name as the place;
  /// byte offsets in errors start at `base`.
  explicit JsonReader(std::string_view text, int depth = deepest, std::string_view file = {}, Index base = 0)
      : text_(text), file_(file), base_(base), limit_(depth < deepest ? depth : deepest) {}

  JsonToken next() {
    if (failed_) return {};
    skip_space();
    const char c = peek();
    const bool more = at_ < text_.size();
    switch (wants_) {
      case Wants::value_or_end:
        if (c == ']') return close(Json::array_end);
        return value(c);
      case Wants::value:
        return value(c);
      case Wants::key_or_end:
        if (c == '}') return close(Json::object_end);
        return key(c);
      case Wants::key:
        return key(c);
      case Wants::comma_or_end:
        if (in_object()) {
          if (c == '}') return close(Json::object_end);
          if (c != ',') return fail("JSON: a comma or '}' is missing");
          ++at_;
          wants_ = Wants::key;
        } else {
          if (c == ']') return close(Json::array_end);
          if (c != ',') return fail("JSON: a comma or ']' is missing");
          ++at_;
          wants_ = Wants::value;
        }
        return next_after_comma();
      case Wants::nothing:
        break;
    }
    if (more) return fail("JSON: something follows the document");
    return {Json::end, false, to_index(at_), {}};
  }

  /// The next token, which must be of this kind; `otherwise` is what the error says if it is not.
  JsonToken expect(Json kind, std::string_view otherwise) {
    const JsonToken token = next();
    if (token && token.kind != kind) return fail(otherwise, token.at);
    return token;
  }

  /// Reads the rest of the value that `token` began.
  bool skip(JsonToken token) {
    if (token.kind != Json::object_begin && token.kind != Json::array_begin) return static_cast<bool>(token);
    for (const int outer = depth_ - 1; token && depth_ > outer;) token = next();
    return static_cast<bool>(token);
  }

  /// A number token as an integer from 0: digits only, so 1e3, 1.0, -0 and -1 are refused, and so is what Index cannot hold.
  bool natural(const JsonToken& token, Index& value) {
    if (token.kind != Json::number || token.text.find_first_not_of("0123456789") != std::string_view::npos) {
      if (token) fail("JSON: an integer from 0, in digits only, is wanted here", token.at);
      return false;
    }
    const auto [rest, fault] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    if (fault != std::errc{}) fail("JSON: the integer is too large", token.at);
    return fault == std::errc{};
  }

  bool failed() const { return failed_; }
  const Error& error() const { return error_; }
  /// Objects and arrays that are open.
  int depth() const { return depth_; }

  /// Ends reading with a consumer's error at byte `at` of the document.
  JsonToken fail(std::string_view what, Index at, Index got = Error::unset, Index expected = Error::unset) {
    if (failed_) return {};
    failed_ = true;
    error_ = {Code::file_damaged, what, {}, got, expected, {}};
    if (!file_.empty()) error_.where = std::string(file_) + ": ";
    error_.where += "byte " + std::to_string(base_ + at);
    return {};
  }
  /// The same, for consumers whose functions say whether to go on: false.
  bool reject(std::string_view what, Index at, Index got = Error::unset, Index expected = Error::unset) {
    fail(what, at, got, expected);
    return false;
  }

 private:
  enum class Wants : std::uint8_t { value, value_or_end, key, key_or_end, comma_or_end, nothing };

  JsonToken fail(std::string_view what) {
    if (at_ >= text_.size()) return fail("JSON: the text ends too early", to_index(at_));
    return fail(what, to_index(at_));
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool in_object() const { return (objects_ >> (depth_ - 1) & 1u) != 0; }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  }
  JsonToken next_after_comma() {
    skip_space();
    return wants_ == Wants::key ? key(peek()) : value(peek());
  }
  void finish_value() { wants_ = depth_ == 0 ? Wants::nothing : Wants::comma_or_end; }

  JsonToken open(bool object) {
    if (depth_ >= limit_) return fail("JSON: nested too deeply", to_index(at_), depth_ + 1, limit_);
    const std::uint64_t bit = std::uint64_t{1} << depth_++;
    objects_ = object ? objects_ | bit : objects_ & ~bit;
    wants_ = object ? Wants::key_or_end : Wants::value_or_end;
    return {object ? Json::object_begin : Json::array_begin, false, to_index(at_++), {}};
  }
  JsonToken close(Json kind) {
    --depth_;
    finish_value();
    return {kind, false, to_index(at_++), {}};
  }
  JsonToken key(char c) {
    if (c != '"') return fail("JSON: a key in quotes is missing");
    JsonToken token = string(Json::key);
    if (!token) return token;
    skip_space();
    if (peek() != ':') return fail("JSON: a colon is missing after a key");
    ++at_;
    wants_ = Wants::value;
    return token;
  }
  JsonToken value(char c) {
    if (c == '{' || c == '[') return open(c == '{');
    JsonToken token;
    if (c == '"') {
      token = string(Json::string);
    } else if (c == '-' || (c >= '0' && c <= '9')) {
      token = number();
    } else if (c == 't') {
      token = word("true", Json::yes);
    } else if (c == 'f') {
      token = word("false", Json::no);
    } else if (c == 'n') {
      token = word("null", Json::null);
    } else {
      return fail("JSON: a value is missing");
    }
    if (token) finish_value();
    return token;
  }
  JsonToken word(std::string_view spelling, Json kind) {
    if (text_.substr(at_, spelling.size()) != spelling) return fail("JSON: only true, false and null are words");
    const JsonToken token{kind, false, to_index(at_), {}};
    at_ += spelling.size();
    return token;
  }
  JsonToken string(Json kind) {
    const std::size_t quote = at_++;
    JsonToken token{kind, false, to_index(quote), {}};
    for (;;) {
      if (at_ >= text_.size()) return fail("JSON: the text ends too early");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) return fail("JSON: a control character in a string must be escaped");
      if (c < 0x80 && c != '\\') {
        ++at_;
        continue;
      }
      const std::string_view rest = text_.substr(at_);
      const Index length = c == '\\' ? escape_length(rest) : utf8_length(rest);
      if (length == 0) return fail(c == '\\' ? "JSON: an escape is malformed" : "JSON: a string is not UTF-8");
      token.escaped = token.escaped || c == '\\';
      at_ += to_size(length);
    }
    token.text = text_.substr(quote + 1, at_ - quote - 1);
    ++at_;
    return token;
  }
  bool digits() {
    const std::size_t first = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > first;
  }
  JsonToken number() {
    const std::size_t first = at_;
    constexpr std::string_view malformed = "JSON: a number is malformed";
    if (peek() == '-') ++at_;
    if (peek() == '0') {
      ++at_;
      if (peek() >= '0' && peek() <= '9') return fail(malformed, to_index(first));
    } else if (!digits()) {
      return fail(malformed, to_index(first));
    }
    if (peek() == '.') {
      ++at_;
      if (!digits()) return fail(malformed, to_index(first));
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!digits()) return fail(malformed, to_index(first));
    }
    return {Json::number, false, to_index(first), text_.substr(first, at_ - first)};
  }

  std::string_view text_;
  std::string_view file_;
  Error error_{};
  Index base_ = 0;
  std::size_t at_ = 0;
  std::uint64_t objects_ = 0;  ///< bit d: what is open at depth d is an object, else an array
  int depth_ = 0;
  int limit_ = deepest;
  Wants wants_ = Wants::value;
  bool failed_ = false;
};

}  // namespace hybridmoe::io
