#pragma once
/// @file json_text.hpp
/// Characters of JSON documents: UTF-8, escapes, quoting.

#include <optional>
#include <string>
#include <string_view>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// Bytes of the UTF-8 character that begins `text`, or 0 if there is none: overlong forms, surrogates, values above U+10FFFF and
/// cut characters are refused (Unicode 15, table 3-7).
constexpr Index utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned least = first == 0xE0 ? 0xA0 : 0x80, most = first == 0xED ? 0x9F : 0xBF;
    return byte(1) >= least && byte(1) <= most && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned least = first == 0xF0 ? 0x90 : 0x80, most = first == 0xF4 ? 0x8F : 0xBF;
    return byte(1) >= least && byte(1) <= most && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

/// The offset of the first byte that is not UTF-8, or nothing if all of `text` is.
constexpr std::optional<Index> utf8_fault(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Index length = utf8_length(text.substr(i));
    if (length == 0) return to_index(i);
    i += to_size(length);
  }
  return std::nullopt;
}

/// The value of a hexadecimal digit, or −1.
constexpr int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// The four hexadecimal digits at the start of `text`, or −1.
constexpr int hex_quad(std::string_view text) {
  if (text.size() < 4) return -1;
  int value = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    const int digit = hex_digit(text[i]);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/// Bytes of the escape (backslash first) that begins `text`, or 0 if it is none. A high surrogate counts with the low one that
/// must follow it.
constexpr Index escape_length(std::string_view text) {
  if (text.size() < 2 || text[0] != '\\') return 0;
  if (text[1] != 'u') return std::string_view("\"\\/bfnrt").find(text[1]) != std::string_view::npos ? 2 : 0;
  const int first = hex_quad(text.substr(2));
  if (first < 0 || (first >= 0xDC00 && first <= 0xDFFF)) return 0;
  if (first < 0xD800 || first > 0xDBFF) return 6;
  if (text.size() < 12 || text[6] != '\\' || text[7] != 'u') return 0;
  const int second = hex_quad(text.substr(8));
  return second >= 0xDC00 && second <= 0xDFFF ? 12 : 0;
}

/// Writes code point `c` as UTF-8; returns its bytes (at most 4).
constexpr Index put_utf8(unsigned c, char* out) {
  const auto low = [](unsigned bits) { return static_cast<char>(0x80u | (bits & 0x3Fu)); };
  if (c < 0x80) return out[0] = static_cast<char>(c), 1;
  if (c < 0x800) return out[0] = static_cast<char>(0xC0u | c >> 6), out[1] = low(c), 2;
  if (c < 0x10000) return out[0] = static_cast<char>(0xE0u | c >> 12), out[1] = low(c >> 6), out[2] = low(c), 3;
  return out[0] = static_cast<char>(0xF0u | c >> 18), out[1] = low(c >> 12), out[2] = low(c >> 6), out[3] = low(c), 4;
}

/// Resolves the escapes of a string that a JsonReader accepted; returns the bytes written, never more than `raw` has. `out` may
/// be where `raw` lies.
constexpr Index unescape(std::string_view raw, char* out) {
  Index written = 0;
  for (std::size_t i = 0; i < raw.size();) {
    if (raw[i] != '\\') {
      out[written++] = raw[i++];
      continue;
    }
    constexpr std::string_view letters = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    if (raw[i + 1] != 'u') {
      out[written++] = values[letters.find(raw[i + 1])];
      i += 2;
      continue;
    }
    unsigned point = static_cast<unsigned>(hex_quad(raw.substr(i + 2)));
    i += 6;
    if (point >= 0xD800 && point <= 0xDBFF) {
      point = 0x10000 + ((point - 0xD800) << 10) + (static_cast<unsigned>(hex_quad(raw.substr(i + 2))) - 0xDC00);
      i += 6;
    }
    written += put_utf8(point, out + written);
  }
  return written;
}

/// Appends `text` (which must be UTF-8) as a JSON string, quotes included.
inline void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      constexpr char digits[] = "0123456789abcdef";
      out += "\\u00";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

/// A name out of a file for a message: quoted, control characters escaped, anything that is not UTF-8 as a question mark, and
/// long ones cut.
inline std::string in_quotes(std::string_view text, Index most = 200) {
  std::string clean;
  std::size_t i = 0;
  while (i < text.size() && to_index(clean.size()) < most) {
    const Index length = utf8_length(text.substr(i));
    clean += length == 0 ? std::string_view("?") : text.substr(i, to_size(length));
    i += length == 0 ? 1 : to_size(length);
  }
  std::string result;
  append_json_string(result, clean);
  if (i < text.size()) result += "...";
  return result;
}

}  // namespace hybridmoe::io
