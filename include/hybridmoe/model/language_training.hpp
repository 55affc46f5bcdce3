#pragma once
/// @file language_training.hpp
/// How a language model learns: forward with tapes, the loss, and the way back. Outside the class, so that it is not inline.

#include <hybridmoe/model/language_core.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

template <LanguageSizes sizes_, class Final, class Sources_, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Sources_, Blocks...>::loss_and_gradient(
    const Call<Space>& call, Layout layout, const T* buffer, const std::int32_t* token, const std::int32_t* target,
    std::type_identity_t<T> scale, bool recompute, double* loss, std::type_identity_t<T>* gradient,
    TrainingSight<std::type_identity_t<T>>* sight, const Twins& twins) {
  constexpr Index outer = outer_elements<T, Flat>;
  const auto& p = *reinterpret_cast<const Parameters<T, Flat>*>(buffer);
  const Index count = call.batch.rows * width;
  const Extent e = Extent::of(call.batch, true);
  Arena arena = call.arena;
  const TrainingPlan<T> s(arena, e, layout.layers, recompute ? Index{0} : Layers::template all_tape_bytes<T>(layout, e));
  Call<Space> inner = call.with(arena);
  inner.training = true;

  embed<Flat>(call, p, token, s.streams);
  drop_embedding(call, s.streams);
  run_sources(inner, p, token, s.embedded, s.streams, nullptr, 0, s.sources);
  if (sight != nullptr) *sight = {s.streams, s.losses, inner.side.template rows<stream::Complexity, T>().value};
  Layers::forward_training(inner, layout, buffer + outer, s.streams, s.tapes, recompute);
  const T* const last = s.streams + layout.layers * count;
  Call<Space> final = inner;
  final.side = {};  // as in inference, where the final norm sees selected rows
  FinalLayer::forward(final, p.final_norm, Rows<const T, width>{last}, Rows<T, width>{s.normed}, States<Stateless>{}, s.tape);

  Parameters<T, Flat>* const g = reinterpret_cast<Parameters<T, Flat>*>(gradient);
  head_loss(inner, p, s, target, scale, loss, g, twins);
  if (g == nullptr) return;

  ops::zero(call.space, count, s.other);
  FinalLayer::backward(final, p.final_norm, Rows<const T, width>{last}, s.tape, Rows<const T, width>{s.d},
                       Rows<T, width>{s.other}, g->final_norm);
  T* d = Layers::backward(inner, layout, buffer + outer, gradient + outer, s.streams, s.tapes, recompute, s.other, s.d);
  if constexpr (!Sources::empty) {
    if (twins.gains > 0) learn_gain(inner, s, twins);
    T* const d_embedding = d == s.d ? s.other : s.d;
    ops::copy(call.space, count, static_cast<const T*>(d), d_embedding);
    Sources::backward(inner, p.sources, SourceInput<T, width>{token, {s.embedded}}, s.sources, Rows<const T, width>{d},
                      Rows<T, width>{d_embedding}, g->sources);
    d = d_embedding;
  }
  drop_embedding(call, d);
  scatter_embedding(call, token, d, *g);
}

/// The loss of the final norm's output, in pieces of head_rows rows, and unless g is null the gradients by it (to s.d) and by the
/// table.
template <LanguageSizes sizes_, class Final, class Sources_, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Sources_, Blocks...>::head_loss(
    const Call<Space>& call, const Parameters<T, Flat>& p, const TrainingPlan<T>& s, const std::int32_t* target, T scale,
    double* loss, Parameters<T, Flat>* g, const Twins& twins) {
  using Head = ops::Matmul<Space, T, vocab, width>;
  const Index rows = call.batch.rows;
  const T wanted = g == nullptr ? T(0) : scale;
  if (g != nullptr) ops::zero(call.space, rows * width, s.d);
  const auto logits = [&](Index row, Index count, T* to) {
    Head::forward(call.space, call.arena, count, s.normed + row * width, head_of(p), nullptr, to);
  };
  const auto back = [&](Index row, Index count, const T* from) {
    if (g == nullptr) return;
    Head::backward_input(call.space, call.arena, count, from, head_of(p), s.d + row * width);
    Head::backward_weight(call.space, call.arena, count, s.normed + row * width, from, head_of(*g), nullptr);
  };
  const auto one = [&](Index row, Index count) {
    logits(row, count, s.logits);
    call.space.each(count, ops::CrossEntropy<T, vocab>{s.logits, target + row, s.losses + row, wanted});
    back(row, count, s.logits);
  };
  if constexpr (Sources::empty) {
    for (Index row = 0; row < rows; row += head_rows) one(row, smaller(head_rows, rows - row));
  } else {
    const auto pair = [&](Index full, Index low, Index count) {
      T* const low_logits = s.logits + count * vocab;
      logits(full, count, s.logits);
      logits(low, count, low_logits);
      call.space.each(
          count, ops::TwinCrossEntropy<T, vocab>{s.logits, low_logits, target + full, s.losses + full, s.losses + low,
                                                 s.divergence + (low - twins.span.low), wanted, static_cast<T>(twins.weight)});
      back(full, count, s.logits);
      back(low, count, low_logits);
    };
    ops::head_pieces(rows, head_rows, &twins.span, twins.span.count > 0 ? 1 : 0, one, pair);
  }
  HYBRIDMOE_ASSERT(twins.span.count == 0 || twins.span.low + twins.span.count == rows);
  call.space.each(1, ops::SumInOrder{rows - twins.span.count, s.losses, loss});
}

/// Adds the gradient by the complexity of what computing more was worth.
template <LanguageSizes sizes_, class Final, class Sources_, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Sources_, Blocks...>::learn_gain(const Call<Space>& call,
                                                                                     const TrainingPlan<T>& s,
                                                                                     const Twins& twins) {
  const StreamRows<T> complexity = call.side.template rows<stream::Gain, T>();
  if (!complexity || complexity.gradient == nullptr) return;
  using Gain = ops::GainLoss<Space, T>;
  Gain::forward(call.space, call.arena, twins.gains, twins.full, twins.low, twins.span.low, s.divergence, complexity.value,
                s.quantile, nullptr);
  Gain::backward(call.space, twins.gains, twins.full, complexity.value, s.quantile, call.auxiliary * twins.gain_weight,
                 complexity.gradient);
}

/// Dropout of the embedding, or of the gradient by it, in place.
template <LanguageSizes sizes_, class Final, class Sources_, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Sources_, Blocks...>::drop_embedding(const Call<Space>& call, T* stream) {
  if (!(call.noise.rate > 0)) return;
  const ops::DropoutMask mask{call.noise.key, ~std::uint64_t{0}, call.noise.rate};
  ops::add_dropped<width>(call.space, call.batch.rows, static_cast<const T*>(nullptr), stream, stream, mask);
}

/// Adds the gradient by the embedded rows to the tables' gradients.
template <LanguageSizes sizes_, class Final, class Sources_, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Sources_, Blocks...>::scatter_embedding(const Call<Space>& call,
                                                                                            const std::int32_t* token, const T* d,
                                                                                            Parameters<T, Flat>& g) {
  const Index rows = call.batch.rows;
  using ByToken = ops::ScatterRows<T, std::int32_t, width>;
  call.space.each(ByToken::ranges, ByToken{rows, vocab, token, d, g.embedding.data});
  if constexpr (sizes.learned_positions) {
    using ByPosition = ops::ScatterRows<T, Index, width>;
    call.space.each(ByPosition::ranges, ByPosition{rows, context, call.batch.row_position, d, g.position.data});
  }
}

}  // namespace hybridmoe
