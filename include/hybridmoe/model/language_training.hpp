#pragma once
/// @file language_training.hpp
/// How a language model learns: forward with tapes, the loss, and the way back. Outside the class, so that it is not inline.

#include <hybridmoe/model/language_core.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

template <LanguageSizes sizes_, class Final, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Blocks...>::loss_and_gradient(const Call<Space>& call, Layout layout,
                                                                                  const T* buffer, const std::int32_t* token,
                                                                                  const std::int32_t* target,
                                                                                  std::type_identity_t<T> scale, bool recompute,
                                                                                  double* loss, std::type_identity_t<T>* gradient,
                                                                                  std::type_identity_t<T>** streams_out) {
  constexpr Index outer = outer_elements<T, Flat>;
  const auto& p = *reinterpret_cast<const Parameters<T, Flat>*>(buffer);
  const Index count = call.batch.rows * width;
  const Extent e = Extent::of(call.batch, true);
  Arena arena = call.arena;
  const TrainingPlan<T> s(arena, e, layout.layers, recompute ? Index{0} : Layers::template all_tape_bytes<T>(layout, e));
  Call<Space> inner = call.with(arena);
  inner.training = true;
  if (streams_out != nullptr) *streams_out = s.streams;

  embed<Flat>(call, p, token, s.streams);
  drop_embedding(call, s.streams);
  Layers::forward_training(inner, layout, buffer + outer, s.streams, s.tapes, recompute);
  const T* const last = s.streams + layout.layers * count;
  FinalLayer::forward(inner, p.final_norm, Rows<const T, width>{last}, Rows<T, width>{s.normed}, States<Stateless>{}, s.tape);

  Parameters<T, Flat>* const g = reinterpret_cast<Parameters<T, Flat>*>(gradient);
  head_loss(inner, p, s, target, scale, loss, g);
  if (g == nullptr) return;

  ops::zero(call.space, count, s.other);
  FinalLayer::backward(inner, p.final_norm, Rows<const T, width>{last}, s.tape, Rows<const T, width>{s.d},
                       Rows<T, width>{s.other}, g->final_norm);
  T* const d = Layers::backward(inner, layout, buffer + outer, gradient + outer, s.streams, s.tapes, recompute, s.other, s.d);
  drop_embedding(call, d);
  scatter_embedding(call, token, d, *g);
}

/// The loss of the final norm's output, in pieces of head_rows rows, and unless g is null the gradients by it (to s.d) and by the
/// table.
template <LanguageSizes sizes_, class Final, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Blocks...>::head_loss(const Call<Space>& call, const Parameters<T, Flat>& p,
                                                                          const TrainingPlan<T>& s, const std::int32_t* target,
                                                                          T scale, double* loss, Parameters<T, Flat>* g) {
  using Head = ops::Matmul<Space, T, vocab, width>;
  const Index rows = call.batch.rows;
  if (g != nullptr) ops::zero(call.space, rows * width, s.d);
  for (Index row = 0; row < rows; row += head_rows) {
    const Index count = smaller(head_rows, rows - row);
    Head::forward(call.space, call.arena, count, s.normed + row * width, head_of(p), nullptr, s.logits);
    call.space.each(count, ops::CrossEntropy<T, vocab>{s.logits, target + row, s.losses + row, g == nullptr ? T(0) : scale});
    if (g == nullptr) continue;
    Head::backward_input(call.space, call.arena, count, s.logits, head_of(p), s.d + row * width);
    Head::backward_weight(call.space, call.arena, count, s.normed + row * width, s.logits, head_of(*g), nullptr);
  }
  call.space.each(1, ops::SumInOrder{rows, s.losses, loss});
}

/// Dropout of the embedding, or of the gradient by it, in place.
template <LanguageSizes sizes_, class Final, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Blocks...>::drop_embedding(const Call<Space>& call, T* stream) {
  if (!(call.noise.rate > 0)) return;
  const ops::DropoutMask mask{call.noise.key, ~std::uint64_t{0}, call.noise.rate};
  ops::add_dropped<width>(call.space, call.batch.rows, static_cast<const T*>(nullptr), stream, stream, mask);
}

/// Adds the gradient by the embedded rows to the tables' gradients.
template <LanguageSizes sizes_, class Final, class... Blocks>
template <class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Blocks...>::scatter_embedding(const Call<Space>& call,
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
