#pragma once
/// @file account.hpp
/// What a model costs, as constant expressions of its type, and the table that shows it.

#include <cstdio>
#include <string>

#include <hybridmoe/model/fingerprint.hpp>
#include <hybridmoe/model/language_model.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Accounting of a language model M.
/// @tparam print  keeps two descriptions of one name apart
template <class M, std::uint64_t print = fingerprint<M>()>
struct Account {
  using Layers = typename M::Layers;
  static constexpr Index layer_count = M::layer_count;

  /// Trainable scalars in all, tables counted once when tied.
  static constexpr Index parameters() { return M::template buffer_elements<float, Flat>(); }

  /// Parameters that one token uses: all tables, norms and mixers; of experts, those chosen.
  static constexpr Spread active_parameters() {
    Spread total = Spread::always(M::template outer_elements<float, Flat>);
    for (const int slot : M::slots())
      total = total + per_kind([]<class L>() { return L::active_parameters(); })[static_cast<std::size_t>(slot)];
    return total;
  }

  /// For one token, averaged over the positions of a sequence of `length` tokens. The head counts; table lookups are free.
  static constexpr Flops flops_per_token(Index length) {
    Flops total = Flops::product(static_cast<double>(M::vocab * M::width)) + M::FinalLayer::flops_per_token(length);
    for (const int slot : M::slots()) total = total + layer_flops(slot, length);
    return total;
  }

  /// Bytes that a sequence of `length` tokens needs at least: growing caches, and states of fixed size, in elements of T.
  template <class T>
  static constexpr Index cache_bytes(Index length) {
    Index elements = 0;
    for (const int slot : M::slots())
      elements += per_kind([length]<class L>() {
        return L::cache_elements_per_token(length) * length + L::recurrent_elements;
      })[static_cast<std::size_t>(slot)];
    return elements * static_cast<Index>(sizeof(T));
  }
  /// Bytes of one sequence's state as this library lays it out, for the whole context, rings and tails included.
  template <class T>
  static constexpr Index state_bytes() {
    return M::template state_stride<T>();
  }
  /// Scratch of a call with at most `rows` rows in `sequences` sequences, logits for `wanted` rows.
  template <class T, class Storage = Packed>
  static constexpr Index workspace_bytes(Index rows, Index sequences, Index wanted) {
    return M::template workspace_bytes<T, Storage>(Extent{rows, sequences, false}, wanted);
  }
  /// Memory of a training call: streams, tapes and scratch.
  template <class T>
  static constexpr Index training_bytes(Index rows, Index sequences, bool recompute = false) {
    return M::template training_bytes<T>(Extent{rows, sequences, true}, recompute);
  }

  static constexpr Index layer_parameters(int slot) {
    return Layers::template parameter_elements<float, Flat>[static_cast<std::size_t>(slot)];
  }
  static constexpr Spread layer_active(int slot) {
    return per_kind([]<class L>() { return L::active_parameters(); })[static_cast<std::size_t>(slot)];
  }
  static constexpr Flops layer_flops(int slot, Index length) {
    return per_kind([length]<class L>() { return L::flops_per_token(length); })[static_cast<std::size_t>(slot)];
  }

 private:
  template <int... slot>
  static constexpr auto for_kinds(auto f, std::integer_sequence<int, slot...>) {
    return std::array { f.template operator()<typename Layers::template LayerOf<slot>>()... };
  }
  static constexpr auto per_kind(auto f) { return for_kinds(f, std::make_integer_sequence<int, Layers::kinds>{}); }
};

namespace describe_detail {

/// 12345678 as "12.35 M".
inline std::string short_number(double value) {
  const char* unit = "";
  for (const char* next : {" k", " M", " G", " T"}) {
    if (value < 1000) break;
    value /= 1000;
    unit = next;
  }
  char text[32];
  std::snprintf(text, sizeof text, value < 10 && *unit != 0 ? "%.2f%s" : "%.4g%s", value, unit);
  return text;
}

inline void row(std::string& text, const char* name, const char* letter, double count, double parameters, double active,
                double flops, double state) {
  char line[160];
  std::snprintf(line, sizeof line, "%-22s %-6s %6.0f %14s %14s %14s %14s\n", name, letter, count,
                short_number(parameters).c_str(), short_number(active).c_str(), short_number(flops).c_str(),
                short_number(state).c_str());
  text += line;
}

}  // namespace describe_detail

/// The model's layer table: per kind of layer its count, parameters, active parameters, forward FLOPs per token at the full
/// context and state bytes; and the totals.
template <class M, class T = float, std::uint64_t print = fingerprint<M>()>
std::string describe() {
  using A = Account<M>;
  using describe_detail::row;
  char line[160];
  std::snprintf(line, sizeof line, "%-22s %-6s %6s %14s %14s %14s %14s\n", "layer", "letter", "count", "parameters", "active",
                "FLOPs/token", "state bytes");
  std::string text = "pattern \"";
  text += M::LayerPattern::text();
  text += numbered("\", ", M::layer_count) += numbered(" layers, width ", M::width);
  text += numbered(", vocabulary ", M::vocab) += numbered(", context ", M::context) += "\n";
  text += line;
  const double outer = static_cast<double>(M::template outer_elements<float, Flat>);
  row(text, "embedding, norm, head", "", 1, outer, outer, 2.0 * static_cast<double>(M::vocab * M::width), 0);
  const auto slots = M::slots();
  for (int slot = 0; slot < M::Layers::kinds; ++slot) {
    Index count = 0, first = -1;
    for (std::size_t l = 0; l < slots.size(); ++l)
      if (slots[l] == slot) {
        ++count;
        if (first < 0) first = static_cast<Index>(l);
      }
    if (count == 0) continue;
    const char letter[2] = {M::LayerPattern::letter_at(first), 0};
    const auto n = static_cast<double>(count);
    row(text, "block", letter, n, n * static_cast<double>(A::layer_parameters(slot)),
        n * static_cast<double>(A::layer_active(slot).target), n * A::layer_flops(slot, M::context).forward,
        n * static_cast<double>(M::Layers::template state_sizes<T>[static_cast<std::size_t>(slot)]));
  }
  row(text, "total", "", static_cast<double>(M::layer_count), static_cast<double>(A::parameters()),
      static_cast<double>(A::active_parameters().target), A::flops_per_token(M::context).forward,
      static_cast<double>(A::template state_bytes<T>()));
  const Spread active = A::active_parameters();
  text += "active parameters: least " + describe_detail::short_number(static_cast<double>(active.least)) + ", target " +
          describe_detail::short_number(static_cast<double>(active.target)) + ", most " +
          describe_detail::short_number(static_cast<double>(active.most)) + "; training " +
          describe_detail::short_number(A::flops_per_token(M::context).training) + "FLOPs per token\n";
  return text;
}

}  // namespace hybridmoe
