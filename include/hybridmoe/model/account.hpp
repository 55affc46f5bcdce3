#pragma once
/// @file account.hpp
/// What a model costs, as constant expressions of its type.

#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/model/fingerprint.hpp>
#include <hybridmoe/model/language_model.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// Accounting of a core under a layout.
template <class Core>
struct CoreAccount {
  using Layers = typename Core::Layers;

  // By slot.
  static constexpr auto layer_parameters() { return Layers::template parameter_elements<float, Flat>(); }
  static constexpr auto layer_active() {
    return per_kind([]<class L>() { return L::active_parameters(); });
  }
  static constexpr auto layer_flops(Index length) {
    return per_kind([length]<class L>() { return L::flops_per_token(length); });
  }
  static constexpr auto layer_cache(Index length) {
    return per_kind([length]<class L>() { return L::cache_elements(length) + L::recurrent_elements; });
  }

  static constexpr Index outer_parameters = Core::template outer_elements<float, Flat>;
  static constexpr Spread active_parameters(Layout layout) {
    return Spread::always(outer_parameters) + layout.sum(layer_active());
  }
  static constexpr Flops flops_per_token(Layout layout, Index length) {
    return Flops::product(static_cast<double>(Core::vocab * Core::width)) + Core::FinalLayer::flops_per_token(length) +
           Core::Sources::flops_per_token(length) + layout.sum(layer_flops(length));
  }
  static constexpr Index cache_elements(Layout layout, Index length) {
    using S = typename Core::Sources;
    return S::cache_elements(length) + S::recurrent_elements + layout.sum(layer_cache(length));
  }
  /// The most forward FLOPs of one token at budget β (layer/budget.hpp).
  static constexpr double capped_flops(Layout layout, Index length, double beta) {
    const auto capped = per_kind([length, beta]<class L>() { return most_flops<L>(length, beta); });
    return 2.0 * static_cast<double>(Core::vocab * Core::width) + Core::FinalLayer::flops_per_token(length).forward +
           Core::Sources::capped_flops(length, beta) + layout.sum(capped);
  }

 private:
  static constexpr auto per_kind(auto f) { return for_kinds(f, std::make_integer_sequence<int, Layers::kinds>{}); }
  template <int... slot>
  static constexpr auto for_kinds(auto f, std::integer_sequence<int, slot...>) {
    return std::array { f.template operator()<typename Layers::template LayerOf<slot>>()... };
  }
};

/// Accounting of a language model M.
/// @tparam print  keeps two descriptions of one name apart
template <class M, std::uint64_t print = fingerprint<M>()>
struct Account {
  using Kinds = CoreAccount<typename M::Core>;
  static constexpr Index layer_count = M::layer_count;

  /// Trainable scalars in all, tables counted once when tied.
  static constexpr Index parameters() { return M::template buffer_elements<float, Flat>(); }
  /// Parameters that one token uses: all tables, norms and mixers; of experts, those chosen.
  static constexpr Spread active_parameters() { return Kinds::active_parameters(M::constant_layout); }
  /// For one token, averaged over the positions of a sequence of `length` tokens. The head counts; table lookups are free.
  static constexpr Flops flops_per_token(Index length) { return Kinds::flops_per_token(M::constant_layout, length); }
  /// C(β): the most forward FLOPs that any token of a sequence of `length` tokens costs at budget β, whatever was learned.
  static constexpr double capped_flops(Index length, double beta) {
    return Kinds::capped_flops(M::constant_layout, length, beta);
  }
  /// The largest β in {0, 1/64, …, 1} that keeps every token at or below `part` of the worst case, C(1); 0 also where none does.
  static constexpr double budget_for(double part, Index length) {
    return beta_for(part, [length](double beta) { return capped_flops(length, beta); });
  }
  /// How many of its last tokens a sequence may take back: 0 if some layer's state cannot.
  static constexpr Index rewind() { return M::rewind_limit(); }
  /// Bytes that a sequence of `length` tokens needs at least: growing caches, and states of fixed size, in elements of T.
  template <class T>
  static constexpr Index cache_bytes(Index length) {
    return Kinds::cache_elements(M::constant_layout, length) * static_cast<Index>(sizeof(T));
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

  static constexpr Index layer_parameters(int slot) { return Kinds::layer_parameters()[static_cast<std::size_t>(slot)]; }
  static constexpr Spread layer_active(int slot) { return Kinds::layer_active()[static_cast<std::size_t>(slot)]; }
  static constexpr Flops layer_flops(int slot, Index length) {
    return Kinds::layer_flops(length)[static_cast<std::size_t>(slot)];
  }
};

}  // namespace hybridmoe
