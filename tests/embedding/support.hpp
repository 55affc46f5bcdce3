#pragma once
// Running a source or a layer by hand, and taking tokens back.

#include <cstring>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/check/subject_of.hpp>
#include <support/numbers.hpp>

namespace test {

namespace hm = hybridmoe;

/// Feeds a sequence in random chunks and takes tokens back again and again, never more than Env::rewind below the farthest
/// position; every row that stays must have the bits of a sequence that never saw the others.
template <class Description, class Env>
void rewinds_to_the_bit(hm::Index length, std::uint64_t seed) {
  using hm::Index;
  hm::check::SubjectOf<Description, Env, float, hm::Packed, hm::exec::Inline> subject(hm::exec::Inline{});
  hm::check::SubjectOf<Description, Env, float, hm::Flat, hm::exec::Inline> whole(hm::exec::Inline{});
  const std::vector<float> parameters = whole.random_parameters(seed);
  subject.set_parameters(parameters);
  whole.set_parameters(parameters);
  subject.begin(2);
  hm::check::Dice dice(seed, "rewind");
  constexpr Index width = Env::width;
  std::vector<float> x, y;
  Index position = 0, farthest = 0, taken = 0;
  while (position < length) {
    const Index count = dice.between(1, hm::smaller(Env::chunk, length - position));
    const std::vector<float> rows = dice.normals<float>(count * width);
    hm::BatchPlan plan;
    plan.add(1, position, count);
    const std::vector<float> got = subject.step(plan, rows);
    x.insert(x.end(), rows.begin(), rows.end());
    y.insert(y.end(), got.begin(), got.end());
    position += count;
    farthest = hm::larger(farthest, position);
    const Index most = hm::smaller(Env::rewind - (farthest - position), position);
    if (position == length || most <= 0 || dice.between(0, 2) == 0) continue;
    position -= dice.between(1, most);
    ++taken;
    x.resize(hm::to_size(position * width));
    y.resize(hm::to_size(position * width));
  }
  hm::BatchPlan plan;
  plan.add(0, 0, length);
  hm::check::Training<float> run;
  run.x = x;
  whole.train(plan, run);
  CHECK(taken > 10);
  CHECK(subject.faults.empty());
  Index wrong = 0;
  for (Index row = 0; row < length; ++row)
    wrong += std::memcmp(run.y.data() + row * width, y.data() + row * width, sizeof(float) * hm::to_size(width)) != 0;
  CHECK(wrong == 0);
}

/// Finds a tensor of a subject by its name.
template <class Subject>
auto finder(const Subject& subject, const std::vector<double>& parameters) {
  return [&](const std::string& name) -> const double* {
    for (const hm::check::TensorFacts& t : subject.facts.tensors)
      if (t.name == name) return parameters.data() + t.offset;
    FAIL("the layer has no tensor " << name);
    return nullptr;
  };
}

/// The largest difference over the largest expected value.
inline double distance(const double* got, const std::vector<double>& expected) {
  double worst = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double d = std::fabs(got[i] - expected[i]);
    worst = d <= worst ? worst : d;  // a NaN stays
    size = std::fmax(size, std::fabs(expected[i]));
  }
  return worst / size;
}

}  // namespace test
