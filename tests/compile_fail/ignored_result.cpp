// A failure cannot be overlooked: Result is [[nodiscard]].
// expect: ignoring return
#include <hybridmoe/core/result.hpp>

hybridmoe::Status save();
int run() {
#if defined(HYBRIDMOE_WRONG)
  save();
  return 0;
#else
  return save() ? 0 : 1;
#endif
}
