#pragma once
/// @file fit.hpp
/// The training loop: steps until the schedule ends, with progress, validation and a way to stop.

#include <hybridmoe/train/curve.hpp>
#include <hybridmoe/train/interrupt.hpp>
#include <hybridmoe/train/peak.hpp>
#include <hybridmoe/train/trainer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

struct FitOptions {
  double seconds =
      0;  ///< > 0: choose the schedule's length so that a new run takes about this long; one that goes on keeps its own
  Index validate_every = 0;       ///< steps between validations; 0: about ten times in all
  Index validation_windows = 16;  ///< windows of each of them
  const Interrupt* interrupt = nullptr;
  bool progress = true;
};

struct FitReport {
  Curve curve;
  double seconds = 0;
  Index tokens = 0;
  bool interrupted = false;
  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
  double fraction_of_peak = 0;  ///< of the space's float peak, as peak_flops measures it
};

/// Runs trainer.step() until the schedule's end, an interrupt or an error.
template <class Language, class T, class Space>
Result<FitReport> fit(TrainerCore<Language, T, Space>& trainer, const FitOptions& options) {
  FitReport report;
  const double rows = static_cast<double>(trainer.rows_per_step()) / static_cast<double>(trainer.tokens_per_step()),
               flops = rows * CoreAccount<Language>::flops_per_token(trainer.model().layout(), trainer.options().length).training,
               peak = peak_flops(trainer.model().space());
  Progress progress(flops, peak);
  const Stopwatch watch;
  const Index first = trainer.steps_done();
  // How long a step takes is known after three; the first of them also touches all memory for the first time.
  constexpr Index trial = 3;
  double after_first = 0;
  while (trainer.steps_done() < trainer.options().schedule.steps) {
    if (options.interrupt != nullptr && options.interrupt->requested()) {
      report.interrupted = true;
      break;
    }
    Result<StepReport> step = trainer.step();
    if (!step) return std::move(step).error();
    const Index done = trainer.steps_done();
    report.curve.add_training(step->step, step->loss);
    report.tokens += trainer.tokens_per_step();
    if (done - first == 1) after_first = watch.seconds();
    if (options.seconds > 0 && first == 0 && done == trial) {
      Schedule schedule = trainer.options().schedule;
      const double one = (watch.seconds() - after_first) / (trial - 1);
      schedule.steps = larger(trial, static_cast<Index>((options.seconds - watch.seconds()) / one) + trial);
      schedule.warmup = smaller(schedule.warmup, schedule.steps / 10);
      schedule.decay = smaller(schedule.decay, schedule.steps / 5);
      trainer.set_schedule(schedule);
    }
    const Index steps = trainer.options().schedule.steps;
    const Index every = options.validate_every > 0 ? options.validate_every : larger(1, steps / 10);
    if (done % every == 0 || done == steps) report.curve.add_validation(step->step, trainer.evaluate(options.validation_windows));
    if (options.progress) progress.show(done, steps, step->loss, static_cast<double>(report.tokens), watch.seconds(), first);
  }
  if (options.progress) progress.done();
  report.seconds = watch.seconds();
  report.fraction_of_peak =
      report.seconds > 0 && peak > 0 ? static_cast<double>(report.tokens) * flops / report.seconds / peak : 0;
  return report;
}

}  // namespace hybridmoe::train
