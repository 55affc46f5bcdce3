#pragma once
/// @file generate.hpp
/// Continues prompts: one or many at once, token by token to a callback.

#include <hybridmoe/generate/sampler.hpp>
#include <hybridmoe/generate/session.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::generate {

struct Request {
  std::span<const std::int32_t> prompt{};
  Index tokens = 64;       ///< how many to generate at most
  std::int32_t stop = -1;  ///< a token that ends the sequence (it is delivered); −1: none
};

/// Generates for requests.size() sequences 0, 1, … of the session at once (they start afresh). on_token(sequence, token) gets
/// every new token as it comes and returns whether that sequence goes on. A sequence that reaches the end of the context under
/// EndOfContext::error ends the call with that error; tokens delivered so far stay valid.
template <class Language, class T, class Space, class Storage, class OnToken>
Status generate(SessionCore<Language, T, Space, Storage>& session, std::span<const Request> requests, const Sampling& sampling,
                OnToken&& on_token) {
  const auto count = requests.size();
  if (to_index(count) > session.sequences())
    return Error{Code::bad_argument, "more requests than the session has sequences", "generate", to_index(count),
                 session.sequences()};
  if (Status good = sampling.examine(); !good) return good;
  std::vector<Piece> pieces;
  std::vector<std::int32_t> next(count);
  std::vector<Index> left(count);
  pieces.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (requests[i].prompt.empty())
      return Error{Code::bad_argument, "a prompt is empty: give at least one token", numbered("request ", to_index(i))};
    session.reset(to_index(i));
    left[i] = requests[i].tokens;
    if (left[i] > 0) pieces.push_back({to_index(i), requests[i].prompt});
  }
  Sampler sampler(Language::vocab);
  while (!pieces.empty()) {
    if (Status fed = session.feed(std::span<const Piece>(pieces)); !fed) return fed;
    std::size_t kept = 0;
    for (const Piece& piece : pieces) {
      const auto i = to_size(piece.sequence);
      const auto token = sampler(session.logits(piece.sequence), session.history(piece.sequence), sampling, i,
                                 static_cast<std::uint64_t>(requests[i].tokens - left[i]));
      if (!token) return token.error();
      next[i] = *token;
      if (on_token(piece.sequence, *token) && --left[i] > 0 && *token != requests[i].stop)
        pieces[kept++] = {piece.sequence, std::span<const std::int32_t>(&next[i], 1)};
    }
    pieces.resize(kept);
  }
  return Done{};
}

/// One sequence. on_token(token) returns whether to go on.
template <class Language, class T, class Space, class Storage, class OnToken>
Status generate(SessionCore<Language, T, Space, Storage>& session, const Request& request, const Sampling& sampling,
                OnToken&& on_token) {
  return generate(session, std::span<const Request>(&request, 1), sampling,
                  [&on_token](Index, std::int32_t token) { return on_token(token); });
}

}  // namespace hybridmoe::generate
