#pragma once
// The three kinds of data of docs/results/hybridmoe-plan.md.

#include <string>

#include <hybridmoe/train/text.hpp>

#include "language.hpp"

namespace corpus {

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;

constexpr language::Options language_options{.alphabet = 32, .first = 'a', .span = 96, .operands = 2, .slip = 0.1};
constexpr Index training_letters = 2'000'000, validation_letters = 200'000;

/// A text, split; and for the language what is true of its held-out letters.
struct Corpus {
  hm::train::Text text;
  language::Text validation{};

  /// What is known of a held-out token of the language: null elsewhere. `counts` is false in the first letters of a span, which
  /// say nothing yet of what it is.
  struct Known {
    double entropy = 0;
    int stratum = 0;
    bool counts = false;
  };
  Known of(Index token) const {
    const Index at = token - training_letters;
    if (validation.token.empty() || at < 0 || at >= validation_letters) return {};
    return {validation.entropy[to_size(at)], static_cast<int>(validation.stratum[to_size(at)]), at % language_options.span >= 16};
  }
};

inline hm::Result<hm::train::Text> split_at(const std::string& content, std::size_t held_out) {
  // Half a token more, so that rounding does not move the split.
  return hm::train::Text::bytes(content, (static_cast<double>(held_out) - 0.5) / static_cast<double>(content.size()));
}

/// The language that `generated` is written in.
inline language::Language source() { return language::Language(language_options, 10); }

inline hm::Result<Corpus> generated() {
  const language::Language rules = source();
  const language::Text training = rules.text(training_letters, 11);
  language::Text validation = rules.text(validation_letters, 12);
  std::string content;
  for (const auto* part : {&training, static_cast<const language::Text*>(&validation)})
    for (const std::int32_t letter : part->token) content += static_cast<char>(letter);
  auto text = split_at(content, validation.token.size());
  if (!text) return std::move(text).error();
  return Corpus{std::move(*text), std::move(validation)};
}

inline hm::Result<std::string> content_of(const std::string& path) {
  const auto whole = hm::train::Text::read(path);
  if (!whole) return whole.error();
  return std::string(whole->tokens(), whole->tokens() + whole->size());
}

/// A file whose speeches each begin with a line `@@ …`: every tenth is held out.
inline hm::Result<Corpus> speeches(const std::string& path) {
  const auto content = content_of(path);
  if (!content) return content.error();
  std::string training, held_out;
  std::size_t number = 0;
  for (std::size_t at = 0; at < content->size(); ++number) {
    const std::size_t end = std::min(content->find("\n@@ ", at), content->size() - 1) + 1;
    (number % 10 == 9 ? held_out : training).append(*content, at, end - at);
    at = end;
  }
  auto text = split_at(training + held_out, held_out.size());
  if (!text) return std::move(text).error();
  return Corpus{std::move(*text)};
}

/// data: text, language or long.
inline hm::Result<Corpus> of(const std::string& data, const std::string& path) {
  if (data == "language") return generated();
  if (data == "long") return speeches(path);
  if (data != "text") return hm::Error{hm::Code::bad_argument, "--data is text, language or long", data};
  auto text = hm::train::Text::read(path);
  if (!text) return std::move(text).error();
  return Corpus{std::move(*text)};
}

/// The last tenth of a text's training part as its held-out part: what a model does on what it was trained on.
inline hm::Result<hm::train::Text> of_training(const hm::train::Text& text) {
  return hm::train::Text::bytes(std::string(text.tokens(), text.tokens() + text.split()), 0.1);
}

}  // namespace corpus
