#pragma once
/// @file report.hpp
/// What the laws take and what they answer. No test framework: print text(), or test the report as a bool.

#include <cstdio>
#include <string>
#include <vector>

#include <hybridmoe/core/random.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// How hard to look. Zero lengths mean a choice by the context and the chunk of the environment.
struct Options {
  std::uint64_t seed = 1;
  Index length = 0;           ///< longest sequence of laws 1, 2 and 4 (0: two chunks and a bit)
  Index gradient_length = 0;  ///< longest sequence of law 3 (0: a chunk and a bit)
  int trials = 3;             ///< random divisions into chunks, and random batches
  int samples = 4;            ///< elements of every tensor that law 3 looks at, besides a direction through all of them
  double auxiliary = 1;       ///< weight of the auxiliary losses (of routers) that law 3 includes
  std::uint64_t (*allocations)() = nullptr;  ///< how many allocations the program has made so far; null: not checked
};

/// The outcome: one sentence per broken promise.
struct Report {
  std::vector<std::string> failures;
  Index comparisons = 0;                  ///< values held against each other
  Index skipped = 0;                      ///< derivatives left out of law 3, since a choice of the layer flips there
  std::uint64_t bits = random::hash({});  ///< of all outputs and gradients: equal for any number of threads

  explicit operator bool() const { return failures.empty() && comparisons > 0; }

  void fail(std::string sentence) {
    for (const std::string& earlier : failures) {
      if (earlier == sentence) return;
    }
    failures.push_back(std::move(sentence));
  }
  /// True if some failure contains these words.
  bool mentions(std::string_view words) const {
    for (const std::string& sentence : failures) {
      if (sentence.find(words) != std::string::npos) return true;
    }
    return false;
  }
  template <class T>
  void add_bits(const std::vector<T>& values) {
    bits = random::hash({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}, bits);
  }
  std::string text() const {
    if (failures.empty()) {
      return comparisons > 0 ? "all laws hold (" + std::to_string(comparisons) + " comparisons)"
                             : std::string("nothing was compared");
    }
    std::string result = std::to_string(failures.size()) + (failures.size() == 1 ? " law broken:" : " laws broken:");
    for (const std::string& sentence : failures) result += "\n  " + sentence;
    return result;
  }
};

/// A number as a reader wants it in a sentence.
inline std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

/// Random numbers of the laws: a stream per purpose.
class Dice {
 public:
  Dice(std::uint64_t seed, std::string_view purpose) : key_(random::key_of(seed)), stream_(random::hash(purpose)) {}

  /// A whole number from least to most, both included.
  Index between(Index least, Index most) {
    const random::Block words = random::draw(key_, stream_, drawn_++);
    const std::uint64_t word = (std::uint64_t{words.word[0]} << 32) | words.word[1];
    return least + static_cast<Index>(word % static_cast<std::uint64_t>(most - least + 1));
  }
  double normal() {
    const random::Block words = random::draw(key_, stream_, drawn_++);
    return static_cast<double>(random::normal(words.word[0], words.word[1]));
  }
  template <class T>
  std::vector<T> normals(Index count) {
    std::vector<T> result(to_size(count));
    for (T& value : result) value = static_cast<T>(normal());
    return result;
  }
  template <class Item>
  void shuffle(std::vector<Item>& items) {
    for (Index i = to_index(items.size()) - 1; i > 0; --i) std::swap(items[to_size(i)], items[to_size(between(0, i))]);
  }

 private:
  random::Key key_;
  std::uint64_t stream_;
  std::uint64_t drawn_ = 0;
};

}  // namespace hybridmoe::check
