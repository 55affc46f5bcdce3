#pragma once
/// @file progress.hpp
/// One line that shows how training goes: step, loss, tokens per second, fraction of the machine's peak, time left. On a terminal
/// it is rewritten in place; elsewhere nothing is printed.

#include <chrono>
#include <cstdio>
#include <string>

#include <hybridmoe/core/index.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

/// Seconds since construction.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

inline bool is_terminal([[maybe_unused]] std::FILE* stream) {
#if defined(__unix__) || defined(__APPLE__)
  return isatty(fileno(stream)) != 0;
#else
  return false;
#endif
}

class Progress {
 public:
  /// @param peak_flops  FLOP/s that the machine could reach, for the fraction; 0: leave it out
  explicit Progress(double flops_per_token, double peak_flops = 0, std::FILE* stream = stderr)
      : flops_per_token_(flops_per_token), peak_(peak_flops), stream_(stream), live_(is_terminal(stream)) {}

  /// The line for `step` of `steps`, with `tokens` trained on in `seconds` so far.
  std::string line(Index step, Index steps, double loss, double tokens, double seconds) const {
    const double rate = seconds > 0 ? tokens / seconds : 0;
    char text[160];
    int used = std::snprintf(text, sizeof text, "step %lld/%lld  loss %.4f  %.0f tokens/s", static_cast<long long>(step),
                             static_cast<long long>(steps), loss, rate);
    if (peak_ > 0)
      used += std::snprintf(text + used, sizeof text - static_cast<std::size_t>(used), "  %.0f%% of peak",
                            100 * rate * flops_per_token_ / peak_);
    const double left = step > 0 ? seconds / static_cast<double>(step) * static_cast<double>(steps - step) : 0;
    std::snprintf(text + used, sizeof text - static_cast<std::size_t>(used), "  %.0f s left", left > 0 ? left : 0.0);
    return text;
  }

  void show(Index step, Index steps, double loss, double tokens, double seconds) {
    if (!live_) return;
    std::fprintf(stream_, "\r%s\033[K", line(step, steps, loss, tokens, seconds).c_str());
    std::fflush(stream_);
  }
  /// Ends the line.
  void done() {
    if (live_) std::fputc('\n', stream_);
  }

 private:
  double flops_per_token_, peak_;
  std::FILE* stream_;
  bool live_;
};

}  // namespace hybridmoe::train
