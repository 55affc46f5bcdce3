#pragma once
/// @file text.hpp
/// Byte-level text: its split, and the order in which training sees it. The order is a pure function of (seed, window number), so
/// a checkpoint's data cursor is one number.

#include <cstdio>
#include <string>
#include <vector>

#include <hybridmoe/core/random.hpp>
#include <hybridmoe/core/result.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

/// A permutation of 0 … n−1 as a function (no table): a balanced Feistel network over the next power of four, walked until the
/// value falls below n.
class Permutation {
 public:
  Permutation(std::uint64_t n, random::Key key) : n_(n), key_(key) {
    while ((std::uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
  }
  std::uint64_t operator()(std::uint64_t i) const {
    do i = mix(i);
    while (i >= n_);
    return i;
  }

 private:
  std::uint64_t mix(std::uint64_t value) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = value >> half_bits_, right = value & mask;
    for (std::uint64_t round = 0; round < 6; ++round) {
      const std::uint64_t next = left ^ (random::draw(key_, round, right).word[0] & mask);
      left = right;
      right = next;
    }
    return left << half_bits_ | right;
  }
  std::uint64_t n_;
  random::Key key_;
  unsigned half_bits_ = 1;
};

/// Tokens of a text, cut in a training and a validation part.
class Text {
 public:
  /// Bytes as tokens 0 … 255. The last `validation` part of it is held out.
  static Result<Text> bytes(std::string_view content, double validation = 0.1) {
    if (!(validation > 0 && validation < 1))
      return Error{Code::bad_argument, "the validation part of a text must lie between 0 and 1"};
    Text text;
    text.tokens_.assign(content.size(), 0);
    for (std::size_t i = 0; i < content.size(); ++i) text.tokens_[i] = static_cast<unsigned char>(content[i]);
    text.split_ = static_cast<Index>(static_cast<double>(content.size()) * (1 - validation));
    return text;
  }

  /// The bytes of a file.
  static Result<Text> read(const std::string& path, double validation = 0.1) {
    std::FILE* const file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) return Error{Code::file_unreadable, "the text cannot be opened", path};
    std::string content;
    char piece[1 << 14];
    for (std::size_t count = 0; (count = std::fread(piece, 1, sizeof piece, file)) > 0;) content.append(piece, count);
    const bool whole = std::ferror(file) == 0;
    std::fclose(file);
    if (!whole) return Error{Code::file_unreadable, "the text cannot be read to its end", path, to_index(content.size())};
    return bytes(content, validation);
  }

  Index size() const { return to_index(tokens_.size()); }
  Index split() const { return split_; }
  const std::int32_t* tokens() const { return tokens_.data(); }

  /// A number that tells texts and splits apart.
  std::uint64_t fingerprint() const {
    return random::hash({reinterpret_cast<const char*>(tokens_.data()), tokens_.size() * sizeof(std::int32_t)},
                        0xcbf29ce484222325u ^ static_cast<std::uint64_t>(split_));
  }

  /// Fails unless both parts hold at least one window of `length` tokens and the token after it.
  Status examine(Index length) const {
    if (split_ < length + 1)
      return Error{Code::bad_argument, "the training part of the text is shorter than one window", "text", split_, length + 1};
    if (size() - split_ < length + 1)
      return Error{Code::bad_argument, "the validation part of the text is shorter than one window", "text", size() - split_,
                   length + 1};
    return Done{};
  }

  /// Where training window number `window` starts: each epoch shifts the grid of windows by a random offset and visits them in a
  /// new order, no token twice; less than two windows' tokens are left out at the ends.
  Index training_window(random::Key key, Index window, Index length) const {
    const Index per_epoch = larger(1, (split_ - length) / length);
    const Index epoch = window / per_epoch;
    const random::Block words = random::draw(key, 0x7465787477696eu, static_cast<std::uint64_t>(epoch));
    const Index room = split_ - 1 - per_epoch * length;
    const Index offset = room <= 0 ? 0 : static_cast<Index>(words.word[2] % static_cast<std::uint64_t>(room + 1));
    const Permutation order(static_cast<std::uint64_t>(per_epoch), {words.word[0], words.word[1]});
    return offset + static_cast<Index>(order(static_cast<std::uint64_t>(window % per_epoch))) * length;
  }

  /// Validation: non-overlapping windows from the start of the held-out part.
  Index validation_windows(Index length) const { return (size() - split_ - 1) / length; }
  Index validation_window(Index window, Index length) const { return split_ + window * length; }

 private:
  std::vector<std::int32_t> tokens_;
  Index split_ = 0;
};

}  // namespace hybridmoe::train
