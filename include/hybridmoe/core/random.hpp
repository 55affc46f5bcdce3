#pragma once
/// @file random.hpp
/// Counter-based random numbers: a value is a pure function of (key, counter), so it depends neither on the number of threads
/// nor on the order of evaluation, and a checkpoint needs only the key. Philox4x32-10 of Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3" (SC 2011); the tests hold it to the paper's known answers.

#include <cmath>
#include <string_view>

#include <hybridmoe/core/index.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::random {

struct Key {
  std::uint32_t low = 0, high = 0;
};

struct Block {
  std::uint32_t word[4];
};

HYBRIDMOE_FUNCTION constexpr Block philox(Key key, Block counter) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter.word[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<std::uint32_t>(b >> 32) ^ counter.word[1] ^ key.low, static_cast<std::uint32_t>(b),
                static_cast<std::uint32_t>(a >> 32) ^ counter.word[3] ^ key.high, static_cast<std::uint32_t>(a)}};
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  return counter;
}

/// FNV-1a: gives every named tensor its own stream, whatever else the model contains.
HYBRIDMOE_FUNCTION constexpr std::uint64_t hash(std::string_view text, std::uint64_t value = 0xcbf29ce484222325u) {
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return value;
}

HYBRIDMOE_FUNCTION constexpr Key key_of(std::uint64_t seed) {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

/// Four words for element block `element` of stream `stream`.
HYBRIDMOE_FUNCTION constexpr Block draw(Key key, std::uint64_t stream, std::uint64_t element) {
  return philox(key, {{static_cast<std::uint32_t>(element), static_cast<std::uint32_t>(element >> 32),
                       static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}});
}

/// Uniform among the middles of 2²³ equal parts of (0, 1): never 0 (its logarithm is finite), never 1.
HYBRIDMOE_FUNCTION constexpr float uniform(std::uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

/// A standard normal by Box and Muller, from two words.
inline float normal(std::uint32_t first, std::uint32_t second) {
  const double radius = std::sqrt(-2.0 * std::log(static_cast<double>(uniform(first))));
  return static_cast<float>(radius * std::cos(6.283185307179586 * static_cast<double>(uniform(second))));
}

}  // namespace hybridmoe::random
