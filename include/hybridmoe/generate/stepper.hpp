#pragma once
/// @file stepper.hpp
/// One sequence, one token at a time, in the caller's memory: for engines. No allocation, thread, lock or exception.

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/model/fingerprint.hpp>
#include <hybridmoe/model/language_model.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::generate {

/// All of a Stepper but the type of its model.
/// @tparam Language  a LanguageCore
template <class Language, class T, class Storage>
class StepperCore {
 public:
  /// What lies in the caller's memory.
  struct Plan {
    std::byte* state;
    T* logits;
    Index* indices;
    std::int32_t* token;
    std::byte* scratch;
    HYBRIDMOE_FUNCTION constexpr Plan(auto& arena, Index state_stride)
        : state(arena.template take<std::byte>(state_stride)),
          logits(arena.template take<T>(Language::vocab)),
          indices(arena.template take<Index>(8)),
          token(arena.template take<std::int32_t>(1)),
          scratch(arena.template take<std::byte>(scratch_bytes())) {}
  };
  static constexpr Index scratch_bytes() { return Language::template workspace_bytes<T, Storage>(Extent{1, 1, false}, 1); }

  /// Appends a token; the next token's logits [vocab], valid until the next call. Fails at the end of the context, unchanged.
  Result<const T*> step(std::int32_t token);

  Index position() const { return position_; }
  void reset() { position_ = 0; }

 protected:
  static constexpr Index required_bytes(Layout layout) {
    return planned_bytes<Plan>(Language::template state_stride<T>(layout)) + arena_alignment;
  }
  static Status examine(Layout layout, const T* parameters, std::byte* memory, Index bytes);
  /// Of what examine() found good.
  StepperCore(Layout layout, const T* parameters, std::byte* memory, Index bytes);

 private:
  static Arena aligned(std::byte* memory, Index bytes) {
    const auto misplaced =
        static_cast<Index>(reinterpret_cast<std::uintptr_t>(memory) % static_cast<std::uintptr_t>(arena_alignment));
    return {memory + (misplaced == 0 ? 0 : arena_alignment - misplaced), memory + bytes};
  }
  StepperCore(Layout layout, const T* parameters, Arena arena)
      : layout_(layout), stride_(Language::template state_stride<T>(layout)), parameters_(parameters), plan_(arena, stride_) {}

  Layout layout_;
  Index stride_;  ///< bytes of the state
  const T* parameters_;
  Plan plan_;
  Index position_ = 0;
};

// Outside the class, so that they are not inline: `extern template` then keeps them out of a unit.

template <class Language, class T, class Storage>
StepperCore<Language, T, Storage>::StepperCore(Layout layout, const T* parameters, std::byte* memory, Index bytes)
    : StepperCore(layout, parameters, aligned(memory, bytes)) {}

template <class Language, class T, class Storage>
Status StepperCore<Language, T, Storage>::examine(Layout layout, const T* parameters, std::byte* memory, Index bytes) {
  if (parameters == nullptr || memory == nullptr)
    return Error{Code::bad_argument, "Stepper needs parameters and memory, and got a null pointer"};
  if (const Index required = required_bytes(layout); bytes < required)
    return Error{Code::out_of_memory, "the caller's memory is too small for this model", {}, bytes, required};
  return Done{};
}

template <class Language, class T, class Storage>
Result<const T*> StepperCore<Language, T, Storage>::step(std::int32_t token) {
  if (token < 0 || token >= Language::vocab)
    return Error{Code::bad_argument, "a token lies outside the vocabulary", {}, token, Language::vocab};
  if (position_ == Language::context)
    return Error{
        Code::end_of_context, "the sequence has reached the end of the model's context", {}, position_, Language::context};
  // begin {0, 1}, start, slot 0, row_sequence 0, row_position, wanted 0
  Index* const i = plan_.indices;
  i[0] = 0, i[1] = 1, i[2] = position_, i[3] = 0, i[4] = 0, i[5] = position_, i[6] = 0;
  plan_.token[0] = token;
  Call<exec::Inline> call;
  call.batch = {1, 1, 1, i, i + 2, i + 3, i + 4, i + 5};
  call.arena = {plan_.scratch, plan_.scratch + scratch_bytes()};
  Language::template forward<Storage>(call, layout_, parameters_, plan_.token, plan_.state, stride_, i + 6, 1, plan_.logits);
  ++position_;
  return static_cast<const T*>(plan_.logits);
}

/// @tparam D        a language model's description
/// @tparam Storage  how `parameters` lie
/// @tparam print    keeps two descriptions of one name apart
template <class D, class T, class Storage = Packed, std::uint64_t print = fingerprint<D>()>
class Stepper : public StepperCore<typename D::Core, T, Storage> {
  using Base = StepperCore<typename D::Core, T, Storage>;

 public:
  /// Bytes that the caller provides.
  static constexpr Index required_bytes() { return Base::required_bytes(D::constant_layout); }

  /// @param parameters  D::buffer_elements<T, Storage>() scalars; kept, not copied
  /// @param memory      at least required_bytes(), any alignment; kept for the stepper's life
  static Result<Stepper> create(const T* parameters, std::byte* memory, Index bytes) {
    if (Status sound = Base::examine(D::layout(), parameters, memory, bytes); !sound) return std::move(sound).error();
    return Stepper(parameters, memory, bytes);
  }

 private:
  Stepper(const T* parameters, std::byte* memory, Index bytes) : Base(D::layout(), parameters, memory, bytes) {}
};

}  // namespace hybridmoe::generate
