#pragma once
/// @file progress.hpp
/// One line that shows how training goes: step, loss, tokens per second, fraction of the machine's peak, time left. On a terminal
/// it is rewritten in place; elsewhere nothing is printed.

#include <chrono>
#include <cmath>
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

  /// The line for `step` of `steps`, with `tokens` trained on in `seconds`.
  /// @param first  steps that were done before these seconds began (a run that goes on)
  std::string line(Index step, Index steps, double loss, double tokens, double seconds, Index first = 0) const {
    const double rate = seconds > 0 ? tokens / seconds : 0;
    std::string text = "step " + std::to_string(step) + "/" + std::to_string(steps);
    append(text, std::fabs(loss) < 1e6 ? "  loss %.4f" : "  loss %.4g", loss);
    append(text, "  %.0f tokens/s", rate);
    if (peak_ > 0) append(text, "  %.0f%% of peak", 100 * rate * flops_per_token_ / peak_);
    const double left = step > first ? seconds / static_cast<double>(step - first) * static_cast<double>(steps - step) : 0;
    append(text, "  %.0f s left", left > 0 ? left : 0.0);
    return text;
  }

  void show(Index step, Index steps, double loss, double tokens, double seconds, Index first = 0) {
    if (!live_) return;
    std::fprintf(stream_, "\r%s\033[K", line(step, steps, loss, tokens, seconds, first).c_str());
    std::fflush(stream_);
  }
  /// Ends the line.
  void done() {
    if (live_) std::fputc('\n', stream_);
  }

 private:
  static void append(std::string& text, const char* format, double value) {
    char piece[48];
    std::snprintf(piece, sizeof piece, format, value);
    text += piece;
  }

  double flops_per_token_, peak_;
  std::FILE* stream_;
  bool live_;
};

}  // namespace hybridmoe::train
