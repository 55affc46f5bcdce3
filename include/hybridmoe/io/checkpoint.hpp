#pragma once
/// @file checkpoint.hpp
/// Weights alone, for use; and training checkpoints, from which training continues bit for bit: one safetensors file with the
/// weights under their names, the optimizer's moments under "optimizer.first." and "optimizer.second.", and the rest (step, which
/// is also the data cursor and the state of the random numbers; schedule; settings) as metadata. Written beside the old file,
/// synced, renamed over it.

#include <algorithm>
#include <charconv>
#include <cmath>

#include <hybridmoe/io/load.hpp>
#include <hybridmoe/io/safetensors_writer.hpp>
#include <hybridmoe/train/trainer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

namespace checkpoint_detail {

inline constexpr std::string_view format = "hybridmoe checkpoint 3";

/// All of a flat buffer's tensors as a list, names after `prefix`.
template <class Language, class T, class List>
void list_tensors(const Layout& layout, List& list, std::string_view prefix, auto* buffer) {
  Language::template visit<T, Flat>(layout, list, Name{nullptr, prefix, -1}, buffer);
}

/// A double without loss, as printf's %a writes it in the C locale: 0x1.8p+0. (A program may have set another locale, in which
/// printf and scanf want a comma.)
inline std::string exact(double value) {
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, std::fabs(value), std::chars_format::hex).ptr;
  std::string text = std::signbit(value) ? "-" : "";
  if (std::isfinite(value)) text += "0x";
  return text + std::string(digits, end);
}
inline bool parse_number(std::string_view text, Index& value, int base = 10) {
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return fault == std::errc{} && end == text.data() + text.size();
}
/// What exact() wrote of a finite number.
inline bool parse_exact(std::string_view text, double& value) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const std::size_t power = text.find('p');
  if (!text.starts_with("0x") || power == std::string_view::npos) return false;
  std::string_view scale = text.substr(power + 1);
  if (scale.starts_with('+')) scale.remove_prefix(1);
  std::string digits(text.substr(2, power - 2));
  const std::size_t point = (std::min)(digits.find('.'), digits.size());
  digits.erase(point, 1);
  Index mantissa = 0, exponent = 0;
  if (digits.size() > 14 || !parse_number(digits, mantissa, 16) || mantissa < 0) return false;
  if (!parse_number(scale, exponent) || exponent < -1200 || exponent > 1200) return false;
  const auto fraction = static_cast<int>(digits.size() - point);
  value = std::ldexp(static_cast<double>(mantissa), static_cast<int>(exponent) - 4 * fraction);
  if (negative) value = -value;
  return std::isfinite(value);
}

/// What distinguishes models whose tensors may have the same shapes: windows, experts per token, contexts.
template <class Language>
std::string costs_text(const Layout& layout) {
  using Cost = CoreAccount<Language>;
  const Spread active = Cost::active_parameters(layout);
  const Index cache = layout.sum(Cost::layer_cache(Language::context)) * static_cast<Index>(sizeof(float));
  std::string text = numbered("vocabulary ", Language::vocab) + numbered(", width ", Language::width);
  text += numbered(", context ", Language::context);
  text += numbered(", parameters ", Language::template buffer_elements<float, Flat>(layout));
  text += numbered(", active ", active.least) + numbered(" to ", active.most) + numbered(", cache bytes ", cache);
  return text + ", operations " + exact(Cost::flops_per_token(layout, Language::context).training);
}

/// Everything else (heads, encodings, norms): the whole description, as far as one compiler can compare it.
inline constexpr std::string_view description_key = "description";
inline std::string description_setting(const std::string& description) {
  return compiler_text() + ": " + std::to_string(random::hash(description));
}
inline bool same_compiler(std::string_view a, std::string_view b) {
  return a.substr(0, a.rfind(": ")) == b.substr(0, b.rfind(": "));
}

/// What only the model's type knows.
struct Identity {
  std::string pattern, description;
};
template <class Trainer>
Identity identity() {
  return {Trainer::pattern(), description_text<typename Trainer::D>()};
}

/// The groups of parameters, as the rule made them.
inline std::string groups_text(const std::vector<train::Range>& ranges) {
  std::string text;
  for (const train::Range& range : ranges) {
    text += numbered(" ", range.begin) + numbered(" ", range.end);
    for (const double value : {range.group.rate, range.group.decay}) text.append(1, ' ').append(exact(value));
  }
  return std::to_string(random::hash(text));
}

inline std::string budgets_text(const train::Budgets& b) {
  std::string text = b.sampled ? "sampled" : "fixed";
  for (const double value :
       {b.fixed.budget, b.fixed.target, b.twins, b.least, b.at_least, b.at_target, b.price, b.twin_loss, b.gain_loss})
    text.append(1, ' ').append(exact(value));
  return text;
}

/// The settings that must be the same for training to go on bit for bit, as {name, text}.
template <class Language, class T, class Space>
std::vector<std::pair<std::string_view, std::string>> settings(const train::TrainerCore<Language, T, Space>& trainer,
                                                               const Identity& model) {
  const train::Options& o = trainer.options();
  return {{"batch", std::to_string(o.batch)},
          {"length", std::to_string(o.length)},
          {"accumulate", std::to_string(o.accumulate)},
          {"seed", std::to_string(o.seed)},
          {"dropout", exact(static_cast<double>(o.dropout))},
          {"clip", exact(o.clip)},
          {"auxiliary", o.auxiliary ? "yes" : "no"},
          {"beta1", exact(o.optimizer.beta1)},
          {"beta2", exact(o.optimizer.beta2)},
          {"epsilon", exact(o.optimizer.epsilon)},
          {"weight_decay", exact(o.optimizer.weight_decay)},
          {"groups", groups_text(trainer.groups())},
          {"budgets", budgets_text(o.budgets)},
          {"pattern", model.pattern},
          {"model", costs_text<Language>(trainer.model().layout())},
          {description_key, description_setting(model.description)},
          {"text", std::to_string(trainer.text().fingerprint())}};
}

inline std::string schedule_text(const train::Schedule& s) {
  return std::to_string(static_cast<int>(s.shape)) + " " + exact(s.peak) + " " + std::to_string(s.warmup) + " " +
         std::to_string(s.steps) + " " + exact(s.last) + " " + std::to_string(s.decay);
}
inline bool parse_schedule(std::string_view text, train::Schedule& schedule) {
  const auto word = [&text] {
    const std::string_view first = text.substr(0, text.find(' '));
    text.remove_prefix((std::min)(first.size() + 1, text.size()));
    return first;
  };
  train::Schedule s;
  Index shape = -1;
  if (!parse_number(word(), shape) || !parse_exact(word(), s.peak) || !parse_number(word(), s.warmup) ||
      !parse_number(word(), s.steps) || !parse_exact(word(), s.last) || !parse_number(word(), s.decay) || !text.empty() ||
      shape < 0 || shape > 2)
    return false;
  s.shape = static_cast<train::Shape>(shape);
  schedule = s;
  return true;
}

/// The three buffers of a trainer in host memory: weights and both moments.
template <class T>
struct Buffers {
  std::vector<T> weights, first, second;
  explicit Buffers(Index elements) : weights(to_size(elements)), first(to_size(elements)), second(to_size(elements)) {}

  /// All their tensors, of a TensorList or a ConstTensorList.
  template <class Language, class List, class Element>
  List list(const Layout& layout) {
    List list;
    list_tensors<Language, T>(layout, list, {}, static_cast<Element*>(weights.data()));
    list_tensors<Language, T>(layout, list, "optimizer.first", static_cast<Element*>(first.data()));
    list_tensors<Language, T>(layout, list, "optimizer.second", static_cast<Element*>(second.data()));
    return list;
  }
};

template <class Language, class T, class Space>
Status save(const train::TrainerCore<Language, T, Space>& trainer, const Identity& model, std::string path, System& system) {
  Buffers<T> host(trainer.model().size());
  trainer.model().download(host.weights.data());
  trainer.first_moment().copy_out(host.first.data(), trainer.model().size_bytes());
  trainer.second_moment().copy_out(host.second.data(), trainer.model().size_bytes());
  SafetensorsWriter writer;
  const auto list = host.template list<Language, ConstTensorList, const T>(trainer.model().layout());
  writer.add(list);
  writer.metadata("checkpoint", format);
  writer.metadata("step", std::to_string(trainer.steps_done()));
  writer.metadata("schedule", schedule_text(trainer.options().schedule));
  for (const auto& [name, value] : settings(trainer, model)) writer.metadata(name, value);
  return writer.write(std::move(path), Checksums::whole_file, system);
}

/// A file's text for a message: as in_quotes(), without the quotes.
inline std::string readable(std::string_view text) {
  std::string clean = in_quotes(text, 1000).substr(1);
  return clean.erase(clean.rfind('"'), 1);
}

/// Whether a file belongs to a run with the same settings; an error lists those that differ, and tensors that do not fit.
template <class Language, class T, class Space>
Status same_run(const SafetensorsFile& file, const TensorList& list, const train::TrainerCore<Language, T, Space>& trainer,
                const Identity& model) {
  std::string differences;
  for (const auto& [name, value] : settings(trainer, model)) {
    const std::string_view stored = file.metadata(name).value_or("(absent)");
    if (stored == value) continue;
    if (name == description_key && !same_compiler(stored, value)) continue;
    differences += std::string(name) + ": the checkpoint has " + readable(stored) + ", this run " + value + "\n";
  }
  if (differences.empty()) return Done{};
  Result<std::vector<FileTensor>> layout = file_layout(list, own_names);
  if (!layout) return std::move(layout).error();
  if (const Status fits = compare(file, list, own_names, *layout); !fits) differences += fits.error().detail;
  return Error{.code = Code::file_mismatch,
               .what = "the checkpoint belongs to a run with other settings",
               .where = file.path(),
               .detail = std::move(differences)};
}

template <class Language, class T, class Space>
Status load(train::TrainerCore<Language, T, Space>& trainer, const Identity& model, std::string path, System& system) {
  Result<SafetensorsFile> opened = SafetensorsFile::open(std::move(path), system);
  if (!opened) return std::move(opened).error();
  const SafetensorsFile& file = *opened;
  if (file.metadata("checkpoint") != format)
    return Error{.code = Code::file_mismatch,
                 .what = "this is not a training checkpoint of this version",
                 .where = file.path(),
                 .detail = "its \"checkpoint\" entry is " + in_quotes(file.metadata("checkpoint").value_or(""))};
  Buffers<T> host(trainer.model().size());
  const auto list = host.template list<Language, TensorList, T>(trainer.model().layout());
  if (Status same = same_run(file, list, trainer, model); !same) return same;
  Index step = 0;
  train::Schedule schedule = trainer.options().schedule;
  constexpr Index most_steps = 1'000'000'000'000;  // micro-batches are numbered by products of it
  if (!parse_number(file.metadata("step").value_or(""), step) || step < 0 || step > most_steps ||
      !parse_schedule(file.metadata("schedule").value_or(""), schedule))
    return Error{.code = Code::file_damaged, .what = "the checkpoint's step or schedule is unreadable", .where = file.path()};
  if (Status loaded = load_tensors(file, list, own_names); !loaded) return loaded;
  if (Status sound = file.compare_checksum(); !sound) return sound;
  trainer.model().upload(host.weights.data());
  trainer.first_moment().copy_in(host.first.data(), trainer.model().size_bytes());
  trainer.second_moment().copy_in(host.second.data(), trainer.model().size_bytes());
  trainer.resume_at(step, schedule);
  return Done{};
}

}  // namespace checkpoint_detail

/// Writes the weights of a Flat model under their names.
template <class Language, class T, class Space>
Status save_weights(const ModelCore<Language, T, Space, Flat>& model, std::string path, System& system = default_system()) {
  std::vector<T> host(to_size(model.size()));
  model.download(host.data());
  ConstTensorList list;
  checkpoint_detail::list_tensors<Language, T>(model.layout(), list, {}, static_cast<const T*>(host.data()));
  SafetensorsWriter writer;
  writer.add(list);
  writer.metadata("format", "pt");
  return writer.write(std::move(path), Checksums::none, system);
}

/// Fills a Flat model from a file of a family (own_names by default: files of save_weights). On an error, which lists every
/// missing, surplus and misshapen tensor, the model is as before.
template <class Language, class T, class Space>
Status load_weights(ModelCore<Language, T, Space, Flat>& model, std::string path, const Family& family = own_names,
                    System& system = default_system()) {
  Result<SafetensorsFile> file = SafetensorsFile::open(std::move(path), system);
  if (!file) return std::move(file).error();
  std::vector<T> host(to_size(model.size()));
  TensorList list;
  checkpoint_detail::list_tensors<Language, T>(model.layout(), list, {}, host.data());
  if (Status loaded = load_tensors(*file, list, family); !loaded) return loaded;
  model.upload(host.data());
  return Done{};
}

/// Writes a trainer's whole state.
template <class Trainer>
Status save_checkpoint(const Trainer& trainer, std::string path, System& system = default_system()) {
  return checkpoint_detail::save(trainer, checkpoint_detail::identity<Trainer>(), std::move(path), system);
}

/// Continues from a file of save_checkpoint: parameters, moments, step and schedule come from it. Settings and tensors must fit,
/// and its checksum must be right; on an error, which lists everything that does not fit, the trainer is as before.
template <class Trainer>
Status load_checkpoint(Trainer& trainer, std::string path, System& system = default_system()) {
  return checkpoint_detail::load(trainer, checkpoint_detail::identity<Trainer>(), std::move(path), system);
}

}  // namespace hybridmoe::io
