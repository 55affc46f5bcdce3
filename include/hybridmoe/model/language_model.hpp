#pragma once
/// @file language_model.hpp
/// A decoder language model as a type: sizes, a pattern, slots. It holds no data; Model<> does.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/model/check.hpp>
#include <hybridmoe/model/stack.hpp>
#include <hybridmoe/ops/cross_entropy.hpp>
#include <hybridmoe/ops/embed.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// The outer sizes of a language model.
struct LanguageSizes {
  Index vocab;                     ///< token ids are 0 … vocab−1
  Index width;                     ///< elements of the residual stream
  Index context;                   ///< positions a sequence may have
  bool tied = true;                ///< the head is the embedding's transpose
  bool learned_positions = false;  ///< adds a learned vector per position to the embedding (GPT-2)
  Index chunk = 128;               ///< longest piece of one sequence in one call with a state
};

struct FinalNormTag {};
/// The norm before the head (default norm::Rms<>).
template <class Description>
struct FinalNorm : FinalNormTag {
  using type = Description;
};

template <class Option>
constexpr bool is_slot = false;
template <char letter, class Block>
constexpr bool is_slot<Slot<letter, Block>> = true;

namespace check_model {

template <LanguageSizes sizes>
struct NoSize {
  static_assert(possible<got<sizes.width>>, "LanguageSizes::vocab, width, context and chunk must be positive");
};
template <class Pattern>
struct EmptyPattern {
  static_assert(possible<Pattern>, "the layer pattern is empty");
};
template <class Pattern>
struct NoSlot {
  static_assert(possible<Pattern>, "a LanguageModel needs at least one Slot<>");
};

/// All questions about a model's parts, cheapest first.
template <LanguageSizes sizes, class Pattern, class Final, class... Slots>
constexpr auto model() {
  if constexpr (!(sizes.vocab > 0 && sizes.width > 0 && sizes.context > 0 && sizes.chunk > 0)) {
    return Is<NoSize<sizes>>{};
  } else if constexpr (Pattern::period_size == 0) {
    return Is<EmptyPattern<Pattern>>{};
  } else if constexpr (sizeof...(Slots) == 0) {
    return Is<NoSlot<Pattern>>{};
  } else {
    constexpr auto letters =
        check_model::first_fault(letters_differ<Slots::letter...>(), letters_defined<Pattern, Slots::letter...>());
    if constexpr (!std::is_same_v<decltype(letters), const Is<Sound>>) {
      return letters;
    } else {
      using Env = Environment<sizes.width, sizes.context, smaller(sizes.chunk, sizes.context)>;
      return check_model::first_fault(block<typename Slots::Block, Env>()..., layer<Final, Env>());
    }
  }
}

}  // namespace check_model

/// The parts of a sound model. Use LanguageModel.
template <LanguageSizes sizes_, class Pattern_, class Final, class... Slots>
struct LanguageBody {
  static constexpr LanguageSizes sizes = sizes_;
  static constexpr Index vocab = sizes.vocab, width = sizes.width, context = sizes.context,
                         chunk = smaller(sizes.chunk, sizes.context);
  using LayerPattern = Pattern_;
  using Env = Environment<width, context, chunk>;
  using Layers = Stack<Env, typename Slots::Block...>;
  using FinalLayer = typename Final::template Layer<Env>;
  static constexpr Index layer_count = LayerPattern::count;

  /// The tensors outside the stack; the layers follow it in the buffer.
  template <class T, class Storage>
  struct Parameters {
    // A tied table is the head's weight, so that inference packs it; lookups read the panels.
    std::conditional_t<sizes.tied, Weight<T, Storage, vocab, width>, Array<T, vocab, width>> embedding;
    [[no_unique_address]] Optional<sizes.learned_positions, Array<T, context, width>, 120> position;
    [[no_unique_address]] typename FinalLayer::template Parameters<T, Storage> final_norm;
    [[no_unique_address]] Optional<!sizes.tied, Weight<T, Storage, vocab, width>, 121> head;
  };

  static constexpr std::array<int, static_cast<std::size_t>(layer_count)> slots() {
    constexpr char letters[] = {Slots::letter...};
    std::array<int, static_cast<std::size_t>(layer_count)> result{};
    for (Index l = 0; l < layer_count; ++l)
      for (int s = 0; s < Layers::kinds; ++s)
        if (letters[s] == LayerPattern::letter_at(l)) result[static_cast<std::size_t>(l)] = s;
    return result;
  }
  template <class T, class Storage>
  static constexpr Index outer_elements = element_count<Parameters<T, Storage>, T>;
  template <class T, class Storage>
  static constexpr auto table = Layers::template table<T, Storage>(slots(), outer_elements<T, Storage>);
  template <class T, class Storage>
  HYBRIDMOE_FUNCTION static typename Layers::Layers layers() {
    static constexpr auto here = table<T, Storage>;  // device code reaches a function's own constants, not those of a class
    return {here.data(), layer_count};
  }

  /// Elements of the parameter buffer (with the padding of packed panels), bytes of one sequence's state.
  template <class T, class Storage>
  static constexpr Index buffer_elements() {
    const auto& last = table<T, Storage>.back();
    return last.parameters + Layers::template parameter_elements<T, Storage>[static_cast<std::size_t>(last.slot)];
  }
  template <class T>
  static constexpr Index state_stride() {
    const auto& last = table<T, Flat>.back();
    return last.state + Layers::template state_sizes<T>[static_cast<std::size_t>(last.slot)];
  }

  /// The list of all tensors: f(name, trait, tensor...), for buffers of the given storages walked in step.
  template <class T, class... Storage, class F>
  static void visit(F&& f, const Name& at, auto*... buffer) {
    visit_outer<T>(f, at, *reinterpret_cast<AsConst<decltype(*buffer), Parameters<T, Storage>>*>(buffer)...);
    const Name layers_name = at / "layers";
    for (std::size_t l = 0; l < static_cast<std::size_t>(layer_count); ++l)
      visit_slot<0, T, Storage...>(f, layers_name / static_cast<Index>(l), table<T, Flat>[l].slot,
                                   (buffer + table<T, Storage>[l].parameters)...);
  }

  // Inference.

  template <class T>
  struct InferencePlan {
    T *a, *b;
    HYBRIDMOE_FUNCTION constexpr InferencePlan(auto& arena, Extent e)
        : a(arena.template take<T>(e.rows * width)), b(arena.template take<T>(e.rows * width)) {}
  };
  template <class T>
  struct HeadPlan {
    T *selected, *normed;
    typename FinalLayer::template Tape<T> tape;
    HYBRIDMOE_FUNCTION constexpr HeadPlan(auto& arena, Extent wanted)
        : selected(arena.template take<T>(wanted.rows * width)),
          normed(arena.template take<T>(wanted.rows * width)),
          tape(arena, wanted) {}
  };

  /// Scratch of forward for at most e.rows rows in e.sequences sequences, of which at most `wanted` rows get logits.
  template <class T, class Storage>
  static constexpr Index workspace_bytes(Extent e, Index wanted) {
    const Extent w{wanted, e.sequences, false};
    const Index head = planned_bytes<HeadPlan<T>>(w) + larger(product_workspace<T, Storage, vocab, width>(w),
                                                              FinalLayer::template workspace_bytes<T, Storage>(w));
    return planned_bytes<InferencePlan<T>>(e) + larger(Layers::template one_layer_bytes<T, Storage>(e), head);
  }

  /// token[rows] with states → logits[wanted_count, vocab] of the rows listed in wanted (read where the kernels run).
  template <class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const T* buffer, const std::int32_t* token, std::byte* states,
                                         Index state_stride_bytes, const Index* wanted, Index wanted_count, T* logits) {
    const auto& p = *reinterpret_cast<const Parameters<T, Storage>*>(buffer);
    Arena arena = call.arena;
    const InferencePlan<T> plan(arena, Extent::of(call.batch, false));
    embed<Storage>(call, p, token, plan.a);
    Call<Space> inner = call.with(arena);
    inner.training = false;
    const T* h = Layers::forward(inner, layers<T, Storage>(), buffer, Storage{}, states, state_stride_bytes, plan.a, plan.b);

    Call<Space> head = call.with(arena);
    head.batch.rows = wanted_count;
    const HeadPlan<T> s(head.arena, Extent{wanted_count, call.batch.sequences, false});
    call.space.each(wanted_count, ops::SelectRows<T, width>{h, wanted, s.selected});
    FinalLayer::forward(head, p.final_norm, Rows<const T, width>{s.selected}, Rows<T, width>{s.normed}, States<Stateless>{},
                        s.tape);
    ops::Matmul<Space, T, vocab, width>::forward(call.space, head.arena, wanted_count, s.normed, head_of(p), nullptr, logits);
  }

  // Training.

  /// Rows of logits that exist at a time.
  static constexpr Index head_rows = 512;

  /// Memory of a training call: the streams, the tapes and all scratch.
  template <class T>
  struct TrainingPlan {
    T *streams, *normed, *d, *other, *logits;
    double* losses;
    typename FinalLayer::template Tape<T> tape;
    Arena tapes;
    HYBRIDMOE_FUNCTION constexpr TrainingPlan(auto& arena, Extent e, Index layer_tape_bytes)
        : streams(arena.template take<T>((layer_count + 1) * e.rows * width)),
          normed(arena.template take<T>(e.rows * width)),
          d(arena.template take<T>(e.rows * width)),
          other(arena.template take<T>(e.rows * width)),
          logits(arena.template take<T>(smaller(head_rows, e.rows) * vocab)),
          losses(arena.template take<double>(e.rows + 1)),
          tape(arena, e) {
      tapes.next = arena.template take<std::byte>(layer_tape_bytes);
      tapes.end = tapes.next == nullptr ? nullptr : tapes.next + layer_tape_bytes;
    }
  };

  template <class T>
  static constexpr Index training_bytes(Extent e, bool recompute) {
    const Index tapes = recompute ? 0 : Layers::template all_tape_bytes<T>(layers<T, Flat>(), e);
    const Extent piece{smaller(head_rows, e.rows), e.sequences, true};
    const Index stack = recompute ? Layers::template one_layer_bytes<T, Flat>(e) : Layers::template workspace_bytes<T, Flat>(e);
    const Index head = larger(product_workspace<T, Flat, vocab, width>(piece), FinalLayer::template workspace_bytes<T, Flat>(e));
    return planned_bytes<TrainingPlan<T>>(e, tapes) + larger(stack, head);
  }

  /// The summed cross-entropy of target[rows] (nats; rows with target < 0 do not count) goes to loss[0]; unless gradient is null,
  /// scale·∂(sum)/∂parameters is added to it. Whole sequences from position 0. streams_out (may be null) gets the residual
  /// streams' address, for looking where a NaN began.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void loss_and_gradient(const Call<Space>& call, const T* buffer, const std::int32_t* token,
                                                   const std::int32_t* target, std::type_identity_t<T> scale, bool recompute,
                                                   double* loss, std::type_identity_t<T>* gradient,
                                                   std::type_identity_t<T>** streams_out = nullptr) {
    const auto& p = *reinterpret_cast<const Parameters<T, Flat>*>(buffer);
    const Index rows = call.batch.rows;
    const Extent e = Extent::of(call.batch, true);
    Arena arena = call.arena;
    const TrainingPlan<T> s(arena, e, recompute ? Index{0} : Layers::template all_tape_bytes<T>(layers<T, Flat>(), e));
    Call<Space> inner = call.with(arena);
    inner.training = true;
    if (streams_out != nullptr) *streams_out = s.streams;

    embed<Flat>(call, p, token, s.streams);
    const ops::DropoutMask embedding_mask{call.noise.key, ~std::uint64_t{0}, call.noise.rate};
    if (call.noise.rate > 0)
      ops::add_dropped<width>(call.space, rows, static_cast<const T*>(nullptr), s.streams, s.streams, embedding_mask);
    Layers::forward_training(inner, layers<T, Flat>(), buffer, s.streams, s.tapes, recompute);
    const T* const last = s.streams + layer_count * rows * width;
    FinalLayer::forward(inner, p.final_norm, Rows<const T, width>{last}, Rows<T, width>{s.normed}, States<Stateless>{}, s.tape);

    using Head = ops::Matmul<Space, T, vocab, width>;
    Parameters<T, Flat>* const g = reinterpret_cast<Parameters<T, Flat>*>(gradient);
    if (g != nullptr) ops::zero(call.space, rows * width, s.d);
    for (Index row = 0; row < rows; row += head_rows) {
      const Index count = smaller(head_rows, rows - row);
      Head::forward(call.space, arena, count, s.normed + row * width, head_of(p), nullptr, s.logits);
      call.space.each(count, ops::CrossEntropy<T, vocab>{s.logits, target + row, s.losses + row, g == nullptr ? T(0) : scale});
      if (g == nullptr) continue;
      Head::backward_input(call.space, arena, count, s.logits, head_of(p), s.d + row * width);
      Head::backward_weight(call.space, arena, count, s.normed + row * width, s.logits, head_of(*g), nullptr);
    }
    call.space.each(1, ops::SumInOrder{rows, s.losses, loss});
    if (g == nullptr) return;

    ops::zero(call.space, rows * width, s.other);
    FinalLayer::backward(inner, p.final_norm, Rows<const T, width>{last}, s.tape, Rows<const T, width>{s.d},
                         Rows<T, width>{s.other}, g->final_norm);
    T* const d = Layers::backward(inner, layers<T, Flat>(), buffer, gradient, s.streams, s.tapes, recompute, s.other, s.d);
    if (call.noise.rate > 0) ops::add_dropped<width>(call.space, rows, static_cast<const T*>(nullptr), d, d, embedding_mask);
    using ByToken = ops::ScatterRows<T, std::int32_t, width>;
    call.space.each(ByToken::ranges, ByToken{rows, vocab, token, d, g->embedding.data});
    if constexpr (sizes.learned_positions) {
      using ByPosition = ops::ScatterRows<T, Index, width>;
      call.space.each(ByPosition::ranges, ByPosition{rows, context, call.batch.row_position, d, g->position.data});
    }
  }

 private:
  template <class Reference, class Target>
  using AsConst = std::conditional_t<std::is_const_v<std::remove_reference_t<Reference>>, const Target, Target>;

  template <class P>
  HYBRIDMOE_FUNCTION static auto& head_of(P& p) {
    if constexpr (sizes.tied)
      return p.embedding;
    else
      return p.head;
  }

  template <class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void embed(const Call<Space>& call, const Parameters<T, Storage>& p, const std::int32_t* token,
                                       T* y) {
    using TableStorage = std::conditional_t<sizes.tied, Storage, Flat>;
    call.space.each(divide_up(call.batch.rows, ops::embed_rows),
                    ops::Embed<T, vocab, width, TableStorage>{call.batch, token, p.embedding.data,
                                                              first_element<const T, sizes.learned_positions>(p.position), y});
  }

  template <class T, class F, class... P>
  static void visit_outer(F&& f, const Name& at, P&... p) {
    f(at / "embedding" / "weight", Trait::weight(), p.embedding...);
    if constexpr (sizes.learned_positions) f(at / "position" / "weight", Trait::weight(), p.position...);
    FinalLayer::visit(f, at / "final_norm", p.final_norm...);
    if constexpr (!sizes.tied) f(at / "head" / "weight", Trait::weight(), p.head...);
  }

  template <int slot, class T, class... Storage, class F>
  static void visit_slot(F&& f, const Name& at, int wanted, auto*... buffer) {
    if constexpr (slot < Layers::kinds) {
      if (slot != wanted) return visit_slot<slot + 1, T, Storage...>(f, at, wanted, buffer...);
      using Layer = typename Layers::template LayerOf<slot>;
      Layer::visit(f, at,
                   *reinterpret_cast<AsConst<decltype(*buffer), typename Layer::template Parameters<T, Storage>>*>(buffer)...);
    }
  }
};

template <bool sound, LanguageSizes sizes, class Pattern, class Final, class... Slots>
struct LanguageBase {
  using type = LanguageBody<sizes, Pattern, Final, Slots...>;
};
/// What an unsound model turns into after its one error: a small sound one, so that nothing else is reported.
template <LanguageSizes sizes, class Pattern, class Final, class... Slots>
struct LanguageBase<false, sizes, Pattern, Final, Slots...> {
  using type = LanguageBody<LanguageSizes{.vocab = 1, .width = 1, .context = 1}, hybridmoe::Pattern<"x">, norm::Rms<>,
                            Slot<'x', Block<norm::Rms<>>>>;
};

template <class Final, class List, class... Options>
struct SplitOptions;
template <class... Types>
struct TypeList {};
template <class Final, class... Slots>
struct SplitOptions<Final, TypeList<Slots...>> {
  using FinalNormType = Final;
  template <LanguageSizes sizes, class Pattern>
  using Answer = typename decltype(check_model::model<sizes, Pattern, Final, Slots...>())::type;
  template <LanguageSizes sizes, class Pattern>
  using Body =
      typename LanguageBase<std::is_same_v<Answer<sizes, Pattern>, check_model::Sound>, sizes, Pattern, Final, Slots...>::type;
};
template <class Final, class... Slots, class First, class... Rest>
struct SplitOptions<Final, TypeList<Slots...>, First, Rest...>
    : std::conditional_t<is_slot<First>, SplitOptions<Final, TypeList<Slots..., First>, Rest...>,
                         SplitOptions<Final, TypeList<Slots...>, Rest...>> {};

template <class... Options>
using LanguageOptions =
    SplitOptions<typename Option<FinalNormTag, FinalNorm<norm::Rms<>>, Options...>::type, TypeList<>, Options...>;

/// A language model. Name one by deriving from it:
///
///     struct Tiny : LanguageModel<LanguageSizes{...}, Pattern<"GLLS", layers<16>>, Slot<'G', Block<...>>, ...> {};
///
/// Options beside the slots: FinalNorm.
template <LanguageSizes sizes, class Pattern, class... Options>
struct LanguageModel : LanguageOptions<Options...>::template Body<sizes, Pattern> {
  /// The description without the user's name for it: what tells two models of one name apart.
  using Description = LanguageModel;
  // Makes the answer of model/check.hpp: an unsound model is refused here.
  static_assert(sizeof(typename LanguageOptions<Options...>::template Answer<sizes, Pattern>) == 1);
};

}  // namespace hybridmoe
