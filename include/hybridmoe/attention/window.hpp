#pragma once
/// @file window.hpp
/// How large a row's attention window is: policies that choose a real number of keys. Whatever they choose, the layer holds it
/// between the least window and what the row's budget allows, W(β) = least + β·(most − least).

#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/layer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::attention {

/// Bounds of a window whose size is chosen at run time, in keys. The weight of a key falls from 1 to 0 over the last `ramp` keys
/// of the window, so that the size has a gradient.
struct Window {
  Index least = 512, most = 2048, ramp = 64;
};

/// What a window may depend on, for all rows of a call.
template <class T>
struct WindowStreams {
  StreamRows<T> decisions, complexity, budget;
  Index column = 0;  ///< of this layer's window in a row of decisions

  template <class Space>
  HYBRIDMOE_FUNCTION static WindowStreams of(const Call<Space>& call) {
    return {call.side.template rows<stream::Decisions, T>(), call.side.template rows<stream::Complexity, T>(),
            call.side.template rows<stream::Budget, T>(), call.layer * Decision::fields + Decision::window};
  }
  /// W(β)
  template <Index least, Index most>
  HYBRIDMOE_FUNCTION T cap(Index row) const {
    return widest_window(least, most, budget.at(row, 0, T(1)));
  }
};

namespace window {

struct Tag {};

/// w = least + (W(β) − least)·d with the controller's decision d in [0, 1] (stream::Decisions; neutral: 1).
struct Decided : Tag {
  template <Index least, Index most, class T>
  HYBRIDMOE_FUNCTION static T size(const WindowStreams<T>& streams, Index row, Index) {
    return T(least) + (streams.template cap<least, most>(row) - T(least)) * streams.decisions.at(row, streams.column, T(1));
  }
  /// Adds the gradient by the decision, given that by the size.
  template <Index least, Index most, class T>
  HYBRIDMOE_FUNCTION static void backward(const WindowStreams<T>& streams, Index row, T d) {
    const T decision = streams.decisions.at(row, streams.column, T(1));
    if (T(0) <= decision && decision <= T(1))
      streams.decisions.add_gradient(row, streams.column, d * (streams.template cap<least, most>(row) - T(least)));
  }
};

/// The proposal's rule: base + ⌊scale·c·range⌋ − ⌊max(0, t − from)/every⌋·fall, between least and most, where c is the row's
/// complexity (stream::Complexity; neutral: ½) and t its own position. (With scale 1 it never exceeds base + range, and from
/// position 12,288 on it is the least.) A whole number of keys: it gives c no gradient.
/// @tparam hundredths  scale in hundredths
template <Index base = 512, Index range = 1024, Index from = 4096, Index every = 1024, Index fall = 128, Index hundredths = 150>
struct Proposal : Tag {
  static_assert(range >= 0 && every > 0 && fall >= 0, "window::Proposal needs a range, a fall and a step that are not negative");

  template <Index least, Index most, class T>
  HYBRIDMOE_FUNCTION static T size(const WindowStreams<T>& streams, Index row, Index position) {
    const T c = streams.complexity.at(row, 0, T(0.5));
    const Index more = c > T(0) ? static_cast<Index>(T(hundredths) / T(100) * c * T(range)) : 0;  // NaN counts as 0
    const Index keys = base + more - larger(0, position - from) / every * fall;
    return static_cast<T>(larger(least, smaller(keys, most)));
  }
  template <Index least, Index most, class T>
  HYBRIDMOE_FUNCTION static void backward(const WindowStreams<T>&, Index, T) {}
};

/// The same for every row.
/// @tparam keys  the size, 0: the largest
template <Index keys = 0>
struct Fixed : Tag {
  template <Index least, Index most, class T>
  HYBRIDMOE_FUNCTION static T size(const WindowStreams<T>&, Index, Index) {
    static_assert(keys == 0 || (least <= keys && keys <= most), "window::Fixed must lie between Window::least and Window::most");
    return T(keys == 0 ? most : keys);
  }
  template <Index least, Index most, class T>
  HYBRIDMOE_FUNCTION static void backward(const WindowStreams<T>&, Index, T) {}
};

}  // namespace window
}  // namespace hybridmoe::attention
