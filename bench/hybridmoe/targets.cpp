// What a performance target q saves: loads a trained full model and reads the held-out part of a text at five targets and two
// budgets β; prints a line of JSON for each, with what was used in the mean and the forward FLOPs that this costs.
//   bench_targets WEIGHTS TEXT [SEED]      (weights: made by arm_full --keep WEIGHTS; the seed is only handed on)
#include <cstdio>
#include <cstdlib>

#include <hybridmoe/io/checkpoint.hpp>

#include "arms.hpp"
#include "measure.hpp"

namespace hm = hybridmoe;
using hm::Index;
using hm::to_size;
using hm::Used;
using M = arms::Full;
using Model = hm::Model<M, hm::f32>;

namespace {

/// Forward FLOPs of one token of full: the accounting's (model/account.hpp), with what the token used in the place of what is
/// nominal. Counted are
///   experts        each that the token went through
///   slices         each of the shared expert that was begun: a part of one costs a whole
///   window         its keys, a part of one costs a whole, and no more than there are so far
/// and as the accounting has them, since they depend neither on budget nor on target: products, attention to all tokens, to key
/// tokens (as many as the store holds) and to segments, norms, sources, the head; each its mean over a sequence. Not counted is
/// the stand-in, which a layer computes for tokens that budget or target took weight from; which these are, layers do not report.
class Forward {
 public:
  template <class T>
  static constexpr double of(const T* used, Index place) {
    double sum = fixed();
    for (Index l = 0; l < M::layer_count; ++l) {
      const T* const layer = used + l * Used::fields;
      const double keys = whole(static_cast<double>(layer[Used::window])), seen = static_cast<double>(place + 1);
      sum += static_cast<double>(layer[Used::experts]) * Channel::expert_flops +
             whole(static_cast<double>(layer[Used::slices])) * Channel::slice_flops + (keys < seen ? keys : seen) * of_key;
    }
    return sum;
  }
  /// The stand-in in every layer: what is missing at most.
  static constexpr double stand_in() {
    return 2.0 * static_cast<double>(Channel::stand_in_parameters) * static_cast<double>(M::layer_count);
  }
  /// A sequence's mean at the nominal choice is the accounting's number, and no choice costs more than its cap.
  static constexpr bool sound() {
    double nominal[M::layer_count * Used::fields] = {}, most[M::layer_count * Used::fields] = {};
    for (Index l = 0; l < M::layer_count; ++l) {
      double *const at = nominal + l * Used::fields, *const above = most + l * Used::fields;
      at[Used::experts] = Channel::RouterLayer::nominal, above[Used::experts] = static_cast<double>(Channel::most);
      at[Used::slices] = above[Used::slices] = static_cast<double>(Channel::slices);
      at[Used::window] = above[Used::window] = windowed(l) ? static_cast<double>(hm::zoo::hybrid_pico.window.most) : 0.0;
    }
    double mean = 0;
    for (Index place = 0; place < CONTEXT; ++place) mean += of(nominal, place) / CONTEXT;
    return mean < 1.000001 * accounted && mean > 0.999999 * accounted &&
           of(most, CONTEXT - 1) + stand_in() <= hm::Account<M>::capped_flops(CONTEXT, 1);
  }

 private:
  using Environment = M::Core::Env;
  using Channel = arms::FullTypes::Channel::Layer<Environment>;
  using Window = arms::FullTypes::Local::Layer<Environment>;
  static constexpr double accounted = hm::Account<M>::flops_per_token(CONTEXT).forward;
  static constexpr double of_key = 4.0 * static_cast<double>(Window::Core::inner);

  static constexpr double whole(double part) {
    const auto below = static_cast<double>(static_cast<Index>(part));
    return below < part ? below + 1 : below;
  }
  static constexpr bool windowed(Index layer) { return M::LayerPattern::letter_at(layer) != 'G'; }
  /// What does not depend on what was used: all less the nominal choice, whose windows are the largest.
  static constexpr double fixed() {
    const double window = Window::flops_per_token(CONTEXT).forward - Window::flops_per_token(1).forward + of_key;
    double sum = accounted;
    for (Index l = 0; l < M::layer_count; ++l)
      sum -= Channel::RouterLayer::nominal * Channel::expert_flops + static_cast<double>(Channel::slices) * Channel::slice_flops +
             (windowed(l) ? window : 0.0);
    return sum;
  }
};
static_assert(Forward::sound());

int fail(const hm::Error& error) { return std::fprintf(stderr, "%s\n", error.message().c_str()), 1; }

/// Sums over the held-out tokens.
struct Seen {
  double loss = 0, flops = 0, used[M::layer_count * Used::fields] = {};
  Index tokens = 0;

  /// The mean of a field over the layers that have it.
  double mean(Index field) const {
    double sum = 0, layers = 0;
    for (Index l = 0; l < M::layer_count; ++l) {
      const double of_layer = used[l * Used::fields + field];
      if (field == Used::window && of_layer == 0) continue;  // attention to all tokens
      sum += of_layer, ++layers;
    }
    return layers > 0 ? sum / layers / static_cast<double>(tokens) : 0;
  }
};

}  // namespace

int main(int count, char** words) {
  if (count < 3) return std::fprintf(stderr, "bench_targets WEIGHTS TEXT [SEED]\n"), 1;
  const long long seed = count > 3 ? std::atoll(words[3]) : 0;
  const auto text = hm::train::Text::read(words[2]);
  if (!text) return fail(text.error());
  Model model{hm::Seed{1}};
  if (const auto loaded = hm::io::load_weights(model, words[1]); !loaded) return fail(loaded.error());
  auto trainer = hm::train::Trainer<Model>::create(model, *text, arms::options<arms::full>(1, 480, 1e-2));
  if (!trainer) return fail(trainer.error());

  for (const double budget : {1.0, 0.5})
    for (const double target : {1.0, 0.75, 0.5, 0.25, 0.0}) {
      Seen seen;
      trainer->observe(0, {budget, target}, [&](const hm::train::Observed<float>& token) {
        seen.flops += Forward::of(token.used, seen.tokens % CONTEXT);
        seen.loss += token.loss;
        for (Index i = 0; i < M::layer_count * Used::fields; ++i) seen.used[i] += static_cast<double>(token.used[i]);
        ++seen.tokens;
      });
      const auto n = static_cast<double>(seen.tokens);
      std::string used;
      for (const double sum : seen.used) measure::append(used, measure::number(sum / n));
      std::printf(
          "{\"budget\":%g,\"target\":%g,\"seed\":%lld,\"loss\":%.6f,\"experts\":%.4f,\"slices\":%.4f,\"window\":%.3f,"
          "\"flops\":%.0f,\"stand_in\":%.0f,\"most_flops\":%.0f,\"tokens\":%.0f,\"used\":[%s]}\n",
          budget, target, seed, seen.loss / n, seen.mean(Used::experts), seen.mean(Used::slices), seen.mean(Used::window),
          seen.flops / n, budget < 1 || target < 1 ? Forward::stand_in() : 0.0, hm::Account<M>::capped_flops(CONTEXT, budget), n,
          used.c_str());
      std::fflush(stdout);
    }
}
