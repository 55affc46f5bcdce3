#pragma once
/// @file session.hpp
/// Sequences in flight: feed tokens to any of them, many in one call, and read the logits of the next token. All memory is taken
/// at creation.

#include <hybridmoe/generate/session_core.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::generate {

/// @tparam Model  a `Model<…>`, normally Packed
template <class Model>
class Session
    : public SessionCore<typename Model::Language, typename Model::Element, typename Model::Space, typename Model::Storage> {
  using Base = SessionCore<typename Model::Language, typename Model::Element, typename Model::Space, typename Model::Storage>;

 public:
  using D = typename Model::Description;

  static Result<Session> create(const Model& model, const SessionOptions& options = {}) {
    Result<exec::Buffer<typename Model::Space>> states = Base::reserve(model, options);
    if (!states) return std::move(states).error();
    Session session(model, options, std::move(*states));
    if (Status held = session.has_memory(); !held) return std::move(held).error();
    return Result<Session>(std::move(session));
  }

  const Model& model() const { return static_cast<const Model&>(Base::model()); }

 private:
  Session(const Model& model, const SessionOptions& options, exec::Buffer<typename Model::Space> states)
      : Base(model, options, std::move(states)) {}
};

}  // namespace hybridmoe::generate
