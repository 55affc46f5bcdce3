#pragma once
/// @file language_model.hpp
/// A decoder language model as a type: sizes, a pattern, slots. It holds no data; Model<> does.

#include <hybridmoe/model/check.hpp>
#include <hybridmoe/model/language_core.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

struct SourcesTag {};
/// What runs between the embedding and the stack (layer/source.hpp), in order.
template <class... Descriptions>
struct Sources : SourcesTag {
  static constexpr bool empty = sizeof...(Descriptions) == 0;
  template <Index layers>
  using For = SourcesFor<empty ? 0 : layers, Descriptions...>;
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
  static_assert(possible<got<sizes.width>>,
                "LanguageSizes::vocab, width, context and chunk must be positive, rewind must not be negative");
};
template <class Option>
struct ForeignOption {
  static_assert(possible<Option>, "an option of LanguageModel is none of: Slot<...>, FinalNorm<...>, Sources<...>");
};
template <class Pattern>
struct EmptyPattern {
  static_assert(possible<Pattern>, "the layer pattern is empty");
};
template <class Pattern>
struct NoSlot {
  static_assert(possible<Pattern>, "a LanguageModel needs at least one Slot<>");
};

template <class Env, class... Descriptions>
constexpr auto sources(Sources<Descriptions...>) {
  return check_model::first_fault(source<Descriptions, Env>()..., Is<Sound>{});
}
/// Whether the blocks, which are sound, can read what the sources, which are too, give.
template <class Env, class SourceEnv, class... Blocks, class... Descriptions>
constexpr auto streams(LayerList<Blocks...>, Sources<Descriptions...>) {
  return check_model::first_fault(streams_of_block<GivenStreams<SourceEnv, Descriptions...>, Blocks, Env>()...);
}

/// All questions about a model's parts, cheapest first.
template <LanguageSizes sizes, class Pattern, class Final, class Sources, class... Slots>
constexpr auto model() {
  if constexpr (!(sizes.vocab > 0 && sizes.width > 0 && sizes.context > 0 && sizes.chunk > 0 && sizes.rewind >= 0)) {
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
      using Env = Environment<sizes.width, sizes.context, smaller(sizes.chunk, sizes.context), sizes.rewind>;
      using SourceEnv = SourceEnvironment<Env, Pattern::count, sizes.vocab>;
      constexpr auto parts = check_model::first_fault(block<typename Slots::Block, Env>()..., layer<Final, Env>(),
                                                      check_model::sources<SourceEnv>(Sources{}));
      if constexpr (Sources::empty || !std::is_same_v<decltype(parts), const Is<Sound>>)
        return parts;
      else
        return check_model::streams<Env, SourceEnv>(LayerList<typename Slots::Block...>{}, Sources{});
    }
  }
}

}  // namespace check_model

/// A sound model: its core, and what the pattern adds to it: tables, and the core's functions for them. Use LanguageModel.
template <LanguageSizes sizes_, class Pattern_, class Final, class Sources_, class... Slots>
struct LanguageBody : LanguageCore<sizes_, Final, typename Sources_::template For<Pattern_::count>, typename Slots::Block...> {
  using Core = LanguageCore<sizes_, Final, typename Sources_::template For<Pattern_::count>, typename Slots::Block...>;
  using LayerPattern = Pattern_;
  static constexpr Index layer_count = LayerPattern::count;
  static_assert(sizeof...(Slots) <= 256, "a Layout numbers slots in a byte");
  using Table = std::array<std::uint8_t, static_cast<std::size_t>(layer_count)>;

  /// The slot of every layer.
  static constexpr Table slots() {
    std::uint8_t slot_of[256] = {}, next = 0;
    ((slot_of[static_cast<unsigned char>(Slots::letter)] = next++), ...);
    Table result{};
    for (Index l = 0; l < layer_count; ++l)
      result[static_cast<std::size_t>(l)] = slot_of[static_cast<unsigned char>(LayerPattern::letter_at(l))];
    return result;
  }
  static constexpr Table slot_table = slots();
  static constexpr char slot_letters[] = {Slots::letter...};
  /// The layout for constant expressions; and for kernels too, which reach a function's own constants, not those of a class.
  static constexpr Layout constant_layout{slot_table.data(), layer_count, slot_letters};
  HYBRIDMOE_FUNCTION static Layout layout() {
    static constexpr Table here = slot_table;
    static constexpr char letters[] = {Slots::letter...};
    return {here.data(), layer_count, letters};
  }

  // The core's functions, for this pattern.

  template <class T, class Storage>
  static constexpr Index buffer_elements() {
    return Core::template buffer_elements<T, Storage>(constant_layout);
  }
  template <class T>
  static constexpr Index state_stride() {
    return Core::template state_stride<T>(constant_layout);
  }
  template <class T>
  static constexpr Index training_bytes(Extent e, bool recompute) {
    return Core::template training_bytes<T>(constant_layout, e, recompute);
  }
  template <class T, class... Storage, class F>
  static void visit(F&& f, const Name& at, auto*... buffer) {
    Core::template visit<T, Storage...>(layout(), f, at, buffer...);
  }
  template <class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const T* buffer, const std::int32_t* token, std::byte* states,
                                         Index state_stride_bytes, const Index* wanted, Index wanted_count, T* logits) {
    Core::template forward<Storage>(call, layout(), buffer, token, states, state_stride_bytes, wanted, wanted_count, logits);
  }
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void loss_and_gradient(const Call<Space>& call, const T* buffer, const std::int32_t* token,
                                                   const std::int32_t* target, std::type_identity_t<T> scale, bool recompute,
                                                   double* loss, std::type_identity_t<T>* gradient,
                                                   TrainingSight<std::type_identity_t<T>>* sight = nullptr,
                                                   const Twins& twins = {}) {
    Core::loss_and_gradient(call, layout(), buffer, token, target, scale, recompute, loss, gradient, sight, twins);
  }
};

template <bool sound, LanguageSizes sizes, class Pattern, class Final, class Sources, class... Slots>
struct LanguageBase {
  using type = LanguageBody<sizes, Pattern, Final, Sources, Slots...>;
};
/// What an unsound model turns into after its one error: a small sound one, so that nothing else is reported.
template <LanguageSizes sizes, class Pattern, class Final, class Sources_, class... Slots>
struct LanguageBase<false, sizes, Pattern, Final, Sources_, Slots...> {
  using type = LanguageBody<LanguageSizes{.vocab = 1, .width = 1, .context = 1}, hybridmoe::Pattern<"x">, norm::Rms<>, Sources<>,
                            Slot<'x', Block<norm::Rms<>>>>;
};

template <class Final, class Sources, class List, class... Options>
struct SplitOptions;
template <class... Types>
struct TypeList {};
template <class Final, class Sources, class... Slots>
struct SplitOptions<Final, Sources, TypeList<Slots...>> {
  using FinalNormType = Final;
  template <LanguageSizes sizes, class Pattern>
  using Answer = typename decltype(check_model::model<sizes, Pattern, Final, Sources, Slots...>())::type;
  template <LanguageSizes sizes, class Pattern>
  using Body = typename LanguageBase<std::is_same_v<Answer<sizes, Pattern>, check_model::Sound>, sizes, Pattern, Final, Sources,
                                     Slots...>::type;
};
/// An option that is of another part of the model would otherwise be passed over in silence.
template <class Option>
struct RefusedOption {
  template <LanguageSizes, class>
  using Answer = check_model::ForeignOption<Option>;
  template <LanguageSizes sizes, class Pattern>
  using Body = typename LanguageBase<false, sizes, Pattern, norm::Rms<>, Sources<>>::type;
};
template <class Final, class Sources, class... Slots, class First, class... Rest>
struct SplitOptions<Final, Sources, TypeList<Slots...>, First, Rest...>
    : std::conditional_t<is_slot<First>, SplitOptions<Final, Sources, TypeList<Slots..., First>, Rest...>,
                         std::conditional_t<has_a_tag<First, FinalNormTag, SourcesTag>,
                                            SplitOptions<Final, Sources, TypeList<Slots...>, Rest...>, RefusedOption<First>>> {};

template <class... Options>
using LanguageOptions = SplitOptions<typename Option<FinalNormTag, FinalNorm<norm::Rms<>>, Options...>::type,
                                     Option<SourcesTag, Sources<>, Options...>, TypeList<>, Options...>;

/// A language model. Name one by deriving from it:
///
///     struct Tiny : LanguageModel<LanguageSizes{...}, Pattern<"GLLS", layers<16>>, Slot<'G', Block<...>>, ...> {};
///
/// Options beside the slots: FinalNorm<...>, Sources<...>.
template <LanguageSizes sizes, class Pattern, class... Options>
struct LanguageModel : LanguageOptions<Options...>::template Body<sizes, Pattern> {
  /// The description without the user's name for it: what tells two models of one name apart.
  using Description = LanguageModel;
  // Makes the answer of model/check.hpp: an unsound model is refused here.
  static_assert(sizeof(typename LanguageOptions<Options...>::template Answer<sizes, Pattern>) == 1);
};

}  // namespace hybridmoe
