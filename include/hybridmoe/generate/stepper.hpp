#pragma once
/// @file stepper.hpp
/// One sequence, one token at a time, in the caller's memory: for engines. No allocation, thread, lock or exception.

#include <hybridmoe/core/result.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/model/fingerprint.hpp>
#include <hybridmoe/model/language_model.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::generate {

/// @tparam D        a language model's description
/// @tparam Storage  how `parameters` lie
/// @tparam print    keeps two descriptions of one name apart
template <class D, class T, class Storage = Packed, std::uint64_t print = fingerprint<D>()>
class Stepper {
 public:
  /// What lies in the caller's memory.
  struct Plan {
    std::byte* state;
    T* logits;
    Index* indices;
    std::int32_t* token;
    std::byte* scratch;
    HYBRIDMOE_FUNCTION constexpr explicit Plan(auto& arena)
        : state(arena.template take<std::byte>(D::template state_stride<T>())),
          logits(arena.template take<T>(D::vocab)),
          indices(arena.template take<Index>(8)),
          token(arena.template take<std::int32_t>(1)),
          scratch(arena.template take<std::byte>(scratch_bytes())) {}
  };
  static constexpr Index scratch_bytes() { return D::template workspace_bytes<T, Storage>(Extent{1, 1, false}, 1); }
  /// Bytes that the caller provides.
  static constexpr Index required_bytes() { return planned_bytes<Plan>() + arena_alignment; }

  /// @param parameters  D::buffer_elements<T, Storage>() scalars; kept, not copied
  /// @param memory      at least required_bytes(), any alignment; kept for the stepper's life
  static Result<Stepper> create(const T* parameters, std::byte* memory, Index bytes) {
    if (parameters == nullptr || memory == nullptr)
      return Error{Code::bad_argument, "Stepper needs parameters and memory, and got a null pointer"};
    if (bytes < required_bytes())
      return Error{Code::out_of_memory, "the caller's memory is too small for this model", {}, bytes, required_bytes()};
    const auto misplaced =
        static_cast<Index>(reinterpret_cast<std::uintptr_t>(memory) % static_cast<std::uintptr_t>(arena_alignment));
    Arena arena{memory + (misplaced == 0 ? 0 : arena_alignment - misplaced), memory + bytes};
    return Stepper(parameters, Plan(arena));
  }

  /// Appends a token; the next token's logits [vocab], valid until the next call. Fails at the end of the context, unchanged.
  Result<const T*> step(std::int32_t token) {
    if (token < 0 || token >= D::vocab)
      return Error{Code::bad_argument, "a token lies outside the vocabulary", {}, token, D::vocab};
    if (position_ == D::context)
      return Error{Code::end_of_context, "the sequence has reached the end of the model's context", {}, position_, D::context};
    // begin {0, 1}, start, slot 0, row_sequence 0, row_position, wanted 0
    Index* const i = plan_.indices;
    i[0] = 0, i[1] = 1, i[2] = position_, i[3] = 0, i[4] = 0, i[5] = position_, i[6] = 0;
    plan_.token[0] = token;
    Call<exec::Inline> call;
    call.batch = {1, 1, 1, i, i + 2, i + 3, i + 4, i + 5};
    call.arena = {plan_.scratch, plan_.scratch + scratch_bytes()};
    D::template forward<Storage>(call, parameters_, plan_.token, plan_.state, D::template state_stride<T>(), i + 6, 1,
                                 plan_.logits);
    ++position_;
    return static_cast<const T*>(plan_.logits);
  }

  Index position() const { return position_; }
  void reset() { position_ = 0; }

 private:
  Stepper(const T* parameters, const Plan& plan) : parameters_(parameters), plan_(plan) {}
  const T* parameters_;
  Plan plan_;
  Index position_ = 0;
};

}  // namespace hybridmoe::generate
