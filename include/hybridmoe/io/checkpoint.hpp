#pragma once
/// @file checkpoint.hpp
/// Weights alone, for use; and training checkpoints, from which training continues bit for bit: one safetensors file with the
/// weights under their names, the optimizer's moments under "optimizer.first." and "optimizer.second.", and the rest (step, which
/// is also the data cursor and the state of the random numbers; schedule; settings) as metadata. Written beside the old file,
/// synced, renamed over it.

#include <cstdlib>

#include <hybridmoe/io/load.hpp>
#include <hybridmoe/io/safetensors_writer.hpp>
#include <hybridmoe/train/trainer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

namespace checkpoint_detail {

inline constexpr std::string_view format = "hybridmoe checkpoint 2";

/// All of a flat buffer's tensors as a list, names after `prefix`.
template <class D, class T, class List>
void list_tensors(List& list, std::string_view prefix, auto* buffer) {
  D::template visit<T, Flat>(list, Name{nullptr, prefix, -1}, buffer);
}

/// A double without loss.
inline std::string exact(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%a", value);
  return text;
}

/// What distinguishes models whose tensors may have the same shapes: windows, experts per token, contexts.
template <class D>
std::string costs_text() {
  using Cost = Account<D>;
  const Spread active = Cost::active_parameters();
  std::string text = numbered("vocabulary ", D::vocab) + numbered(", width ", D::width) + numbered(", context ", D::context);
  text += numbered(", parameters ", Cost::parameters()) + numbered(", active ", active.least) + numbered(" to ", active.most);
  text += numbered(", cache bytes ", Cost::template cache_bytes<float>(D::context));
  return text + ", operations " + exact(Cost::flops_per_token(D::context).training);
}

/// Everything else (heads, encodings, norms): the whole description, as far as one compiler can compare it.
inline constexpr std::string_view description_key = "description";
template <class D>
std::string description_setting() {
  return compiler_text() + ": " + std::to_string(random::hash(description_text<D>()));
}
inline bool same_compiler(std::string_view a, std::string_view b) {
  return a.substr(0, a.rfind(": ")) == b.substr(0, b.rfind(": "));
}

/// The groups of parameters, as the rule made them.
template <class Trainer>
std::string groups_text(const Trainer& trainer) {
  std::string text;
  for (const train::Range& range : trainer.groups()) {
    text += numbered(" ", range.begin) + numbered(" ", range.end);
    text += " " + exact(range.group.rate) + " " + exact(range.group.decay);
  }
  return std::to_string(random::hash(text));
}

/// The settings that must be the same for training to go on bit for bit, as {name, text}.
template <class Trainer>
std::vector<std::pair<std::string_view, std::string>> settings(const Trainer& trainer) {
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
          {"groups", groups_text(trainer)},
          {"pattern", trainer.pattern()},
          {"model", costs_text<typename Trainer::D>()},
          {description_key, description_setting<typename Trainer::D>()},
          {"text", std::to_string(trainer.text().fingerprint())}};
}

inline std::string schedule_text(const train::Schedule& s) {
  return std::to_string(static_cast<int>(s.shape)) + " " + exact(s.peak) + " " + std::to_string(s.warmup) + " " +
         std::to_string(s.steps) + " " + exact(s.last) + " " + std::to_string(s.decay);
}
inline bool parse_schedule(const std::string& text, train::Schedule& s) {
  int shape = -1;
  long long warmup = 0, steps = 0, decay = 0;
  if (std::sscanf(text.c_str(), "%d %la %lld %lld %la %lld", &shape, &s.peak, &warmup, &steps, &s.last, &decay) != 6 ||
      shape < 0 || shape > 2)
    return false;
  s.shape = static_cast<train::Shape>(shape);
  s.warmup = warmup;
  s.steps = steps;
  s.decay = decay;
  return true;
}
inline bool parse_number(std::string_view text, Index& value) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string_view::npos) return false;
  value = std::atoll(std::string(text).c_str());
  return true;
}

}  // namespace checkpoint_detail

/// Writes the weights of a Flat model under their names.
template <class Model>
Status save_weights(const Model& model, std::string path, System& system = default_system()) {
  using T = typename Model::Element;
  std::vector<T> host(to_size(Model::elements));
  model.download(host.data());
  ConstTensorList list;
  checkpoint_detail::list_tensors<typename Model::Description, T>(list, {}, static_cast<const T*>(host.data()));
  SafetensorsWriter writer;
  writer.add(list);
  writer.metadata("format", "pt");
  return writer.write(std::move(path), Checksums::none, system);
}

/// Fills a Flat model from a file of a family (own_names by default: files of save_weights). On an error, which lists every
/// missing, surplus and misshapen tensor, the model is as before.
template <class Model>
Status load_weights(Model& model, std::string path, const Family& family = own_names, System& system = default_system()) {
  using T = typename Model::Element;
  Result<SafetensorsFile> file = SafetensorsFile::open(std::move(path), system);
  if (!file) return std::move(file).error();
  std::vector<T> host(to_size(Model::elements));
  TensorList list;
  checkpoint_detail::list_tensors<typename Model::Description, T>(list, {}, host.data());
  if (Status loaded = load_tensors(*file, list, family); !loaded) return loaded;
  model.upload(host.data());
  return Done{};
}

/// Writes a trainer's whole state.
template <class Trainer>
Status save_checkpoint(const Trainer& trainer, std::string path, System& system = default_system()) {
  using T = typename Trainer::T;
  using D = typename Trainer::D;
  const auto elements = to_size(D::template buffer_elements<T, Flat>());
  std::vector<T> weights(elements), first(elements), second(elements);
  const Index bytes = to_index(elements * sizeof(T));
  trainer.model().download(weights.data());
  trainer.first_moment().copy_out(first.data(), bytes);
  trainer.second_moment().copy_out(second.data(), bytes);
  ConstTensorList list;
  checkpoint_detail::list_tensors<D, T>(list, {}, static_cast<const T*>(weights.data()));
  checkpoint_detail::list_tensors<D, T>(list, "optimizer.first", static_cast<const T*>(first.data()));
  checkpoint_detail::list_tensors<D, T>(list, "optimizer.second", static_cast<const T*>(second.data()));
  SafetensorsWriter writer;
  writer.add(list);
  writer.metadata("checkpoint", checkpoint_detail::format);
  writer.metadata("step", std::to_string(trainer.steps_done()));
  writer.metadata("schedule", checkpoint_detail::schedule_text(trainer.options().schedule));
  for (const auto& [name, value] : checkpoint_detail::settings(trainer)) writer.metadata(name, value);
  return writer.write(std::move(path), Checksums::whole_file, system);
}

/// Continues from a file of save_checkpoint: parameters, moments, step and schedule come from it. Settings and tensors must fit,
/// and its checksum must be right; on an error, which lists everything that does not fit, the trainer is as before.
template <class Trainer>
Status load_checkpoint(Trainer& trainer, std::string path, System& system = default_system()) {
  using T = typename Trainer::T;
  using D = typename Trainer::D;
  Result<SafetensorsFile> opened = SafetensorsFile::open(std::move(path), system);
  if (!opened) return std::move(opened).error();
  const SafetensorsFile& file = *opened;
  if (file.metadata("checkpoint") != checkpoint_detail::format)
    return Error{.code = Code::file_mismatch,
                 .what = "this is not a training checkpoint of this version",
                 .where = file.path(),
                 .detail = "its \"checkpoint\" entry is \"" + std::string(file.metadata("checkpoint").value_or("")) + "\""};
  const auto elements = to_size(D::template buffer_elements<T, Flat>());
  std::vector<T> weights(elements), first(elements), second(elements);
  TensorList list;
  checkpoint_detail::list_tensors<D, T>(list, {}, weights.data());
  checkpoint_detail::list_tensors<D, T>(list, "optimizer.first", first.data());
  checkpoint_detail::list_tensors<D, T>(list, "optimizer.second", second.data());

  std::string differences;
  for (const auto& [name, value] : checkpoint_detail::settings(trainer)) {
    const std::string_view stored = file.metadata(name).value_or("(absent)");
    if (stored == value) continue;
    if (name == checkpoint_detail::description_key && !checkpoint_detail::same_compiler(stored, value)) continue;
    differences += std::string(name) + ": the checkpoint has " + std::string(stored) + ", this run " + value + "\n";
  }
  if (!differences.empty()) {
    Result<std::vector<FileTensor>> layout = file_layout(list, own_names);
    if (!layout) return std::move(layout).error();
    if (const Status fits = compare(file, list, own_names, *layout); !fits) differences += fits.error().detail;
    return Error{.code = Code::file_mismatch,
                 .what = "the checkpoint belongs to a run with other settings",
                 .where = file.path(),
                 .detail = std::move(differences)};
  }
  Index step = 0;
  train::Schedule schedule = trainer.options().schedule;
  if (!checkpoint_detail::parse_number(file.metadata("step").value_or(""), step) ||
      !checkpoint_detail::parse_schedule(std::string(file.metadata("schedule").value_or("")), schedule))
    return Error{.code = Code::file_damaged, .what = "the checkpoint's step or schedule is unreadable", .where = file.path()};
  if (Status loaded = load_tensors(file, list, own_names); !loaded) return loaded;
  if (Status sound = file.compare_checksum(); !sound) return sound;
  const Index bytes = to_index(elements * sizeof(T));
  trainer.model().upload(weights.data());
  trainer.first_moment().copy_in(first.data(), bytes);
  trainer.second_moment().copy_in(second.data(), bytes);
  trainer.resume_at(step, schedule);
  return Done{};
}

}  // namespace hybridmoe::io
