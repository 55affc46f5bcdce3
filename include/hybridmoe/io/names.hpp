#pragma once
/// @file names.hpp
/// How the tensors of a published checkpoint relate to ours. A family is a table of rules, one for each kind of tensor; from it
/// follow both directions: where a tensor of ours is found in a file, and what a file made of our tensors looks like.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <hybridmoe/io/tensor_list.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// Where one of our tensors lies in a file. Rows are indices of the first axis of our tensor.
struct Source {
  std::string name;         ///< the tensor in the file
  Index first = 0;          ///< our row 0 is this row there
  Index block = 0;          ///< 0: our rows follow one another there; else they come in blocks of so many rows ...
  Index stride = 0;         ///< ... that begin so many rows apart (projections fused head by head)
  Index slab = -1;          ///< ≥ 0: the file stacks matrices along a first axis of its own, and this one is ours
  bool transposed = false;  ///< a matrix is stored [in, out]: our rows are its columns
  int unit_axis = -1;       ///< ≥ 0: the file has an extra axis of extent 1 here
};

/// What a rule's patterns matched: the numbers for '#' and the word for '@'.
struct Match {
  std::vector<std::string_view> numbers;
  std::string_view word;
};

/// Matches `name` with a pattern in which '#' stands for a number without leading zeros, '@' for "weight" or "bias", and a '*' at
/// the end for anything.
inline std::optional<Match> match(std::string_view pattern, std::string_view name) {
  Match found;
  for (const char c : pattern) {
    if (c == '*') return found;
    if (c == '#') {
      std::size_t digits = name.find_first_not_of("0123456789");
      if (digits == std::string_view::npos) digits = name.size();
      if (digits == 0 || (digits > 1 && name[0] == '0')) return std::nullopt;
      found.numbers.push_back(name.substr(0, digits));
      name.remove_prefix(digits);
    } else if (c == '@') {
      const std::string_view word = name.substr(0, name.size() < 4 || name.substr(0, 4) != "bias" ? 6 : 4);
      if (word != "weight" && word != "bias") return std::nullopt;
      found.word = word;
      name.remove_prefix(word.size());
    } else {
      if (name.empty() || name[0] != c) return std::nullopt;
      name.remove_prefix(1);
    }
  }
  return name.empty() ? std::optional<Match>(std::move(found)) : std::nullopt;
}

/// The name that a pattern gives for a match: the numbers in order, the word.
inline std::string substitute(std::string_view pattern, const Match& match) {
  std::string name;
  std::size_t number = 0;
  for (const char c : pattern) {
    if (c == '#') {
      name += number < match.numbers.size() ? match.numbers[number++] : std::string_view("#");
    } else if (c == '@') {
      name += match.word;
    } else {
      name += c;
    }
  }
  return name;
}

/// One kind of tensor. Patterns: '#' is a number, '@' is weight or bias.
struct Rule {
  std::string_view ours;
  std::string_view theirs;
  bool transposed = false;          ///< matrices only; vectors are the same either way
  int unit_axis = -1;               ///< see Source
  std::string_view before[2] = {};  ///< ours that lie before this one in the same tensor of the file (fused q|k|v)
  Source (*place)(Source, const Match&,
                  const Shape&) = nullptr;  ///< for any other layout: completes the source of a shape of ours
};

/// A family of published checkpoints.
struct Family {
  std::string_view name;
  std::span<const Rule> rules;                  ///< none: their names are ours
  std::span<const std::string_view> ignored{};  ///< patterns of the file's tensors that are not for us
  std::string_view optional_prefix{};           ///< a file in which no name begins with it does without it altogether
  std::string_view tied_copy{};  ///< a copy of the embedding that a file may hold although our model shares the embedding
  bool exact = false;            ///< element types must be equal: our own checkpoints

  /// Where a tensor of ours, a member of `list`, lies in this family's files. Nothing: the family has no such tensor.
  template <class Memory>
  std::optional<Source> source(const TensorViewOf<Memory>& ours, const TensorListOf<Memory>& list) const {
    if (rules.empty()) return Source{.name = ours.name};
    for (const Rule& rule : rules) {
      const std::optional<Match> found = match(rule.ours, ours.name);
      if (!found) continue;
      Source source{.name = substitute(rule.theirs, *found)};
      source.transposed = rule.transposed && ours.shape.rank == 2;
      source.unit_axis = rule.unit_axis;
      for (const std::string_view earlier : rule.before) {
        const auto* neighbour = earlier.empty() ? nullptr : list.find(substitute(earlier, *found));
        if (neighbour != nullptr) source.first += neighbour->shape.rows();
      }
      return rule.place == nullptr ? source : rule.place(std::move(source), *found, ours.shape);
    }
    return std::nullopt;
  }
  bool ignores(std::string_view theirs) const {
    for (const std::string_view pattern : ignored) {
      if (match(pattern, theirs)) return true;
    }
    return false;
  }
};

/// Files written by ourselves: our names, our types.
inline constexpr Family own_names{.name = "hybridmoe", .rules = {}, .exact = true};

}  // namespace hybridmoe::io
