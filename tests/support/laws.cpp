// What every unit of laws needs and none has to compile (see laws.hpp).

#include <hybridmoe/check/laws.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::check {

template class PlacedSubject<double>;
template class PlacedSubject<float>;
template void laws_of(Subject<double>&, const PackedSubjects<double>&, Subject<double>*, const Options&, Report&);
template void laws_of(Subject<float>&, const PackedSubjects<float>&, Subject<double>*, const Options&, Report&);
template void laws_of(Subject<float>&, const PackedSubjects<float>&, Subject<float>*, const Options&, Report&);

}  // namespace hybridmoe::check
