#pragma once
/// @file describe.hpp
/// The table that shows what a model is made of and what it costs.

#include <cstdio>
#include <string>

#include <hybridmoe/core/error.hpp>
#include <hybridmoe/model/account.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

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

inline void head(std::string& text) {
  char line[160];
  std::snprintf(line, sizeof line, "%-22s %-6s %6s %14s %14s %14s %14s\n", "layer", "letter", "count", "parameters", "active",
                "FLOPs/token", "state bytes");
  text += line;
}

/// A row for every kind of layer that occurs.
template <class Core, class T>
void kinds(std::string& text, Layout layout) {
  using A = CoreAccount<Core>;
  Index count[Core::Layers::kinds] = {};
  for (Index l = 0; l < layout.layers; ++l) ++count[layout.slot(l)];
  const auto parameters = A::layer_parameters();
  const auto active = A::layer_active();
  const auto flops = A::layer_flops(Core::context);
  const auto state = Core::Layers::template state_sizes<T>();
  for (std::size_t slot = 0; slot < static_cast<std::size_t>(Core::Layers::kinds); ++slot) {
    if (count[slot] == 0) continue;
    const char letter[2] = {layout.letters[slot], 0};
    const auto n = static_cast<double>(count[slot]);
    row(text, "block", letter, n, n * static_cast<double>(parameters[slot]), n * static_cast<double>(active[slot].target),
        n * flops[slot].forward, n * static_cast<double>(state[slot]));
  }
}

template <class Core, class T>
std::string table(Layout layout, std::string_view pattern) {
  using A = CoreAccount<Core>;
  std::string text = "pattern \"";
  text += pattern;
  text += numbered("\", ", layout.layers) += numbered(" layers, width ", Core::width);
  text += numbered(", vocabulary ", Core::vocab) += numbered(", context ", Core::context) += "\n";
  head(text);
  const auto sources = static_cast<double>(Core::template source_elements<float, Flat>);
  const auto outer = static_cast<double>(A::outer_parameters) - sources;
  row(text, "embedding, norm, head", "", 1, outer, outer, 2.0 * static_cast<double>(Core::vocab * Core::width), 0);
  if constexpr (!Core::Sources::empty)
    row(text, "sources", "", 1, sources, sources, Core::Sources::flops_per_token(Core::context).forward,
        static_cast<double>(Core::Sources::template state_size<T>));
  kinds<Core, T>(text, layout);
  const Spread active = A::active_parameters(layout);
  const Flops flops = A::flops_per_token(layout, Core::context);
  row(text, "total", "", static_cast<double>(layout.layers),
      static_cast<double>(Core::template buffer_elements<float, Flat>(layout)), static_cast<double>(active.target), flops.forward,
      static_cast<double>(Core::template state_stride<T>(layout)));
  text += "active parameters: least " + short_number(static_cast<double>(active.least)) + ", target " +
          short_number(static_cast<double>(active.target)) + ", most " + short_number(static_cast<double>(active.most)) +
          "; training " + short_number(flops.training) + "FLOPs per token\n";
  return text;
}

}  // namespace describe_detail

/// The model's layer table: per kind of layer its count, parameters, active parameters, forward FLOPs per token at the full
/// context and state bytes; and the totals.
template <class M, class T = float, std::uint64_t print = fingerprint<M>()>
std::string describe() {
  return describe_detail::table<typename M::Core, T>(M::layout(), M::LayerPattern::text());
}

}  // namespace hybridmoe
