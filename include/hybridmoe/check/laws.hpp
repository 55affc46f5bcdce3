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

/// Laws 1 to 5 of a description bound to Env, with numbers T, on a place: exec::Inline, `exec::On<…>`, `exec::Teams<…>`.
template <class Description, class Env, class T, class... Storages, class Place>
Report laws(const Place& place, const Options& options = {}) {
  using Layer = typename Description::template Layer<Env>;
  Report report;
  visit_covers<Layer, T, Flat>(report, "flat");
  (visit_covers<Layer, T, Storages>(report, "packed"), ...);

  SubjectOf<Description, Env, T, Flat, Place> subject(place);
  subject.allocations = options.allocations;
  ForwardLaws<T> forward(subject, options, report);
  forward.run();
  [[maybe_unused]] const auto repeat = [&](auto packed) {
    packed.allocations = options.allocations;
    forward.repeat(packed);
  };
  (repeat(SubjectOf<Description, Env, T, Storages, Place>(place)), ...);
  backward_memory(subject, options, report);
  declared_counts(subject, options, report);
  if constexpr (std::is_same_v<Place, exec::Inline> && std::is_same_v<T, double>) {
    GradientCheck(subject, options, report).run();
  } else {
    // On other places law 3 holds if Inline keeps it and the place agrees with Inline; in float, if it agrees with double.
    using Wide = std::conditional_t<std::is_same_v<Place, exec::Inline>, double, T>;
    SubjectOf<Description, Env, Wide, Flat, exec::Inline> reference(exec::Inline{});
    const double tolerance = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<Wide, double> ? 1e-3 : 1e-5;
    agreement<T, Wide>(subject, reference, std::is_same_v<T, Wide> ? "Inline" : "double", tolerance, options, report);
    if constexpr (std::is_same_v<Wide, double>) GradientCheck(reference, options, report).run();
  }
  for (const std::string& fault : subject.faults) report.fail(fault);
  return report;
}

}  // namespace hybridmoe::check
