#pragma once
/// @file language_core.hpp
/// A decoder language model without its pattern: its sizes, its final norm, its kinds of layer. All work of a model is done here,
/// by functions that take a Layout and are compiled once for all patterns over the same kinds.

#include <hybridmoe/layer/products.hpp>
#include <hybridmoe/layer/source.hpp>
#include <hybridmoe/model/stack.hpp>
#include <hybridmoe/ops/cross_entropy.hpp>
#include <hybridmoe/ops/embed.hpp>
#include <hybridmoe/ops/gain.hpp>
#include <hybridmoe/ops/twin_cross_entropy.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

/// The outer sizes of a language model.
struct LanguageSizes {
  Index vocab;                     ///< token ids are 0 … vocab−1
  Index width;                     ///< elements of the residual stream
  Index context;                   ///< positions a sequence may have
  bool tied = true;                ///< the head is the embedding's transpose
  bool learned_positions = false;  ///< adds a learned vector per position to the embedding (GPT-2)
  Index chunk = 128;               ///< longest piece of one sequence in one call with a state
  Index rewind = 0;                ///< how many of its last tokens a sequence may take back
};

/// Sequences that stand twice in a training call, at full and at a lower budget: what the lower learns from the full one, and
/// what the complexity learns from what computing more was worth (ops/twin_cross_entropy.hpp, ops/gain.hpp). The loss that the
/// call reports is without the lower ones.
struct Twins {
  ops::TwinSpan span{};                         ///< no twins if its count is 0; the lower rows are the call's last
  double weight = 0;                            ///< of KL(full ‖ low), per token
  const Index *full = nullptr, *low = nullptr;  ///< rows at full and at the least budget whose gain is taken, where kernels read
  Index gains = 0;                              ///< how many; at most half the rows
  double gain_weight = 0;                       ///< of (complexity − squared quantile of the gain)², as a mean
};

/// Where a training call left what may be looked at; valid until the memory of the call is used again.
template <class T>
struct TrainingSight {
  T* streams = nullptr;            ///< [layers + 1][rows, width]: every layer's input, and the last one's output
  const double* losses = nullptr;  ///< [rows] cross-entropy of each row in nats, 0 where it has no target
  const T* complexity = nullptr;   ///< [rows], null in models that do not estimate it
};

/// The descriptions of a model's sources, and how many layers they make streams for (0 where there is no source, so that models
/// of any depth share their core).
template <Index layers, class... Sources>
struct SourcesFor {
  template <class Env, Index vocab>
  using List = SourceList<SourceEnvironment<Env, layers, vocab>, Sources...>;
};

/// @tparam Final      the description of the norm before the head
/// @tparam Sources    a SourcesFor
/// @tparam Blocks...  the kinds of layer; a Layout's slots count them from 0
template <LanguageSizes sizes_, class Final, class Sources_, class... Blocks>
struct LanguageCore {
  static constexpr LanguageSizes sizes = sizes_;
  static constexpr Index vocab = sizes.vocab, width = sizes.width, context = sizes.context,
                         chunk = smaller(sizes.chunk, sizes.context);
  using Env = Environment<width, context, chunk, sizes.rewind>;
  using Layers = Stack<Env, Blocks...>;
  using Sources = typename Sources_::template List<Env, vocab>;
  using FinalLayer = typename Final::template Layer<Env>;

  /// The tensors outside the stack; the layers follow it in the buffer.
  template <class T, class Storage>
  struct Parameters {
    // A tied table is the head's weight, so that inference packs it; lookups read the panels.
    std::conditional_t<sizes.tied, Weight<T, Storage, vocab, width>, Array<T, vocab, width>> embedding;
    [[no_unique_address]] Optional<sizes.learned_positions, Array<T, context, width>, 120> position;
    [[no_unique_address]] typename FinalLayer::template Parameters<T, Storage> final_norm;
    [[no_unique_address]] Optional<!sizes.tied, Weight<T, Storage, vocab, width>, 121> head;
    [[no_unique_address]] Optional<!Sources::empty, typename Sources::template Parameters<T, Storage>, 122> sources;
  };

  template <class T, class Storage>
  static constexpr Index outer_elements = element_count<Parameters<T, Storage>, T>;

  template <class T, class Storage>
  static constexpr Index source_elements = element_count<typename Sources::template Parameters<T, Storage>, T>;

  /// Elements of the parameter buffer (with the padding of packed panels), bytes of one sequence's state.
  template <class T, class Storage>
  static constexpr Index buffer_elements(Layout layout) {
    return outer_elements<T, Storage> + Layers::template all_parameter_elements<T, Storage>(layout);
  }
  template <class T>
  static constexpr Index state_stride(Layout layout) {
    return Sources::template state_size<T> + Layers::template all_state_bytes<T>(layout);
  }

  /// The list of all tensors: f(name, trait, tensor...), for buffers of the given storages walked in step.
  template <class T, class... Storage, class F>
  static void visit(Layout layout, F&& f, const Name& at, auto*... buffer) {
    visit_outer<T>(f, at, *reinterpret_cast<AsConst<decltype(*buffer), Parameters<T, Storage>>*>(buffer)...);
    ((buffer += outer_elements<T, Storage>), ...);
    const Name layers_name = at / "layers";
    for (Index l = 0; l < layout.layers; ++l) visit_slot<0, T, Storage...>(f, layers_name / l, layout.slot(l), buffer...);
  }

  /// How many of its last tokens a sequence may take back: 0 if some layer's state cannot.
  static constexpr Index rewind_limit() {
    return Sources::rewinds && (rewinds<typename Blocks::template Layer<Env>> && ...) ? sizes.rewind : 0;
  }

  // Inference.

  template <class T>
  struct InferencePlan {
    T *a, *b;
    T* embedded;  ///< raw embeddings, for sources
    typename Sources::template Tape<T> sources;
    HYBRIDMOE_FUNCTION constexpr InferencePlan(auto& arena, Extent e)
        : a(arena.template take<T>(e.rows * width)),
          b(arena.template take<T>(e.rows * width)),
          embedded(Sources::empty ? nullptr : arena.template take<T>(e.rows * width)),
          sources(arena, e) {}
  };
  template <class T>
  struct HeadPlan {
    T *selected, *normed;
    typename FinalLayer::template Tape<T> tape;
    HYBRIDMOE_FUNCTION constexpr HeadPlan(auto& arena, Extent wanted)
        : selected(arena.template take<T>(wanted.rows * width)),
          normed(arena.template take<T>(wanted.rows * width)),
          tape(arena, wanted) {}
  };

  /// Scratch of forward for at most e.rows rows in e.sequences sequences, of which at most `wanted` rows get logits.
  template <class T, class Storage>
  static constexpr Index workspace_bytes(Extent e, Index wanted) {
    const Extent w{wanted, e.sequences, false};
    const Index head = planned_bytes<HeadPlan<T>>(w) + larger(product_workspace<T, Storage, vocab, width>(w),
                                                              FinalLayer::template workspace_bytes<T, Storage>(w));
    const Index sources = Sources::template workspace_bytes<T, Storage>(e);
    return planned_bytes<InferencePlan<T>>(e) + larger(larger(Layers::template one_layer_bytes<T, Storage>(e), sources), head);
  }

  /// token[rows] with states → logits[wanted_count, vocab] of the rows listed in wanted (read where the kernels run).
  template <class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, Layout layout, const T* buffer, const std::int32_t* token,
                                         std::byte* states, Index state_stride_bytes, const Index* wanted, Index wanted_count,
                                         T* logits);

  // Training.

  /// Rows of logits that exist at a time.
  static constexpr Index head_rows = 512;

  /// Memory of a training call: the streams, the tapes and all scratch.
  template <class T>
  struct TrainingPlan {
    T *streams, *normed, *d, *other, *logits;
    double *losses, *divergence, *quantile;
    T* embedded;  ///< raw embeddings, for sources
    typename Sources::template Tape<T> sources;
    typename FinalLayer::template Tape<T> tape;
    Arena tapes;
    HYBRIDMOE_FUNCTION constexpr TrainingPlan(auto& arena, Extent e, Index layers, Index layer_tape_bytes)
        : streams(arena.template take<T>((layers + 1) * e.rows * width)),
          normed(arena.template take<T>(e.rows * width)),
          d(arena.template take<T>(e.rows * width)),
          other(arena.template take<T>(e.rows * width)),
          logits(arena.template take<T>(smaller(head_rows, e.rows) * vocab)),
          losses(arena.template take<double>(e.rows + 1)),
          divergence(Sources::empty ? nullptr : arena.template take<double>(e.rows / 2 + 1)),
          quantile(Sources::empty ? nullptr : arena.template take<double>(e.rows / 2 + 1)),
          embedded(Sources::empty ? nullptr : arena.template take<T>(e.rows * width)),
          sources(arena, e),
          tape(arena, e) {
      tapes.next = arena.template take<std::byte>(layer_tape_bytes);
      tapes.end = tapes.next == nullptr ? nullptr : tapes.next + layer_tape_bytes;
    }
  };

  template <class T>
  static constexpr Index training_bytes(Layout layout, Extent e, bool recompute) {
    const Index tapes = recompute ? 0 : Layers::template all_tape_bytes<T>(layout, e);
    const Extent piece{smaller(head_rows, e.rows), e.sequences, true};
    const Index stack = recompute ? Layers::template one_layer_bytes<T, Flat>(e) : Layers::template workspace_bytes<T, Flat>(e);
    const Index head = larger(product_workspace<T, Flat, vocab, width>(piece), FinalLayer::template workspace_bytes<T, Flat>(e));
    const Index sources = Sources::empty ? 0
                                         : larger(Sources::template workspace_bytes<T, Flat>(e),
                                                  ops::GainLoss<exec::Inline, T>::workspace_bytes(e.rows / 2 + 1));
    return planned_bytes<TrainingPlan<T>>(e, layout.layers, tapes) + larger(larger(stack, sources), head);
  }

  /// The summed cross-entropy of target[rows] (nats; rows with target < 0 do not count) goes to loss[0]; unless gradient is null,
  /// scale·∂(sum)/∂parameters is added to it. Whole sequences from position 0. Budgets, targets and the place of usage are the
  /// caller's, in call.side; `sight` may be null.
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void loss_and_gradient(const Call<Space>& call, Layout layout, const T* buffer,
                                                   const std::int32_t* token, const std::int32_t* target,
                                                   std::type_identity_t<T> scale, bool recompute, double* loss,
                                                   std::type_identity_t<T>* gradient,
                                                   TrainingSight<std::type_identity_t<T>>* sight, const Twins& twins = {});

 private:
  template <class Reference, class Target>
  using AsConst = std::conditional_t<std::is_const_v<std::remove_reference_t<Reference>>, const Target, Target>;

  template <class P>
  HYBRIDMOE_FUNCTION static auto& head_of(P& p) {
    if constexpr (sizes.tied)
      return p.embedding;
    else
      return p.head;
  }

  template <class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void embed(const Call<Space>& call, const Parameters<T, Storage>& p, const std::int32_t* token,
                                       T* y) {
    using TableStorage = std::conditional_t<sizes.tied, Storage, Flat>;
    call.space.each(divide_up(call.batch.rows, ops::embed_rows),
                    ops::Embed<T, vocab, width, TableStorage>{call.batch, token, p.embedding.data,
                                                              first_element<const T, sizes.learned_positions>(p.position), y});
  }

  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void head_loss(const Call<Space>& call, const Parameters<T, Flat>& p, const TrainingPlan<T>& s,
                                           const std::int32_t* target, T scale, double* loss, Parameters<T, Flat>* g,
                                           const Twins& twins);
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void learn_gain(const Call<Space>& call, const TrainingPlan<T>& s, const Twins& twins);
  /// Runs the sources on embedded rows and sets their streams in inner.side; x is what they add to.
  template <class Storage, class Space, class T>
  HYBRIDMOE_FUNCTION static void run_sources(Call<Space>& inner, const Parameters<T, Storage>& p, const std::int32_t* token,
                                             T* embedded, T* x, std::byte* states, Index state_stride_bytes,
                                             const typename Sources::template Tape<T>& tape) {
    if constexpr (!Sources::empty) {
      ops::copy(inner.space, inner.batch.rows * width, static_cast<const T*>(x), embedded);
      Sources::forward(inner, p.sources, SourceInput<T, width>{token, {embedded}}, Rows<T, width>{x}, states, state_stride_bytes,
                       tape);
      Sources::template streams<T>(tape, inner.batch.rows, inner.side);
    }
  }
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void drop_embedding(const Call<Space>& call, T* stream);
  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void scatter_embedding(const Call<Space>& call, const std::int32_t* token, const T* d,
                                                   Parameters<T, Flat>& g);

  template <class T, class F, class... P>
  static void visit_outer(F&& f, const Name& at, P&... p) {
    f(at / "embedding" / "weight", Trait::weight(), p.embedding...);
    if constexpr (sizes.learned_positions) f(at / "position" / "weight", Trait::weight(), p.position...);
    FinalLayer::visit(f, at / "final_norm", p.final_norm...);
    if constexpr (!sizes.tied) f(at / "head" / "weight", Trait::weight(), p.head...);
    if constexpr (!Sources::empty) Sources::visit(f, at, p.sources...);
  }

  /// Visits one layer's tensors and moves the buffers on to the next layer's.
  template <int slot, class T, class... Storage, class F>
  static void visit_slot(F&& f, const Name& at, int wanted, auto*&... buffer) {
    if constexpr (slot < Layers::kinds) {
      if (slot != wanted) return visit_slot<slot + 1, T, Storage...>(f, at, wanted, buffer...);
      using Layer = typename Layers::template LayerOf<slot>;
      Layer::visit(f, at,
                   *reinterpret_cast<AsConst<decltype(*buffer), typename Layer::template Parameters<T, Storage>>*>(buffer)...);
      ((buffer += element_count<typename Layer::template Parameters<T, Storage>, T>), ...);
    }
  }
};

}  // namespace hybridmoe

#include <hybridmoe/model/language_forward.hpp>
#include <hybridmoe/model/language_training.hpp>
