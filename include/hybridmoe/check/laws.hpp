#pragma once
/// @file laws.hpp
/// The five laws that every layer keeps, for one line of a test:
///
///   const check::Report report = check::laws<attention::Full<heads>, Environment<32, 64, 16>, double, Packed>(exec::Inline{});
///
///   1  every output row has the same bits however rows are grouped into chunks, calls and batches
///   2  a changed token leaves earlier outputs (and other sequences) alone, to the bit
///   3  backward is the derivative of Σ y·dy and is added
///   4  everything is written, nothing else is touched, all places agree with Inline
///   5  visit, workspace, tape and the declared counts are true; an Inline forward with states allocates nothing
///
/// The numbers are double or float (float on another place than Inline is held against float on Inline, and that against double
/// in a call of its own); further storages repeat the laws of forward on packed weights. Equal `bits` of two reports
/// mean equal bits of outputs and gradients: places that differ only in their threads must give them. A layer that is not
/// causal is not held to laws 1 and 2 beyond whole sequences.

#include <hybridmoe/check/count_laws.hpp>
#include <hybridmoe/check/forward_laws.hpp>
#include <hybridmoe/check/gradient.hpp>
#include <hybridmoe/check/memory_laws.hpp>
#include <hybridmoe/check/subject_of.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

/// Subjects of one layer with other storages than flat.
template <class T>
using PackedSubjects = std::vector<std::unique_ptr<Subject<T>>>;

/// Laws 1 to 5 but for visit_covers, of a subject of whatever layer: compiled once for a pair of number types, it serves them
/// all. `reference`: what its gradients are held against; its own, if null.
template <class T, class Wide>
void laws_of(Subject<T>& subject, const PackedSubjects<T>& packed, Subject<Wide>* reference, const Options& options,
             Report& report) {
  subject.allocations = options.allocations;
  ForwardLaws<T> forward(subject, options, report);
  forward.run();
  for (const auto& other : packed) {
    other->allocations = options.allocations;
    forward.repeat(*other);
  }
  backward_memory(subject, options, report);
  declared_counts(subject, options, report);
  if (reference != nullptr) agreement(subject, *reference, options, report);
  if constexpr (std::is_same_v<T, double>) {
    if (reference == nullptr) GradientCheck(subject, options, report).run();
  }
  if constexpr (std::is_same_v<Wide, double>) {
    if (reference != nullptr) GradientCheck(*reference, options, report).run();
  }
  for (const std::string& fault : subject.faults) report.fail(fault);
}

/// Laws 1 to 5 of a description bound to Env, with numbers T, on a place: exec::Inline, `exec::On<…>`, `exec::Teams<…>`.
template <class Description, class Env, class T, class... Storages, class Place>
Report laws(const Place& place, const Options& options = {}) {
  using Layer = typename Description::template Layer<Env>;
  Report report;
  visit_covers<Layer, T, Flat>("flat", report);
  (visit_covers<Layer, T, Storages>("packed", report), ...);

  SubjectOf<Description, Env, T, Flat, Place> subject(place);
  PackedSubjects<T> packed;
  (packed.push_back(std::make_unique<SubjectOf<Description, Env, T, Storages, Place>>(place)), ...);
  if constexpr (std::is_same_v<Place, exec::Inline> && std::is_same_v<T, double>) {
    laws_of<T, T>(subject, packed, nullptr, options, report);
  } else {
    // On other places law 3 holds if Inline keeps it and the place agrees with Inline; in float, if it agrees with double.
    using Wide = std::conditional_t<std::is_same_v<Place, exec::Inline>, double, T>;
    SubjectOf<Description, Env, Wide, Flat, exec::Inline> reference(exec::Inline{});
    laws_of<T, Wide>(subject, packed, &reference, options, report);
  }
  return report;
}

}  // namespace hybridmoe::check
