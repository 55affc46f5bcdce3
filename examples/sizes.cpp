// What the published sizes of HybridMoE are made of and what they cost. The compiler knows all of it: no model is made here, and
// one of 400 billion parameters compiles like one of a million.
#include <hybridmoe/hybridmoe.hpp>
#include <hybridmoe/zoo/hybridmoe.hpp>

namespace hm = hybridmoe;
using namespace hm::zoo;

//! [row]
template <class Model>
void row(const char* name) {
  using Cost = hm::Account<Model>;
  std::printf("%-13s %6d %12.3e %12.3e %12.3e %12.3e\n", name, static_cast<int>(Cost::layer_count),
              static_cast<double>(Cost::parameters()), static_cast<double>(Cost::active_parameters().target),
              Cost::flops_per_token(Model::context).forward, static_cast<double>(Cost::template state_bytes<hm::f32>()));
}
//! [row]

int main() {
  std::printf("%-13s %6s %12s %12s %12s %12s\n", "model", "layers", "parameters", "active", "FLOPs/token", "state bytes");
  row<HybridPico>("HybridPico");
  row<HybridNano>("HybridNano");
  row<HybridSmall>("HybridSmall");
  row<HybridMedium>("HybridMedium");
  row<HybridLarge>("HybridLarge");
  std::printf("\nHybridSmall: %s", hm::describe<HybridSmall>().c_str());
  std::printf("\nHybridMedium: %s", hm::describe<HybridMedium>().c_str());
  std::printf("\nHybridLarge: %s", hm::describe<HybridLarge>().c_str());
}
