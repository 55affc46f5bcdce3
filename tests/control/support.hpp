#pragma once
// What tests of the estimator and the controller share.

#include <cstring>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/check/forward_laws.hpp>
#include <hybridmoe/check/subject_of.hpp>
#include <hybridmoe/check/with_sources.hpp>

namespace test {

/// Syntax of the 40 tokens of check::WithSources, frequent enough that depths reach 15 and 0 and terminators are near and far.
struct FewClasses {
  HYBRIDMOE_FUNCTION static constexpr bool opens(std::int32_t id) { return id % 3 == 1; }
  HYBRIDMOE_FUNCTION static constexpr bool closes(std::int32_t id) { return id % 7 == 2; }
  HYBRIDMOE_FUNCTION static constexpr bool quotes(std::int32_t id) { return id % 5 == 3; }
  HYBRIDMOE_FUNCTION static constexpr bool terminates(std::int32_t id) { return id % 11 == 6; }
};

/// Feeds sequences whose last 0 … Env::rewind tokens are taken back at several positions, by nothing but going on at a smaller
/// position, and holds every row against that of a sequence that never saw those tokens.
template <class Description, class Env, class T>
void rewinds_exactly(hybridmoe::Index length) {
  using hybridmoe::Index;
  namespace check = hybridmoe::check;
  check::SubjectOf<Description, Env, T, hybridmoe::Flat, hybridmoe::exec::Inline> subject(hybridmoe::exec::Inline{});
  subject.set_parameters(subject.random_parameters(3));
  check::Dice dice(7, "rewind");
  const std::vector<T> x = dice.normals<T>(length * Env::width);
  std::vector<T> got;
  const auto feed = [&](Index from, Index count, const std::vector<T>& rows) {
    hybridmoe::BatchPlan plan;
    plan.add(0, from, count);
    const auto begin = rows.begin() + from * Env::width;
    const std::vector<T> y = subject.step(plan, std::vector<T>(begin, begin + count * Env::width));
    std::memcpy(got.data() + from * Env::width, y.data(), y.size() * sizeof(T));
  };
  const auto feed_to = [&](Index from, Index to, const std::vector<T>& rows) {
    while (from < to) {
      const Index count = dice.between(1, hybridmoe::smaller(Env::chunk, to - from));
      feed(from, count, rows);
      from += count;
    }
  };
  got.assign(x.size(), T(0));
  subject.begin(1);
  feed_to(0, length, x);
  const std::vector<T> expected = got;

  for (Index n = 0; n <= Env::rewind; ++n) {
    subject.begin(1);
    got.assign(x.size(), T(0));
    Index at = 0;
    while (at < length) {
      const Index next = hybridmoe::smaller(length, at + dice.between(1, 2 * Env::chunk));
      feed_to(at, next, x);
      at = next;
      const std::vector<T> other = dice.normals<T>(length * Env::width);
      const std::vector<T> kept = got;
      if (at + n <= length && n > 0) feed_to(at, at + n, other);
      got = kept;
    }
    CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(T)) == 0);
  }
}

/// What broke, if the grouping of rows or a later token changed a bit.
template <class Description, class Env, class T>
void forward_laws(const hybridmoe::check::Options& options) {
  namespace check = hybridmoe::check;
  check::SubjectOf<Description, Env, T, hybridmoe::Flat, hybridmoe::exec::Inline> subject(hybridmoe::exec::Inline{});
  check::Report report;
  check::ForwardLaws<T> laws(subject, options, report);
  laws.run();
  for (const std::string& fault : subject.faults) report.fail(fault);
  INFO(report.text());
  CHECK(report);
}

}  // namespace test
