#pragma once
// The one line of a layer's laws: everywhere<Description, Environment>() in a TEST_CASE.

#include <string>
#include <type_traits>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/check/laws.hpp>
#include <support/allocations.hpp>
#include <support/spaces.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

// What of the laws knows no layer is compiled once, in laws.cpp: a third of a unit of laws.
extern template class PlacedSubject<double>;
extern template class PlacedSubject<float>;
extern template void laws_of(Subject<double>&, const PackedSubjects<double>&, Subject<double>*, const Options&, Report&);
extern template void laws_of(Subject<float>&, const PackedSubjects<float>&, Subject<double>*, const Options&, Report&);
extern template void laws_of(Subject<float>&, const PackedSubjects<float>&, Subject<float>*, const Options&, Report&);

}  // namespace hybridmoe::check

namespace test {

template <bool packed, class Description, class Env, class Place>
hybridmoe::check::Report doubles(const Place& place, const hybridmoe::check::Options& options) {
  if constexpr (packed) {
    return hybridmoe::check::laws<Description, Env, double, hybridmoe::Packed>(place, options);
  } else {
    return hybridmoe::check::laws<Description, Env, double>(place, options);
  }
}

/// Laws 1 to 5 in double and float, flat and packed, on every space of the build; all spaces of the host must give one set of
/// bits per number type.
template <class Description, class Env>
void laws_everywhere(hybridmoe::check::Options options = {}) {
  namespace check = hybridmoe::check;
  options.allocations = allocations;
  std::uint64_t bits[2] = {};
  for_each_space([&](const auto& place, const std::string& name) {
    if (name != "Inline") options.allocations = nullptr;  // threads and their runtime may allocate
    // Elsewhere packed weights are looked at in float only: compilers take long enough.
    constexpr bool everything = std::is_same_v<std::decay_t<decltype(place)>, hybridmoe::exec::Inline>;
    const check::Report reports[2] = {doubles<everything, Description, Env>(place, options),
                                      check::laws<Description, Env, float, hybridmoe::Packed>(place, options)};
    for (int i = 0; i < 2; ++i) {
      INFO(name << (i == 0 ? ", double: " : ", float: ") << reports[i].text());
      CHECK(reports[i]);
      if (name == "Cuda") continue;
      if (bits[i] == 0) bits[i] = reports[i].bits;
      CHECK(reports[i].bits == bits[i]);
    }
  });
}

}  // namespace test
