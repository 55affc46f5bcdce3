#pragma once
/// @file session_core.hpp
/// All of a Session but the type of its model. Compiled once for all patterns over the same kinds of layer.

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

/// @tparam Language_  a LanguageCore
template <class Language_, class T_, class Space_, class Storage>
class SessionCore {
 public:
  using Language = Language_;
  using T = T_;
  using Space = Space_;
  using Parameters = ModelCore<Language, T, Space, Storage>;

  SessionCore(SessionCore&&) noexcept;
  SessionCore& operator=(SessionCore&&) noexcept;
  ~SessionCore();

  /// Forgets a sequence: its next token takes position 0.
  void reset(Index sequence) { length_[to_size(sequence)] = 0; }
  /// Positions used by a sequence.
  Index length(Index sequence) const { return length_[to_size(sequence)]; }
  /// The tokens at those positions.
  std::span<const std::int32_t> history(Index sequence) const {
    return {history_.data() + sequence * Language::context, to_size(length(sequence))};
  }
  /// Logits of the token after the last one fed (host memory), valid until that sequence is fed again.
  std::span<const T> logits(Index sequence) const {
    return {host_logits_.data() + sequence * Language::vocab, to_size(Language::vocab)};
  }

  /// Appends tokens to one sequence.
  Status feed(Index sequence, std::span<const std::int32_t> tokens) {
    const Piece piece{sequence, tokens};
    return feed(std::span<const Piece>(&piece, 1));
  }
  /// Appends tokens to several sequences (each named at most once), sharing forward calls. On an error nothing has changed.
  Status feed(std::span<const Piece> pieces);

  /// Makes `to` a copy of `from`: state, tokens and logits.
  void fork(Index from, Index to);

  Index sequences() const { return options_.sequences; }
  const Parameters& model() const { return *model_; }

 protected:
  /// The sequences' states, if a session can be made of these; then the rest; then whether all its memory could be had.
  static Result<exec::Buffer<Space>> reserve(const Parameters& model, const SessionOptions& options);
  SessionCore(const Parameters& model, const SessionOptions& options, exec::Buffer<Space> states);
  Status has_memory() const;

 private:
  static Error out_of_memory(Index sequences) {
    return {Code::out_of_memory, "no memory for the states of the sequences", "session", sequences, Error::unset, {}};
  }
  Status examine(std::span<const Piece> pieces) const;
  void slide_if_full(const Piece& piece);
  void run();
  void forward(Index wanted);

  const Parameters* model_;
  SessionOptions options_;
  Index stride_;  ///< bytes of one sequence's state
  Index rows_;
  exec::Buffer<Space> states_, arena_, indices_, tokens_, logits_;
  BatchPlan plan_;
  std::vector<std::int32_t> host_tokens_;
  std::vector<Index> host_wanted_, finished_;
  std::vector<T> host_logits_;
  std::vector<std::int32_t> history_;
  std::vector<Index> length_, pending_;
};

// Outside the class, so that they are not inline: `extern template` then keeps them out of a unit.

template <class Language_, class T_, class Space_, class Storage>
SessionCore<Language_, T_, Space_, Storage>::SessionCore(SessionCore&&) noexcept = default;
template <class Language_, class T_, class Space_, class Storage>
SessionCore<Language_, T_, Space_, Storage>& SessionCore<Language_, T_, Space_, Storage>::operator=(SessionCore&&) noexcept =
    default;
template <class Language_, class T_, class Space_, class Storage>
SessionCore<Language_, T_, Space_, Storage>::~SessionCore() = default;

template <class Language_, class T_, class Space_, class Storage>
auto SessionCore<Language_, T_, Space_, Storage>::reserve(const Parameters& model,
                                                          const SessionOptions& options) -> Result<exec::Buffer<Space>> {
  if (options.sequences < 1)
    return Error{Code::bad_argument, "SessionOptions::sequences must be at least 1", "session", options.sequences, 1};
  if (options.rows != 0 && options.rows < options.sequences)
    return Error{Code::bad_argument, "SessionOptions::rows must hold a row of every sequence", "session", options.rows,
                 options.sequences};
  if (!model) return Error{Code::bad_argument, "the model has no memory for its parameters", "session"};
  const Index stride = Language::template state_stride<T>(model.layout());
  constexpr Index host_bytes =
      Language::vocab * static_cast<Index>(sizeof(T)) + Language::context * static_cast<Index>(sizeof(Index));
  const Index most = (Index{1} << 47) / (stride + host_bytes);  // beyond any machine's addresses
  if (options.sequences > most) return out_of_memory(options.sequences);
  // The largest piece first, so that a request that is out of all proportion ends here.
  exec::Buffer<Space> states(model.space(), options.sequences * stride);
  if (!states) return out_of_memory(options.sequences);
  return Result<exec::Buffer<Space>>(std::move(states));
}

template <class Language_, class T_, class Space_, class Storage>
SessionCore<Language_, T_, Space_, Storage>::SessionCore(const Parameters& model, const SessionOptions& options,
                                                         exec::Buffer<Space> states)
    : model_(&model),
      options_(options),
      stride_(Language::template state_stride<T>(model.layout())),
      rows_(options.rows > 0 ? smaller(options.rows, options.sequences * Language::chunk)
                             : larger(Language::chunk, options.sequences)),
      states_(std::move(states)),
      arena_(model.space(),
             Language::template workspace_bytes<T, Storage>(Extent{rows_, options.sequences, false}, options.sequences)),
      indices_(model.space(),
               (BatchPlan::index_count(rows_, options.sequences) + options.sequences) * static_cast<Index>(sizeof(Index))),
      tokens_(model.space(), rows_ * static_cast<Index>(sizeof(std::int32_t))),
      logits_(model.space(), options.sequences * Language::vocab * static_cast<Index>(sizeof(T))),
      plan_(rows_, options.sequences),
      host_tokens_(to_size(rows_)),
      host_wanted_(to_size(options.sequences)),
      finished_(to_size(options.sequences)),
      host_logits_(to_size(options.sequences * Language::vocab)),
      history_(to_size(options.sequences * Language::context)),
      length_(to_size(options.sequences)),
      pending_(to_size(options.sequences)) {}

template <class Language_, class T_, class Space_, class Storage>
Status SessionCore<Language_, T_, Space_, Storage>::has_memory() const {
  if (arena_ && indices_ && tokens_ && logits_) return Done{};
  return out_of_memory(options_.sequences);
}

template <class Language_, class T_, class Space_, class Storage>
Status SessionCore<Language_, T_, Space_, Storage>::feed(std::span<const Piece> pieces) {
  if (Status good = examine(pieces); !good) return good;
  for (const Piece& piece : pieces) slide_if_full(piece);
  for (const Piece& piece : pieces) {
    Index& pending = pending_[to_size(piece.sequence)];
    std::copy(piece.tokens.begin(), piece.tokens.end(),
              history_.begin() + piece.sequence * Language::context + length(piece.sequence) + pending);
    pending += to_index(piece.tokens.size());
  }
  run();
  return Done{};
}

template <class Language_, class T_, class Space_, class Storage>
void SessionCore<Language_, T_, Space_, Storage>::fork(Index from, Index to) {
  if (from == to) return;
  exec::Memory<Space>::copy(model_->space(), states_.data() + to * stride_, states_.data() + from * stride_, stride_);
  std::copy_n(history_.begin() + from * Language::context, length(from), history_.begin() + to * Language::context);
  std::copy_n(host_logits_.begin() + from * Language::vocab, Language::vocab, host_logits_.begin() + to * Language::vocab);
  length_[to_size(to)] = length(from);
}

template <class Language_, class T_, class Space_, class Storage>
Status SessionCore<Language_, T_, Space_, Storage>::examine(std::span<const Piece> pieces) const {
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
      if (token < 0 || token >= Language::vocab)
        return Error{Code::bad_argument, "a token lies outside the vocabulary", "session", token, Language::vocab};
    const Index count = to_index(piece.tokens.size());
    const Index room = options_.end == EndOfContext::slide ? Language::context - Language::context / 2
                                                           : Language::context - length(piece.sequence);
    if (length(piece.sequence) + count > Language::context && count > room)
      return Error{Code::end_of_context, "the sequence would pass the end of the model's context", "session",
                   length(piece.sequence) + count, Language::context};
  }
  return Done{};
}

/// Keeps the newer half of a sequence that the piece would overfill, to be fed again from position 0 before the piece.
template <class Language_, class T_, class Space_, class Storage>
void SessionCore<Language_, T_, Space_, Storage>::slide_if_full(const Piece& piece) {
  Index& length = length_[to_size(piece.sequence)];
  if (length + to_index(piece.tokens.size()) <= Language::context) return;
  const Index keep = smaller(Language::context / 2, length);
  const auto first = history_.begin() + piece.sequence * Language::context;
  std::copy(first + (length - keep), first + length, first);
  pending_[to_size(piece.sequence)] = keep;
  length = 0;
}

/// Feeds what is pending, in calls of at most rows_ rows and chunks of at most chunk.
template <class Language_, class T_, class Space_, class Storage>
void SessionCore<Language_, T_, Space_, Storage>::run() {
  for (;;) {
    plan_.clear();
    Index wanted = 0;
    for (Index s = 0; s < options_.sequences; ++s) {
      Index& left = pending_[to_size(s)];
      const Index count = smaller(smaller(left, Language::chunk), rows_ - plan_.rows());
      if (count <= 0) continue;
      std::copy_n(history_.begin() + s * Language::context + length(s), count, host_tokens_.begin() + plan_.rows());
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

template <class Language_, class T_, class Space_, class Storage>
void SessionCore<Language_, T_, Space_, Storage>::forward(Index wanted) {
  const Index index = static_cast<Index>(sizeof(Index));
  const Index* const plan = plan_.data();
  indices_.copy_in(plan, plan_.count() * index);
  indices_.copy_in(host_wanted_.data(), wanted * index, plan_.count() * index);
  tokens_.copy_in(host_tokens_.data(), plan_.rows() * static_cast<Index>(sizeof(std::int32_t)));
  Call<Space> call;
  call.space = model_->space();
  call.batch = plan_.view(indices_.template as<Index>());
  call.arena = {arena_.data(), arena_.data() + arena_.bytes()};
  Language::template forward<Storage>(call, model_->layout(), model_->parameters(), tokens_.template as<std::int32_t>(),
                                      states_.data(), stride_, indices_.template as<Index>() + plan_.count(), wanted,
                                      logits_.template as<T>());
  const Index row = Language::vocab * static_cast<Index>(sizeof(T));
  for (Index i = 0; i < wanted; ++i)
    logits_.copy_out(host_logits_.data() + finished_[to_size(i)] * Language::vocab, row, i * row);
}

}  // namespace hybridmoe::generate
