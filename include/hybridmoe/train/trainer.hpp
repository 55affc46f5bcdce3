#pragma once
/// @file trainer.hpp
/// Trains a model on windows of a text: gradients, accumulation, clipping, AdamW, evaluation. Everything random is a function of
/// (seed, step), so a trainer's whole state is its parameters, two moments and the step.

#include <hybridmoe/train/trainer_core.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::train {

/// Trains `Model` (Flat storage). Keeps a reference to the model and to the text.
template <class Model>
class Trainer : public TrainerCore<typename Model::Language, typename Model::Element, typename Model::Space> {
  using Base = TrainerCore<typename Model::Language, typename Model::Element, typename Model::Space>;

 public:
  using D = typename Model::Description;

  /// Checks the options and takes all memory: nothing is allocated later.
  static Result<Trainer> create(Model& model, const Text& text, const Options& options) {
    if (Status sound = Base::examine(model, text, options); !sound) return std::move(sound).error();
    Options complete = options;
    complete.worst_flops = Model::Cost::capped_flops(options.length, 1.0);
    Result<exec::Buffer<typename Model::Space>> arena = Base::reserve(model, complete);
    if (!arena) return std::move(arena).error();
    Trainer trainer(model, text, complete, std::move(*arena));
    if (Status held = trainer.has_memory(); !held) return std::move(held).error();
    return Result<Trainer>(std::move(trainer));
  }

  Model& model() { return static_cast<Model&>(Base::model()); }
  const Model& model() const { return static_cast<const Model&>(Base::model()); }
  /// The model's pattern, for comparing runs.
  static std::string pattern() { return std::string(D::LayerPattern::text()) + " " + std::to_string(D::layer_count); }

 private:
  Trainer(Model& model, const Text& text, const Options& options, exec::Buffer<typename Model::Space> arena)
      : Base(model, text, options, std::move(arena)) {}
};

}  // namespace hybridmoe::train
