#pragma once
/// @file trainer_core.hpp
/// All of a Trainer but the type of its model. Compiled once for all patterns over the same kinds of layer.

#include <chrono>
#include <cmath>

#include <hybridmoe/layer/batch_plan.hpp>
#include <hybridmoe/model/model.hpp>
#include <hybridmoe/train/adamw.hpp>
#include <hybridmoe/train/budgets.hpp>
#include <hybridmoe/train/schedule.hpp>
#include <hybridmoe/train/text.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

struct Options {
  Index batch = 16;      ///< sequences per micro-batch, without twins (budgets)
  Index length = 256;    ///< tokens per sequence
  Index accumulate = 1;  ///< micro-batches per step
  AdamW optimizer{};
  Schedule schedule{};
  GroupRule groups = &by_trait;
  double clip = 1.0;       ///< largest global gradient norm; 0 turns clipping off
  float dropout = 0;       ///< on the embedding and on every sublayer's output
  bool auxiliary = true;   ///< auxiliary losses of routers
  bool recompute = false;  ///< keep only each layer's input and compute activations again in backward
  std::uint64_t seed = 1;  ///< data order, dropout and drawn budgets
  Budgets budgets{};       ///< what rows may spend, for models that choose how much to compute
  double worst_flops = 0;  ///< C(1), set by Trainer::create from the model's type
};

/// What an evaluation saw. Use is per token, averaged over all rows: [fields of Used] of every layer.
struct Evaluation {
  double loss = 0;  ///< nats per token
  std::vector<double> used;
  std::vector<std::vector<double>> loads;  ///< of each layer: the share of tokens that went to each expert; empty without experts
};

/// One token that an evaluation predicted.
template <class T>
struct Observed {
  Index token;          ///< its place in the text
  double loss;          ///< of predicting it, nats
  const T* used;        ///< [layers, Used::fields]: what the layers used for the row that predicted it
  const T* complexity;  ///< c of that row, null in models that do not estimate it
};

struct StepReport {
  Index step = 0;            ///< which step this was, from 0
  double loss = 0;           ///< mean cross-entropy of the batch's targets before the update, without twins, nats per token
  double gradient_norm = 0;  ///< before clipping
  double rate = 0;
};

/// @tparam Language  a LanguageCore
template <class Language, class T_, class Space_>
class TrainerCore {
 public:
  using T = T_;
  using Space = Space_;
  using Parameters = ModelCore<Language, T, Space, Flat>;

  TrainerCore(TrainerCore&&) noexcept;
  TrainerCore& operator=(TrainerCore&&) noexcept;
  ~TrainerCore();

  /// One optimizer step. On NaN or infinity: an error that names the first layer (or tensor) and the step; parameters and moments
  /// stay as they were. Call skip() to go on with the next batch.
  Result<StepReport> step();

  /// Passes over the batch of the current step without an update.
  void skip() { ++step_; }

  /// Mean cross-entropy over the first `windows` validation windows (all if 0), nats per token.
  double evaluate(Index windows = 0, const Condition& condition = {}) { return measure(windows, condition).loss; }
  /// The same, and what the layers used.
  Evaluation measure(Index windows = 0, const Condition& condition = {});
  /// The same, token by token: calls each(Observed<T>), whose pointers are good until it returns.
  template <class Each>
  void observe(Index windows, const Condition& condition, const Each& each);

  Index steps_done() const { return step_; }
  /// Of the text; and rows that are computed for them, twins included.
  Index tokens_per_step() const { return options_.batch * options_.length * options_.accumulate; }
  Index rows_per_step() const { return rows() * options_.accumulate; }
  const Options& options() const { return options_; }
  Parameters& model() { return *model_; }
  const Parameters& model() const { return *model_; }

  // The state that a checkpoint keeps, beside the parameters.
  exec::Buffer<Space>& first_moment() { return first_; }
  exec::Buffer<Space>& second_moment() { return second_; }
  const exec::Buffer<Space>& first_moment() const { return first_; }
  const exec::Buffer<Space>& second_moment() const { return second_; }
  void resume_at(Index step, const Schedule& schedule) {
    step_ = step;
    options_.schedule = schedule;
  }
  /// Which parameters learn at which rate and decay.
  const std::vector<Range>& groups() const { return ranges_; }
  /// What the data order depends on, for comparing runs.
  const Text& text() const { return *text_; }
  /// Changes the schedule of the steps to come.
  void set_schedule(const Schedule& schedule) { options_.schedule = schedule; }

 protected:
  /// Whether a trainer can be made of these; then the memory of its tapes; then the rest; then whether all of that could be had.
  static Status examine(const Parameters& model, const Text& text, const Options& options);
  static Result<exec::Buffer<Space>> reserve(const Parameters& model, const Options& options);
  TrainerCore(Parameters& model, const Text& text, const Options& options, exec::Buffer<Space> arena);
  Status has_memory() const;

 private:
  /// The batch's, and their twins'.
  static Index sequences_of(const Options& options) {
    return options.batch + BudgetDraw::twins_of(options.budgets, options.batch);
  }
  Index sequences() const { return sequences_of(options_); }
  Index rows() const { return sequences() * options_.length; }
  static Index arena_bytes(const Parameters& model, const Options& options, Index sequences) {
    return Language::template training_bytes<T>(model.layout(), Extent{sequences * options.length, sequences, true},
                                                options.recompute);
  }
  static Error out_of_memory(Index bytes) {
    return {Code::out_of_memory, "no memory for gradients, moments and tapes", "training", Error::unset, bytes, {}};
  }
  random::Key key() const { return random::key_of(options_.seed); }
  /// Loads windows: `start` says where a sequence's begins.
  template <class Start>
  void load_windows(Start&& start, Index used = INT64_MAX);
  /// Loads every sequence's budget and target.
  template <class Of>
  void load_conditions(Of&& of);
  /// Rows whose gain from computing is taken, of a draw.
  Twins load_twins(const BudgetDraw& draw);
  double progress() const {
    return options_.schedule.steps > 0 ? static_cast<double>(step_) / static_cast<double>(options_.schedule.steps) : 1.0;
  }
  Index used_width() const { return Used::fields * model_->layout().layers; }
  /// The most experts of a kind of layer.
  static constexpr Index load_width() {
    Index most = 0;
    for (const Index count : Language::Layers::expert_counts()) most = larger(most, count);
    return most;
  }
  std::vector<std::vector<double>> shares(double tokens) const;
  double run(bool learn, Index micro, const Twins& twins, Index counted = 0);
  double sum_of_squares();
  void update(const StepReport& report);
  Error not_finite(const char* otherwise) const;
  std::string first_bad_tensor() const;

  Parameters* model_;
  const Text* text_;
  Options options_;
  exec::Buffer<Space> gradient_, first_, second_, arena_, indices_, tokens_, scalars_;
  std::vector<std::int32_t> host_tokens_;
  std::vector<Range> ranges_;
  std::vector<RuledTensor> ruled_;
  exec::Buffer<Space> errors_, conditions_, twins_, used_, loads_;
  std::vector<T> host_conditions_, host_used_, host_complexity_;
  std::vector<double> host_losses_;
  std::vector<Index> host_twins_;
  Batch batch_{};
  TrainingSight<T> sight_{};
  Index step_ = 0;
};

// Outside the class, so that they are not inline: `extern template` then keeps them out of a unit.

template <class Language, class T_, class Space_>
TrainerCore<Language, T_, Space_>::TrainerCore(TrainerCore&&) noexcept = default;
template <class Language, class T_, class Space_>
TrainerCore<Language, T_, Space_>& TrainerCore<Language, T_, Space_>::operator=(TrainerCore&&) noexcept = default;
template <class Language, class T_, class Space_>
TrainerCore<Language, T_, Space_>::~TrainerCore() = default;

template <class Language, class T_, class Space_>
Status TrainerCore<Language, T_, Space_>::examine(const Parameters& model, const Text& text, const Options& options) {
  if (!model) return Error{Code::bad_argument, "the model has no memory for its parameters", "training"};
  if (options.batch < 1 || options.accumulate < 1)
    return Error{Code::bad_argument, "Options::batch and Options::accumulate must be at least 1"};
  if (options.length < 1 || options.length > Language::context)
    return Error{Code::bad_argument, "Options::length must lie between 1 and the model's context", "training", options.length,
                 Language::context};
  if (!(options.dropout >= 0 && options.dropout < 1)) return Error{Code::bad_argument, "Options::dropout must lie in [0, 1)"};
  const AdamW& o = options.optimizer;
  if (!(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1))
    return Error{Code::bad_argument, "Options::optimizer: beta1 and beta2 must lie in [0, 1)"};
  if (!(static_cast<T>(o.epsilon) > T(0) && math::is_finite(o.epsilon) && o.weight_decay >= 0 && math::is_finite(o.weight_decay)))
    return Error{Code::bad_argument, "Options::optimizer: epsilon must be positive and weight_decay not negative, both finite"};
  if (!(options.clip >= 0)) return Error{Code::bad_argument, "Options::clip must not be negative (0 turns clipping off)"};
  const Schedule& s = options.schedule;
  if (!(s.peak >= 0 && math::is_finite(s.peak) && s.last >= 0 && math::is_finite(s.last)))
    return Error{Code::bad_argument, "Options::schedule: peak and last must be finite numbers and not negative"};
  const Budgets& b = options.budgets;
  for (const double part : {b.fixed.budget, b.fixed.target, b.twins, b.least, b.at_least, b.above, b.at_target})
    if (!(part >= 0 && part <= 1))
      return Error{Code::bad_argument, "Options::budgets: budgets, targets and parts must lie in [0, 1]"};
  if (!(b.lean > 0 && math::is_finite(b.lean)))
    return Error{Code::bad_argument, "Options::budgets: lean must be a finite number above 0"};
  if (!(b.price >= 0 && b.twin_loss >= 0 && b.gain_loss >= 0))
    return Error{Code::bad_argument, "Options::budgets: a price or a weight is negative or not a number"};
  if (Status fits = text.examine(options.length); !fits) return fits;
  for (Index i = 0; i < text.size(); ++i)
    if (text.tokens()[i] < 0 || text.tokens()[i] >= Language::vocab)
      return Error{Code::bad_argument, "the text holds a token outside the model's vocabulary", numbered("token ", i),
                   text.tokens()[i], Language::vocab};
  return Done{};
}

template <class Language, class T_, class Space_>
auto TrainerCore<Language, T_, Space_>::reserve(const Parameters& model, const Options& options) -> Result<exec::Buffer<Space>> {
  constexpr Index beyond = Index{1} << 47;                                                        // any machine's addresses
  if (options.batch > beyond / 2 / arena_bytes(model, options, 1)) return out_of_memory(beyond);  // each may have a twin
  // The largest piece first, so that a request that is out of all proportion ends here.
  const Index bytes = arena_bytes(model, options, sequences_of(options));
  exec::Buffer<Space> arena(model.space(), bytes);
  if (!arena) return out_of_memory(4 * model.size_bytes() + bytes);
  return Result<exec::Buffer<Space>>(std::move(arena));
}

template <class Language, class T_, class Space_>
TrainerCore<Language, T_, Space_>::TrainerCore(Parameters& model, const Text& text, const Options& options,
                                               exec::Buffer<Space> arena)
    : model_(&model),
      text_(&text),
      options_(options),
      gradient_(model.space(), model.size_bytes()),
      first_(model.space(), model.size_bytes()),
      second_(model.space(), model.size_bytes()),
      arena_(std::move(arena)),
      indices_(model.space(), BatchPlan::index_count(rows(), sequences()) * static_cast<Index>(sizeof(Index))),
      tokens_(model.space(), 2 * rows() * static_cast<Index>(sizeof(std::int32_t))),
      scalars_(model.space(), (2 + divide_up(model.size(), update_block)) * static_cast<Index>(sizeof(double))),
      host_tokens_(to_size(2 * rows())),
      conditions_(model.space(), 2 * rows() * static_cast<Index>(sizeof(T))),
      twins_(model.space(), rows() * static_cast<Index>(sizeof(Index))),
      used_(model.space(), rows() * used_width() * static_cast<Index>(sizeof(T))),
      loads_(model.space(), model.layout().layers * load_width() * static_cast<Index>(sizeof(Index))),
      host_conditions_(to_size(2 * rows())),
      host_used_(to_size(rows() * used_width())),
      host_complexity_(to_size(rows())),
      host_losses_(to_size(rows())),
      host_twins_(to_size(rows())) {
  const std::vector<T> layout(to_size(model.size()));
  Language::template visit<T, Flat>(model.layout(), CollectRanges<T>{layout.data(), options_.groups, &ranges_, &ruled_}, Name{},
                                    layout.data());
  const Index errors = ruled_.empty() ? 0 : ruled_.back().errors + ruled_.back().count;
  errors_ = exec::Buffer<Space>(model.space(), errors * static_cast<Index>(sizeof(T)));
  BatchPlan plan(rows(), sequences());
  for (Index b = 0; b < sequences(); ++b) plan.add(b, 0, options_.length);
  if (indices_) indices_.copy_in(plan.data(), plan.count() * static_cast<Index>(sizeof(Index)));
  batch_ = plan.view(indices_.template as<Index>());
}

template <class Language, class T_, class Space_>
Status TrainerCore<Language, T_, Space_>::has_memory() const {
  if (gradient_ && first_ && second_ && arena_ && indices_ && tokens_ && scalars_ && errors_ && conditions_ && twins_ && used_ &&
      loads_)
    return Done{};
  return out_of_memory(4 * model_->size_bytes() + arena_bytes(*model_, options_, sequences()));
}

template <class Language, class T_, class Space_>
Result<StepReport> TrainerCore<Language, T_, Space_>::step() {
  ops::zero(model_->space(), model_->size(), gradient_.template as<T>());
  StepReport report{step_, 0, 0, options_.schedule.rate(step_)};
  for (Index micro = 0; micro < options_.accumulate; ++micro) {
    const Index number = step_ * options_.accumulate + micro;
    const BudgetDraw draw(options_.budgets, key(), static_cast<std::uint64_t>(number), options_.batch);
    load_windows(
        [&](Index b) { return text_->training_window(key(), number * options_.batch + draw.window(b), options_.length); });
    load_conditions([&](Index b) { return draw.of(b); });
    const double loss = run(true, micro, load_twins(draw)) / static_cast<double>(options_.batch * options_.length);
    if (!math::is_finite(loss)) return not_finite("the loss");
    report.loss += loss / static_cast<double>(options_.accumulate);
  }
  const double squares = sum_of_squares();
  report.gradient_norm = std::sqrt(squares);
  if (!math::is_finite(squares)) return not_finite("the gradient's norm");
  update(report);
  ++step_;
  return report;
}

template <class Language, class T_, class Space_>
Evaluation TrainerCore<Language, T_, Space_>::measure(Index windows, const Condition& condition) {
  Evaluation result;
  result.used.assign(to_size(used_width()), 0.0);
  double tokens = 0;
  observe(windows, condition, [&](const Observed<T>& seen) {
    result.loss += seen.loss;
    tokens += 1;
    for (Index i = 0; i < used_width(); ++i) result.used[to_size(i)] += static_cast<double>(seen.used[i]);
  });
  result.loss /= tokens;
  for (double& use : result.used) use /= tokens;
  result.loads = shares(tokens);
  return result;
}

/// What the layers counted, of so many tokens.
template <class Language, class T_, class Space_>
std::vector<std::vector<double>> TrainerCore<Language, T_, Space_>::shares(double tokens) const {
  constexpr auto experts = Language::Layers::expert_counts();
  const Layout layout = model_->layout();
  std::vector<Index> counted(to_size(layout.layers * load_width()));
  loads_.copy_out(counted.data(), loads_.bytes());
  std::vector<std::vector<double>> result(to_size(layout.layers));
  for (Index l = 0; l < layout.layers; ++l)
    for (Index e = 0; e < experts[to_size(layout.slot(l))]; ++e)
      result[to_size(l)].push_back(static_cast<double>(counted[to_size(l * load_width() + e)]) / tokens);
  return result;
}

/// Beside what it calls, it counts in loads_ which experts the tokens went to.
template <class Language, class T_, class Space_>
template <class Each>
void TrainerCore<Language, T_, Space_>::observe(Index windows, const Condition& condition, const Each& each) {
  const Index all = text_->validation_windows(options_.length), length = options_.length;
  const Index count = windows <= 0 ? all : smaller(windows, all);
  load_conditions([&](Index) { return condition; });
  loads_.zero();
  for (Index first = 0; first < count; first += sequences()) {
    const Index now = smaller(sequences(), count - first);
    load_windows([&](Index b) { return text_->validation_window(first + smaller(b, now - 1), length); }, now);
    run(false, 0, {}, now * length);
    exec::Memory<Space>::copy_out(model_->space(), host_losses_.data(), reinterpret_cast<const std::byte*>(sight_.losses),
                                  rows() * static_cast<Index>(sizeof(double)));
    used_.copy_out(host_used_.data(), used_.bytes());
    if (sight_.complexity != nullptr)
      exec::Memory<Space>::copy_out(model_->space(), host_complexity_.data(),
                                    reinterpret_cast<const std::byte*>(sight_.complexity),
                                    rows() * static_cast<Index>(sizeof(T)));
    for (Index row = 0; row < now * length; ++row)
      each(Observed<T>{text_->validation_window(first + row / length, length) + row % length + 1, host_losses_[to_size(row)],
                       host_used_.data() + row * used_width(),
                       sight_.complexity == nullptr ? nullptr : host_complexity_.data() + row});
  }
}

template <class Language, class T_, class Space_>
template <class Of>
void TrainerCore<Language, T_, Space_>::load_conditions(Of&& of) {
  for (Index b = 0; b < sequences(); ++b) {
    const Condition condition = of(b);
    for (Index row = b * options_.length; row < (b + 1) * options_.length; ++row) {
      host_conditions_[to_size(row)] = static_cast<T>(condition.budget);
      host_conditions_[to_size(rows() + row)] = static_cast<T>(condition.target);
    }
  }
  conditions_.copy_in(host_conditions_.data(), conditions_.bytes());
}

template <class Language, class T_, class Space_>
Twins TrainerCore<Language, T_, Space_>::load_twins(const BudgetDraw& draw) {
  const Index length = options_.length, span = draw.twins() * length, beside = options_.batch * length;
  if (span == 0) return {};
  Index gains = 0, *const full = host_twins_.data(), *const low = full + span;
  for (Index twin = 0; twin < draw.twins(); ++twin) {
    if (!draw.at_least(twin)) continue;
    for (Index i = 0; i < length; ++i, ++gains) {
      full[gains] = twin * length + i;
      low[gains] = beside + twin * length + i;
    }
  }
  twins_.copy_in(host_twins_.data(), 2 * span * static_cast<Index>(sizeof(Index)));
  const Index* const where = twins_.template as<Index>();
  return {{0, beside, span}, options_.budgets.twin_loss, where, where + span, gains, options_.budgets.gain_loss};
}

/// Fills tokens and targets; windows beyond `used` get no target.
template <class Language, class T_, class Space_>
template <class Start>
void TrainerCore<Language, T_, Space_>::load_windows(Start&& start, Index used) {
  const std::int32_t* const source = text_->tokens();
  std::int32_t* const token = host_tokens_.data();
  std::int32_t* const target = token + rows();
  for (Index b = 0; b < sequences(); ++b) {
    const Index at = start(b);
    for (Index i = 0; i < options_.length; ++i) {
      token[b * options_.length + i] = source[at + i];
      target[b * options_.length + i] = b < used ? source[at + i + 1] : -1;
    }
  }
  tokens_.copy_in(host_tokens_.data(), 2 * rows() * static_cast<Index>(sizeof(std::int32_t)));
}

/// The summed loss of the loaded windows; with gradients added if `learn`. Experts are counted of the first `counted` rows.
template <class Language, class T_, class Space_>
double TrainerCore<Language, T_, Space_>::run(bool learn, Index micro, const Twins& twins, Index counted) {
  Call<Space> call;
  call.space = model_->space();
  call.batch = batch_;
  call.arena = {arena_.data(), arena_.data() + arena_.bytes()};
  call.training = true;
  const double share = 1.0 / static_cast<double>(options_.accumulate);
  if (learn) {
    const random::Block words = random::draw(key(), 0x64726f70u, static_cast<std::uint64_t>(step_ * options_.accumulate + micro));
    call.noise = {{words.word[0], words.word[1]}, options_.dropout};
    call.auxiliary = options_.auxiliary ? share : 0;
    if (options_.worst_flops > 0) call.price = options_.budgets.price / options_.worst_flops;
  }
  call.progress = learn ? progress() : 1.0;
  const T* const conditions = conditions_.template as<const T>();
  call.side.template set<stream::Budget, T>(conditions, nullptr, 1);
  call.side.template set<stream::Target, T>(conditions + rows(), nullptr, 1);
  call.side.used = learn ? nullptr : used_.data();
  call.side.used_width = used_width();
  if (counted > 0 && load_width() > 0) call.side.loads = {loads_.template as<Index>(), load_width(), counted};
  const std::int32_t* const token = tokens_.template as<std::int32_t>();
  Language::loss_and_gradient(call, model_->layout(), model_->parameters(), token, token + rows(),
                              static_cast<T>(share / static_cast<double>(rows())), options_.recompute,
                              scalars_.template as<double>(), learn ? gradient_.template as<T>() : nullptr, &sight_, twins);
  double loss = 0;
  scalars_.copy_out(&loss, sizeof loss);
  return loss;
}

/// Σ gradient², in an order that does not depend on the number of threads.
template <class Language, class T_, class Space_>
double TrainerCore<Language, T_, Space_>::sum_of_squares() {
  const Space& space = model_->space();
  for (const RuledTensor& r : ruled_)
    space.each(1, TakeErrors<T>{r.count, gradient_.template as<T>() + r.begin, errors_.template as<T>() + r.errors});
  double* const partial = scalars_.template as<double>() + 1;
  const Index blocks = divide_up(model_->size(), update_block);
  space.each(blocks, SquareSums<T>{model_->size(), gradient_.template as<T>(), partial});
  space.each(1, ops::SumInOrder{blocks, partial, partial + blocks});
  double squares = 0;
  scalars_.copy_out(&squares, sizeof squares, (1 + blocks) * static_cast<Index>(sizeof(double)));
  return squares;
}

template <class Language, class T_, class Space_>
void TrainerCore<Language, T_, Space_>::update(const StepReport& report) {
  const AdamW& o = options_.optimizer;
  const auto t = static_cast<double>(step_ + 1);
  const double scale = options_.clip > 0 && report.gradient_norm > options_.clip ? options_.clip / report.gradient_norm : 1.0;
  for (const Range& r : ranges_) {
    const Index count = r.end - r.begin;
    model_->space().each(
        divide_up(count, update_block),
        AdamWKernel<T>{count, gradient_.template as<T>() + r.begin, model_->parameters() + r.begin,
                       first_.template as<T>() + r.begin, second_.template as<T>() + r.begin, static_cast<T>(o.beta1),
                       static_cast<T>(o.beta2), static_cast<T>(o.epsilon), static_cast<T>(report.rate * r.group.rate),
                       static_cast<T>(o.weight_decay * r.group.decay), static_cast<T>(scale),
                       static_cast<T>(1 / (1 - std::pow(o.beta1, t))), static_cast<T>(1 / (1 - std::pow(o.beta2, t)))});
  }
  for (const RuledTensor& r : ruled_)
    if (r.update != Update::frozen)
      model_->space().each(1, FollowRule<T>{r.count, r.update == Update::sign, static_cast<T>(r.rate),
                                            errors_.template as<T>() + r.errors, model_->parameters() + r.begin});
}

/// Where it began: the first layer whose output is not finite, else the first tensor whose gradient is not, else `otherwise`.
template <class Language, class T_, class Space_>
Error TrainerCore<Language, T_, Space_>::not_finite(const char* otherwise) const {
  Error error{Code::not_finite,
              "training met a value that is not a finite number; parameters and optimizer are as before this step",
              numbered("step ", step_),
              Error::unset,
              Error::unset,
              {}};
  const Layout& layout = model_->layout();
  const Index count = rows() * Language::width;
  std::vector<T> host(to_size(count));
  for (Index l = 0; l <= layout.layers; ++l) {
    exec::Memory<Space>::copy_out(model_->space(), host.data(), reinterpret_cast<const std::byte*>(sight_.streams + l * count),
                                  count * static_cast<Index>(sizeof(T)));
    for (const T value : host)
      if (!math::is_finite(value)) {
        error.where += l == 0 ? std::string(", embedding") : numbered(", layers.", l - 1);
        if (l > 0) (error.where += " of kind ") += layout.letter(l - 1);
        return error;
      }
  }
  const std::string tensor = first_bad_tensor();
  error.where += tensor.empty() ? std::string(", ") + otherwise : ", gradient of " + tensor;
  return error;
}

template <class Language, class T_, class Space_>
std::string TrainerCore<Language, T_, Space_>::first_bad_tensor() const {
  std::vector<T> gradient(to_size(model_->size()));
  gradient_.copy_out(gradient.data(), model_->size_bytes());
  std::string first;
  Language::template visit<T, Flat>(
      model_->layout(),
      [&first](const Name& name, const Trait&, const auto& tensor) {
        if (!first.empty()) return;
        for (Index i = 0; i < tensor.size; ++i)
          if (!math::is_finite(tensor.data[i])) {
            first = name.text();
            return;
          }
      },
      Name{}, static_cast<const T*>(gradient.data()));
  return first;
}

}  // namespace hybridmoe::train
