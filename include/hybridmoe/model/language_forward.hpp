#pragma once
/// @file language_forward.hpp
/// How a language model infers: embedding, stack, final norm and head. Outside the class, so that it is not inline:
/// `extern template` then keeps it out of a unit.

#include <hybridmoe/model/language_core.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

template <LanguageSizes sizes_, class Final, class Sources_, class... Blocks>
template <class Storage, class Space, class T>
HYBRIDMOE_FUNCTION void LanguageCore<sizes_, Final, Sources_, Blocks...>::forward(const Call<Space>& call, Layout layout,
                                                                                  const T* buffer, const std::int32_t* token,
                                                                                  std::byte* states, Index state_stride_bytes,
                                                                                  const Index* wanted, Index wanted_count,
                                                                                  T* logits) {
  const auto& p = *reinterpret_cast<const Parameters<T, Storage>*>(buffer);
  Arena arena = call.arena;
  const InferencePlan<T> plan(arena, Extent::of(call.batch, false));
  embed<Storage>(call, p, token, plan.a);
  Call<Space> inner = call.with(arena);
  inner.training = false;
  run_sources(inner, p, token, plan.embedded, plan.a, states, state_stride_bytes, plan.sources);
  const T* h = Layers::forward(inner, layout, buffer + outer_elements<T, Storage>, Storage{},
                               states + Sources::template state_size<T>, state_stride_bytes, plan.a, plan.b);

  Call<Space> head = call.with(arena);
  head.side = {};  // its rows are others
  head.batch.rows = wanted_count;
  const HeadPlan<T> s(head.arena, Extent{wanted_count, call.batch.sequences, false});
  call.space.each(wanted_count, ops::SelectRows<T, width>{h, wanted, s.selected});
  FinalLayer::forward(head, p.final_norm, Rows<const T, width>{s.selected}, Rows<T, width>{s.normed}, States<Stateless>{},
                      s.tape);
  ops::Matmul<Space, T, vocab, width>::forward(call.space, head.arena, wanted_count, s.normed, head_of(p), nullptr, logits);
}

}  // namespace hybridmoe
