#pragma once
/// @file interrupt.hpp
/// Lets Ctrl-C (SIGINT) and SIGTERM end a training loop between two steps instead of killing it.

#include <csignal>

#include <hybridmoe/core/config.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

/// While one lives, the first signal sets requested(); a second one acts as it did before. Make at most one, in the main program.
class Interrupt {
 public:
  Interrupt() {
    flag() = 0;
    for (int i = 0; i < 2; ++i) previous()[i] = std::signal(signals[i], &handle);
  }
  ~Interrupt() { restore(); }
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool requested() const { return flag() != 0; }

 private:
  using Handler = void (*)(int);
  static constexpr int signals[2] = {SIGINT, SIGTERM};
  static volatile std::sig_atomic_t& flag() {
    static volatile std::sig_atomic_t value = 0;
    return value;
  }
  static Handler* previous() {
    static Handler handlers[2] = {SIG_DFL, SIG_DFL};
    return handlers;
  }
  static void restore() {
    for (int i = 0; i < 2; ++i) std::signal(signals[i], previous()[i]);
  }
  static void handle(int) {
    flag() = 1;
    restore();
  }
};

}  // namespace hybridmoe::train
