#pragma once
/// @file checksum.hpp
/// A 64-bit checksum of a byte stream, several bytes a cycle. Every step is a bijection both of the state and of the word that it
/// takes in, so a change inside one aligned 8-byte word is always noticed. Words are multiplied on their way in as well, by
/// another number than the state, so that what a flipped bit leaves in a lane is no change of few bits in a later word of that
/// lane, which would take it back; damage of other kinds escapes with a probability of about 2^-64. It guards against accidents,
/// not against people.

#include <bit>
#include <cstring>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// The value does not depend on how the stream is cut into calls.
class Checksum {
 public:
  void add(const void* from, Index bytes) {
    const auto* next = static_cast<const unsigned char*>(from);
    length_ += static_cast<std::uint64_t>(bytes);
    if (bytes == 0) return;
    if (held_ > 0) {
      const Index piece = smaller(bytes, block - held_);
      std::memcpy(hold_ + held_, next, to_size(piece));
      held_ += piece;
      next += piece;
      bytes -= piece;
      if (held_ < block) return;
      take(hold_);
      held_ = 0;
    }
    for (; bytes >= block; next += block, bytes -= block) take(next);
    if (bytes > 0) std::memcpy(hold_, next, to_size(bytes));
    held_ = bytes;
  }

  std::uint64_t value() const {
    Checksum last = *this;
    if (held_ > 0) {
      std::memset(last.hold_ + held_, 0, to_size(block - held_));  // the length tells zeros from nothing
      last.take(last.hold_);
    }
    std::uint64_t sum = length_ * multiplier[0];
    for (int i = 0; i < 4; ++i) sum = std::rotl(sum ^ last.lane_[i], 27) * multiplier[i];
    sum = (sum ^ sum >> 32) * multiplier[1];
    return sum ^ sum >> 29;
  }

 private:
  static constexpr Index block = 32;
  /// Odd, so that multiplication can be undone: the fractional bits of the square roots of 2, 3, 5 and 7.
  static constexpr std::uint64_t multiplier[4] = {0x6A09E667F3BCC909u, 0xBB67AE8584CAA73Bu, 0x3C6EF372FE94F82Bu,
                                                  0xA54FF53A5F1D36F1u};

  void take(const unsigned char* from) {
    for (int i = 0; i < 4; ++i) {
      std::uint64_t word;
      std::memcpy(&word, from + 8 * i, 8);
      lane_[i] = std::rotl(lane_[i] + word * multiplier[i ^ 1], 29) * multiplier[i];
    }
  }

  std::uint64_t lane_[4] = {1, 2, 3, 4};
  unsigned char hold_[block];
  Index held_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace hybridmoe::io
