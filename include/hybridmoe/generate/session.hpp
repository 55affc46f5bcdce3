#pragma once
/// @file session.hpp
/// Sequences in flight: feed tokens to any of them, many in one call, and read the logits of the next token. All memory is taken
/// at creation.

#include <span>

#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/model/model.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::generate {

/// What happens when a sequence has used its last position.
enum class EndOfContext {
  error,  ///< the call fails with Code::end_of_context and changes nothing
  slide   ///< the older half is forgotten: the newer half is fed again from position 0
};

struct SessionOptions {
  Index sequences = 1;  ///< how many can be in flight
  Index rows = 0;       ///< most rows of one forward call; 0: enough for one chunk and for one row of every sequence
  EndOfContext end = EndOfContext::error;
};

/// Tokens to append to one sequence.
struct Piece {
  Index sequence = 0;
  std::span<const std::int32_t> tokens{};
};

/// @tparam Model  a `Model<…>`, normally Packed
template <class Model>
class Session {
 public:
  using T = typename Model::Element;
  using Space = typename Model::Space;
  using D = typename Model::Description;

  static Result<Session> create(const Model& model, const SessionOptions& options = {}) {
    if (options.sequences < 1)
      return Error{Code::bad_argument, "SessionOptions::sequences must be at least 1", "session", options.sequences, 1};
    if (options.rows != 0 && options.rows < options.sequences)
      return Error{Code::bad_argument, "SessionOptions::rows must hold a row of every sequence", "session", options.rows,
                   options.sequences};
    if (!model) return Error{Code::bad_argument, "the model has no memory for its parameters", "session"};
    constexpr Index host_bytes = D::vocab * static_cast<Index>(sizeof(T)) + D::context * static_cast<Index>(sizeof(Index));
    constexpr Index most = (Index{1} << 47) / (D::template state_stride<T>() + host_bytes);  // beyond any machine's addresses
    const Error out_of_memory{Code::out_of_memory, "no memory for the states of the sequences", "session", options.sequences,
                              Error::unset};
    if (options.sequences > most) return out_of_memory;
    // The largest piece first, so that a request that is out of all proportion ends here.
    exec::Buffer<Space> states(model.space(), options.sequences * D::template state_stride<T>());
    if (!states) return out_of_memory;
    Session session(model, options, std::move(states));
    if (!session.arena_ || !session.indices_ || !session.tokens_ || !session.logits_) return out_of_memory;
    return Result<Session>(std::move(session));
  }

  /// Forgets a sequence: its next token takes position 0.
  void reset(Index sequence) { length_[to_size(sequence)] = 0; }
  /// Positions used by a sequence.
  Index length(Index sequence) const { return length_[to_size(sequence)]; }
  /// The tokens at those positions.
  std::span<const std::int32_t> history(Index sequence) const {
    return {history_.data() + sequence * D::context, to_size(length(sequence))};
  }
  /// Logits of the token after the last one fed (host memory), valid until that sequence is fed again.
  std::span<const T> logits(Index sequence) const { return {host_logits_.data() + sequence * D::vocab, to_size(D::vocab)}; }

  /// Appends tokens to one sequence.
  Status feed(Index sequence, std::span<const std::int32_t> tokens) {
    const Piece piece{sequence, tokens};
    return feed(std::span<const Piece>(&piece, 1));
  }

  /// Appends tokens to several sequences (each named at most once), sharing forward calls. On an error nothing has changed.
  Status feed(std::span<const Piece> pieces) {
    if (Status good = examine(pieces); !good) return good;
    for (const Piece& piece : pieces) slide_if_full(piece);
    for (const Piece& piece : pieces) {
      Index& pending = pending_[to_size(piece.sequence)];
      std::copy(piece.tokens.begin(), piece.tokens.end(),
                history_.begin() + piece.sequence * D::context + length(piece.sequence) + pending);
      pending += to_index(piece.tokens.size());
    }
    run();
    return Done{};
  }

  /// Makes `to` a copy of `from`: state, tokens and logits.
  void fork(Index from, Index to) {
    if (from == to) return;
    const Index bytes = D::template state_stride<T>();
    exec::Memory<Space>::copy(model_->space(), states_.data() + to * bytes, states_.data() + from * bytes, bytes);
    std::copy_n(history_.begin() + from * D::context, length(from), history_.begin() + to * D::context);
    std::copy_n(host_logits_.begin() + from * D::vocab, D::vocab, host_logits_.begin() + to * D::vocab);
    length_[to_size(to)] = length(from);
  }

  Index sequences() const { return options_.sequences; }
  const Model& model() const { return *model_; }

 private:
  Session(const Model& model, const SessionOptions& options, exec::Buffer<Space> states)
      : model_(&model),
        options_(options),
        rows_(options.rows > 0 ? smaller(options.rows, options.sequences * D::chunk) : larger(D::chunk, options.sequences)),
        states_(std::move(states)),
        arena_(model.space(), D::template workspace_bytes<T, typename Model::Storage>(Extent{rows_, options.sequences, false},
                                                                                      options.sequences)),
        indices_(model.space(),
                 (BatchPlan::index_count(rows_, options.sequences) + options.sequences) * static_cast<Index>(sizeof(Index))),
        tokens_(model.space(), rows_ * static_cast<Index>(sizeof(std::int32_t))),
        logits_(model.space(), options.sequences * D::vocab * static_cast<Index>(sizeof(T))),
        plan_(rows_, options.sequences),
        host_tokens_(to_size(rows_)),
        host_wanted_(to_size(options.sequences)),
        finished_(to_size(options.sequences)),
        host_logits_(to_size(options.sequences * D::vocab)),
        history_(to_size(options.sequences * D::context)),
        length_(to_size(options.sequences)),
        pending_(to_size(options.sequences)) {}

  Status examine(std::span<const Piece> pieces) const {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const Piece& piece = pieces[i];
      if (piece.sequence < 0 || piece.sequence >= options_.sequences)
        return Error{Code::bad_argument, "a piece names a sequence that the session does not have", "session", piece.sequence,
                     options_.sequences};
      for (std::size_t j = 0; j < i; ++j)
        if (pieces[j].sequence == piece.sequence)
          return Error{Code::bad_argument, "two pieces of one call name the same sequence", "session", piece.sequence,
                       Error::unset};
      for (const std::int32_t token : piece.tokens)
        if (token < 0 || token >= D::vocab)
          return Error{Code::bad_argument, "a token lies outside the vocabulary", "session", token, D::vocab};
      const Index count = to_index(piece.tokens.size());
      const Index room = options_.end == EndOfContext::slide ? D::context - D::context / 2 : D::context - length(piece.sequence);
      if (length(piece.sequence) + count > D::context && count > room)
        return Error{Code::end_of_context, "the sequence would pass the end of the model's context", "session",
                     length(piece.sequence) + count, D::context};
    }
    return Done{};
  }

  /// Keeps the newer half of a sequence that the piece would overfill, to be fed again from position 0 before the piece.
  void slide_if_full(const Piece& piece) {
    Index& length = length_[to_size(piece.sequence)];
    if (length + to_index(piece.tokens.size()) <= D::context) return;
    const Index keep = smaller(D::context / 2, length);
    const auto first = history_.begin() + piece.sequence * D::context;
    std::copy(first + (length - keep), first + length, first);
    pending_[to_size(piece.sequence)] = keep;
    length = 0;
  }

  /// Feeds what is pending, in calls of at most rows_ rows and chunks of at most D::chunk.
  void run() {
    for (;;) {
      plan_.clear();
      Index wanted = 0;
      for (Index s = 0; s < options_.sequences; ++s) {
        Index& left = pending_[to_size(s)];
        const Index count = smaller(smaller(left, D::chunk), rows_ - plan_.rows());
        if (count <= 0) continue;
        std::copy_n(history_.begin() + s * D::context + length(s), count, host_tokens_.begin() + plan_.rows());
        plan_.add(s, length(s), count);
        length_[to_size(s)] += count;
        left -= count;
        if (left == 0) {
          host_wanted_[to_size(wanted)] = plan_.rows() - 1;
          finished_[to_size(wanted)] = s;
          ++wanted;
        }
      }
      if (plan_.rows() == 0) return;
      forward(wanted);
    }
  }

  void forward(Index wanted) {
    const Index index = static_cast<Index>(sizeof(Index));
    const Index* const plan = plan_.data();
    indices_.copy_in(plan, plan_.count() * index);
    indices_.copy_in(host_wanted_.data(), wanted * index, plan_.count() * index);
    tokens_.copy_in(host_tokens_.data(), plan_.rows() * static_cast<Index>(sizeof(std::int32_t)));
    Call<Space> call;
    call.space = model_->space();
    call.batch = plan_.view(indices_.template as<Index>());
    call.arena = {arena_.data(), arena_.data() + arena_.bytes()};
    D::template forward<typename Model::Storage>(call, model_->parameters(), tokens_.template as<std::int32_t>(), states_.data(),
                                                 D::template state_stride<T>(), indices_.template as<Index>() + plan_.count(),
                                                 wanted, logits_.template as<T>());
    const Index row = D::vocab * static_cast<Index>(sizeof(T));
    for (Index i = 0; i < wanted; ++i) logits_.copy_out(host_logits_.data() + finished_[to_size(i)] * D::vocab, row, i * row);
  }

  const Model* model_;
  SessionOptions options_;
  Index rows_;
  exec::Buffer<Space> states_, arena_, indices_, tokens_, logits_;
  BatchPlan plan_;
  std::vector<std::int32_t> host_tokens_;
  std::vector<Index> host_wanted_, finished_;
  std::vector<T> host_logits_;
  std::vector<std::int32_t> history_;
  std::vector<Index> length_, pending_;
};

}  // namespace hybridmoe::generate
