// A game engine's view: a model in the engine's own memory, one token per frame. Compiled without exceptions and RTTI; after
// start-up there is no allocation, no lock and no thread.
#include <cstdio>
#include <cstdlib>

#include <hybridmoe/hybridmoe.hpp>

namespace hm = hybridmoe;

//! [brain]
constexpr hm::Heads heads{.query = 4, .kv = 2, .size = 16};
struct Brain
    : hm::LanguageModel<hm::LanguageSizes{.vocab = 256, .width = 64, .context = 128}, hm::Pattern<"LS">,
                        hm::Slot<'L', hm::Block<hm::attention::Local<heads, 32>, hm::channel::SwiGlu<128>>>,
                        hm::Slot<'S', hm::Block<hm::ssm::Mamba2<hm::ssm::Mamba2Sizes{.heads = 4, .head = 32, .state = 16}>,
                                                hm::channel::SwiGlu<128>>>> {};
using Stepper = hm::generate::Stepper<Brain, float>;
static_assert(Stepper::required_bytes() < 300'000);  // known when the game is compiled
//! [brain]

namespace {

// What the engine gives away: static memory.
alignas(64) float parameters[Brain::buffer_elements<float, hm::Packed>()];
alignas(64) std::byte memory[Stepper::required_bytes()];

// Counts what the global allocator is asked for.
long allocations = 0;

int likeliest(const float* logits) {
  int best = 0;
  for (int v = 1; v < 256; ++v)
    if (logits[v] > logits[best]) best = v;
  return best;
}

}  // namespace

void* operator new(std::size_t bytes) {
  ++allocations;
  return std::malloc(bytes);
}
void operator delete(void* pointer) noexcept { std::free(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { std::free(pointer); }

int main() {
  // Start-up: a real engine would read trained weights from its asset pack; here they are made from a seed.
  hm::pack(hm::Model<Brain, float>{hm::Seed{42}}).download(parameters);

  //! [frames]
  auto stepper = Stepper::create(parameters, memory, sizeof memory);
  if (!stepper) return std::puts(stepper.error().message().c_str()), 1;
  const long before = allocations;
  int token = 'a', frame = 0;
  for (; frame < 128; ++frame) {
    const auto logits = stepper->step(token);  // one token per frame
    if (!logits) break;
    token = likeliest(*logits);
  }
  //! [frames]
  std::printf("frames %d, allocations %ld\n", frame, allocations - before);

  // The context is used up: an error, not a crash; and the brain starts afresh.
  const auto over = stepper->step(token);
  std::printf("%s\n", over ? "no error" : over.error().message().c_str());
  stepper->reset();
  std::printf("after reset: %s\n", stepper->step('a') ? "goes on" : "stuck");
}
