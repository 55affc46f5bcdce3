#pragma once
/// @file session_core.hpp
/// All of a Session but the type of its model. Compiled once for all patterns over the same kinds of layer.

#include <algorithm>
#include <span>

#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/model/model.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::generate {

/// What happens when a sequence has used its last position.
enum class EndOfContext {
  error,  ///< the call fails with Code::end_of_context and changes nothing
  slide   ///< the older half is forgotten: the newer half is fed again from position 0
};

/// What the next tokens of a sequence may spend, for models that choose how much to compute.
struct Spending {
  double budget = 1;  ///< β in [0, 1]
  double target = 1;  ///< q in [0, 1]; 1: spend the budget
};

/// A sequence taken out of a session, to be put back into any session of the same model.
struct Snapshot {
  std::vector<std::byte> state;
  std::vector<std::int32_t> history;
  std::vector<std::byte> logits;
  Index furthest = 0;  ///< the furthest position that the sequence had reached
};

struct SessionOptions {
  Index sequences = 1;  ///< how many can be in flight
  Index rows = 0;       ///< most rows of one forward call; 0: enough for one chunk and for one row of every sequence
  EndOfContext end = EndOfContext::error;
  bool report_use = false;  ///< keep what the layers used for the last token fed (used())
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
  void reset(Index sequence) { length_[to_size(sequence)] = furthest_[to_size(sequence)] = 0; }
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

  /// Makes `to` a copy of `from`: state, tokens and logits. Costs the bytes of one state.
  void fork(Index from, Index to);

  /// Takes a sequence's last `count` tokens back, as if they had never been fed; costs nothing. At most rewind_limit() tokens
  /// behind the furthest position that the sequence has reached since its reset. Feed it before its logits are read again.
  Status rewind(Index sequence, Index count);
  /// LanguageSizes::rewind, or 0 for a model some layer of which carries a state that cannot be taken back.
  static constexpr Index rewind_limit() { return Language::rewind_limit(); }

  /// A copy of a sequence, and back: state, tokens and logits (not what it may spend). Costs the bytes of one state. A snapshot
  /// that cannot be of this model is refused; its state is not looked at beyond its size.
  Snapshot snapshot(Index sequence) const;
  Status restore(Index sequence, const Snapshot& snapshot);

  /// What the sequence's tokens fed from now on may spend.
  Status spend(Index sequence, const Spending& spending);
  /// What the layers used for the sequence's last token: [layers, Used::fields]; empty unless SessionOptions::report_use.
  std::span<const T> used(Index sequence) const {
    if (!options_.report_use) return {};
    return {host_used_.data() + sequence * used_width(), to_size(used_width())};
  }

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
  Status names_sequence(Index sequence) const {
    if (sequence >= 0 && sequence < options_.sequences) return Done{};
    return Error{Code::bad_argument, "the session does not have this sequence", "session", sequence, options_.sequences};
  }
  Index used_width() const { return Used::fields * model_->layout().layers; }
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
  std::vector<Index> length_, pending_, furthest_;
  exec::Buffer<Space> conditions_, used_;  ///< budgets and targets by row; use by row
  std::vector<Spending> spending_;
  std::vector<T> host_conditions_, host_used_;
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
      pending_(to_size(options.sequences)),
      furthest_(to_size(options.sequences)),
      conditions_(model.space(), 2 * rows_ * static_cast<Index>(sizeof(T))),
      used_(model.space(), options.report_use ? rows_ * used_width() * static_cast<Index>(sizeof(T)) : 0),
      spending_(to_size(options.sequences)),
      host_conditions_(to_size(2 * rows_)),
      host_used_(to_size(options.report_use ? options.sequences * used_width() : 0)) {}

template <class Language_, class T_, class Space_, class Storage>
Status SessionCore<Language_, T_, Space_, Storage>::has_memory() const {
  if (arena_ && indices_ && tokens_ && logits_ && conditions_ && used_) return Done{};
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
  furthest_[to_size(to)] = furthest_[to_size(from)];
  spending_[to_size(to)] = spending_[to_size(from)];
  if (options_.report_use)
    std::copy_n(host_used_.begin() + from * used_width(), used_width(), host_used_.begin() + to * used_width());
}

template <class Language_, class T_, class Space_, class Storage>
Status SessionCore<Language_, T_, Space_, Storage>::rewind(Index sequence, Index count) {
  if (Status named = names_sequence(sequence); !named) return named;
  const Index behind = furthest_[to_size(sequence)] - (length(sequence) - count);
  if (count < 0 || count > length(sequence))
    return Error{Code::bad_argument, "a sequence cannot take back more tokens than it has", "session", count, length(sequence)};
  if (count < length(sequence) && behind > rewind_limit())
    return Error{Code::bad_argument, "this model keeps too few tokens to take so many back (LanguageSizes::rewind)", "session",
                 behind, rewind_limit()};
  length_[to_size(sequence)] -= count;
  if (length(sequence) == 0) furthest_[to_size(sequence)] = 0;
  return Done{};
}

template <class Language_, class T_, class Space_, class Storage>
Snapshot SessionCore<Language_, T_, Space_, Storage>::snapshot(Index sequence) const {
  Snapshot copy;
  copy.state.resize(to_size(stride_));
  states_.copy_out(copy.state.data(), stride_, sequence * stride_);
  const auto tokens = history(sequence);
  copy.history.assign(tokens.begin(), tokens.end());
  copy.furthest = furthest_[to_size(sequence)];
  const auto* const values = reinterpret_cast<const std::byte*>(host_logits_.data() + sequence * Language::vocab);
  copy.logits.assign(values, values + to_size(Language::vocab) * sizeof(T));
  return copy;
}

template <class Language_, class T_, class Space_, class Storage>
Status SessionCore<Language_, T_, Space_, Storage>::restore(Index sequence, const Snapshot& copy) {
  if (Status named = names_sequence(sequence); !named) return named;
  if (to_index(copy.state.size()) != stride_ || copy.logits.size() != to_size(Language::vocab) * sizeof(T) ||
      to_index(copy.history.size()) > Language::context)
    return Error{Code::bad_argument, "the snapshot is of another model", "session", to_index(copy.state.size()), stride_};
  // Tokens are fed again when a sequence slides, and `furthest` guards rewind().
  for (const std::int32_t token : copy.history)
    if (token < 0 || token >= Language::vocab)
      return Error{Code::bad_argument, "the snapshot holds a token outside the vocabulary", "session", token, Language::vocab};
  if (copy.furthest < to_index(copy.history.size()) || copy.furthest > Language::context)
    return Error{Code::bad_argument, "the snapshot's furthest position is not one that its tokens can have reached", "session",
                 copy.furthest, to_index(copy.history.size())};
  states_.copy_in(copy.state.data(), stride_, sequence * stride_);
  std::copy(copy.history.begin(), copy.history.end(), history_.begin() + sequence * Language::context);
  std::memcpy(host_logits_.data() + sequence * Language::vocab, copy.logits.data(), copy.logits.size());
  length_[to_size(sequence)] = to_index(copy.history.size());
  furthest_[to_size(sequence)] = copy.furthest;
  return Done{};
}

template <class Language_, class T_, class Space_, class Storage>
Status SessionCore<Language_, T_, Space_, Storage>::spend(Index sequence, const Spending& spending) {
  if (Status named = names_sequence(sequence); !named) return named;
  for (const double part : {spending.budget, spending.target})
    if (!(part >= 0 && part <= 1)) return Error{Code::bad_argument, "a budget and a target must lie in [0, 1]", "session"};
  spending_[to_size(sequence)] = spending;
  return Done{};
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
  furthest_[to_size(piece.sequence)] = 0;
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
      for (Index i = plan_.rows(); i < plan_.rows() + count; ++i) {
        host_conditions_[to_size(i)] = static_cast<T>(spending_[to_size(s)].budget);
        host_conditions_[to_size(rows_ + i)] = static_cast<T>(spending_[to_size(s)].target);
      }
      plan_.add(s, length(s), count);
      length_[to_size(s)] += count;
      furthest_[to_size(s)] = larger(furthest_[to_size(s)], length(s));
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
  conditions_.copy_in(host_conditions_.data(), conditions_.bytes());
  const T* const conditions = conditions_.template as<const T>();
  call.side.template set<stream::Budget, T>(conditions, nullptr, 1);
  call.side.most_budget =
      static_cast<double>(*std::max_element(host_conditions_.begin(), host_conditions_.begin() + plan_.rows()));
  call.side.template set<stream::Target, T>(conditions + rows_, nullptr, 1);
  call.side.used = options_.report_use ? used_.data() : nullptr;
  call.side.used_width = used_width();
  Language::template forward<Storage>(call, model_->layout(), model_->parameters(), tokens_.template as<std::int32_t>(),
                                      states_.data(), stride_, indices_.template as<Index>() + plan_.count(), wanted,
                                      logits_.template as<T>());
  const Index row = Language::vocab * static_cast<Index>(sizeof(T));
  for (Index i = 0; i < wanted; ++i)
    logits_.copy_out(host_logits_.data() + finished_[to_size(i)] * Language::vocab, row, i * row);
  const Index used = used_width() * static_cast<Index>(sizeof(T));
  for (Index i = 0; options_.report_use && i < wanted; ++i)
    used_.copy_out(host_used_.data() + finished_[to_size(i)] * used_width(), used, host_wanted_[to_size(i)] * used);
}

}  // namespace hybridmoe::generate
