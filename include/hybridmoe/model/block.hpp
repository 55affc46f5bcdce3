#pragma once
/// @file block.hpp
/// A block of the residual stream: h = x + mixer(norm(x)), y = h + channel(norm(h)); or both from one norm, in parallel. What the
/// mixer and the channel mixer give may be normed before it is added.

#include <hybridmoe/channel/nothing.hpp>
#include <hybridmoe/core/options.hpp>
#include <hybridmoe/layer/budget.hpp>
#include <hybridmoe/layer/check.hpp>
#include <hybridmoe/norm/rms_norm.hpp>
#include <hybridmoe/ops/dropout.hpp>
#include <hybridmoe/ops/fill.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI {

namespace block {

struct NormTag {};
struct PostNormTag {};
struct ChannelPostNormTag {};
struct ArrangementTag {};

/// The norm before each sublayer (default norm::Rms<>).
template <class Description>
struct Norm : NormTag {
  using type = Description;
};

/// How large a norm's `weight` after a sublayer starts, as a part of 1/√(2·layers).
inline constexpr float post_gain = 0.03f;

/// A norm of what the mixer gives, before it is added: h = x + post(mixer(norm x)), beside the norm before the mixer (Gemma 2;
/// default none). However small the mixer's output is, the stream grows by the norm's gain. So its tensor named `weight` starts
/// at 0.03/√(2·layers) of what the norm says: then all sublayers together add about 0.03 per element, beside embeddings of 0.02.
/// Started at 1/√(2·layers) or at 1, what they add drowns the embeddings, and training is slower by far (docs/parts/norm.md).
/// A gain of the form 1 + weight (norm::Gain::one_plus_weight) starts at 1 all the same.
template <class Description>
struct PostNorm : PostNormTag {
  using type = Description;
};
/// The same for what the channel mixer gives (default none).
template <class Description>
struct ChannelPostNorm : ChannelPostNormTag {
  using type = Description;
};

/// h = x + mixer(norm₁ x); y = h + channel(norm₂ h): pre-norm (default).
struct Sequential : ArrangementTag {
  static constexpr bool parallel = false;
};
/// y = x + mixer(norm x) + channel(norm x), one norm for both (GPT-J; Falcon's first models; Cohere).
struct Parallel : ArrangementTag {
  static constexpr bool parallel = true;
};

}  // namespace block

/// A mixer over the sequence and a channel mixer per token (channel::Nothing for none). Options: block::Norm<...>,
/// block::PostNorm<...>, block::ChannelPostNorm<...>, block::Parallel.
template <class Mixer_, class Channel_ = channel::Nothing, class... Options>
struct Block {
  static_assert((has_a_tag<Options, block::NormTag, block::PostNormTag, block::ChannelPostNormTag, block::ArrangementTag> && ...),
                "an option of Block is neither block::Norm<...>, block::PostNorm<...>, block::ChannelPostNorm<...> nor an "
                "arrangement");
  using Mixer = Mixer_;
  using Channel = Channel_;
  using NormOption = Option<block::NormTag, block::Norm<norm::Rms<>>, Options...>;
  using PostNormOption = Option<block::PostNormTag, block::PostNorm<channel::Nothing>, Options...>;
  using ChannelPostNormOption = Option<block::ChannelPostNormTag, block::ChannelPostNorm<channel::Nothing>, Options...>;
  static constexpr bool parallel = Option<block::ArrangementTag, block::Sequential, Options...>::parallel;
  static constexpr bool has_channel = !std::is_same_v<Channel, channel::Nothing>;
  static_assert(has_channel || std::is_same_v<typename ChannelPostNormOption::type, channel::Nothing>,
                "block::ChannelPostNorm<...> needs a channel mixer");

  template <class Env>
  struct Layer;
};

/// The layer where a block has no channel mixer or no norm after one: takes no room, does nothing.
struct AbsentLayer {
  template <class T, class Storage>
  struct Parameters {};
  template <class T>
  using State = Stateless;
  template <class T>
  using Tape = Tapeless;
  static constexpr bool causal = true;
  static constexpr Spread active_parameters() { return {}; }
  static constexpr Index recurrent_elements = 0;
  static constexpr Index cache_elements(Index) { return 0; }
  static constexpr Flops flops_per_token(Index) { return {}; }
  template <class T, class Storage>
  static constexpr Index workspace_bytes(Extent) {
    return 0;
  }
};

template <class Description, class Env>
struct BindLayer {
  using type = typename Description::template Layer<Env>;
};
template <class Env>
struct BindLayer<channel::Nothing, Env> {
  using type = AbsentLayer;
};

template <class Mixer_, class Channel_, class... Options>
template <class Env>
struct Block<Mixer_, Channel_, Options...>::Layer {
  using MixerLayer = typename BindLayer<Mixer_, Env>::type;
  using ChannelLayer = typename BindLayer<Channel_, Env>::type;
  using NormLayer = typename NormOption::type::template Layer<Env>;
  using PostLayer = typename BindLayer<typename PostNormOption::type, Env>::type;
  using ChannelPostLayer = typename BindLayer<typename ChannelPostNormOption::type, Env>::type;
  static constexpr bool posted = !std::is_same_v<PostLayer, AbsentLayer>;
  static constexpr bool channel_posted = !std::is_same_v<ChannelPostLayer, AbsentLayer>;
  static constexpr bool two_norms = has_channel && !parallel;
  using ChannelNorm = std::conditional_t<two_norms, NormLayer, AbsentLayer>;
  static constexpr Index width = Env::width;
  static constexpr bool causal = MixerLayer::causal && ChannelLayer::causal;
  static constexpr bool rewinds = hybridmoe::rewinds<MixerLayer> && hybridmoe::rewinds<ChannelLayer>;
  static constexpr Index expert_count = hybridmoe::expert_count<ChannelLayer>;

  template <class T, class Storage>
  struct Parameters {
    [[no_unique_address]] typename NormLayer::template Parameters<T, Storage> mixer_norm;
    [[no_unique_address]] typename MixerLayer::template Parameters<T, Storage> mixer;
    [[no_unique_address]] Optional<!std::is_empty_v<typename PostLayer::template Parameters<T, Storage>>,
                                   typename PostLayer::template Parameters<T, Storage>, 113> mixer_post_norm;
    // Two empty members of one type would need two addresses: norms without weights share one.
    [[no_unique_address]] Optional<two_norms && !std::is_empty_v<typename NormLayer::template Parameters<T, Storage>>,
                                   typename NormLayer::template Parameters<T, Storage>, 110> channel_norm;
    [[no_unique_address]] Optional<has_channel, typename ChannelLayer::template Parameters<T, Storage>, 111> channel;
    [[no_unique_address]] Optional<!std::is_empty_v<typename ChannelPostLayer::template Parameters<T, Storage>>,
                                   typename ChannelPostLayer::template Parameters<T, Storage>, 114> channel_post_norm;
  };

  template <class F, class... P>
  static void visit(F&& f, const Name& at, P&... p) {
    NormLayer::visit(f, at / "mixer_norm", p.mixer_norm...);
    MixerLayer::visit(f, at / "mixer", p.mixer...);
    const auto scaled = [&f](const Name& name, Trait trait, auto&... tensor) {
      if (name.part == "weight") {
        trait.a *= block::post_gain;
        trait.residual = true;
        trait.by_depth = false;
      }
      f(name, trait, tensor...);
    };
    if constexpr (posted) PostLayer::visit(scaled, at / "mixer_post_norm", held<PostLayer>(p, p.mixer_post_norm)...);
    if constexpr (two_norms) NormLayer::visit(f, at / "channel_norm", channel_norm(p)...);
    if constexpr (has_channel) ChannelLayer::visit(f, at / "channel", p.channel...);
    if constexpr (channel_posted)
      ChannelPostLayer::visit(scaled, at / "channel_post_norm", held<ChannelPostLayer>(p, p.channel_post_norm)...);
  }

  template <class T>
  struct State {
    [[no_unique_address]] typename MixerLayer::template State<T> mixer;
    [[no_unique_address]] Optional<!std::is_empty_v<typename ChannelLayer::template State<T>>,
                                   typename ChannelLayer::template State<T>, 112> channel;
  };

  template <class T>
  struct Tape {
    T* mixer_input;
    T* middle;  ///< h, where a channel mixer follows
    T* channel_input;
    T *mixer_output, *channel_output;  ///< where a norm follows
    typename NormLayer::template Tape<T> mixer_norm;
    typename MixerLayer::template Tape<T> mixer;
    typename PostLayer::template Tape<T> mixer_post_norm;
    typename ChannelNorm::template Tape<T> channel_norm;
    typename ChannelLayer::template Tape<T> channel;
    typename ChannelPostLayer::template Tape<T> channel_post_norm;
    HYBRIDMOE_FUNCTION constexpr Tape(auto& arena, Extent e)
        : mixer_input(arena.template take<T>(e.rows * width)),
          middle(two_norms ? arena.template take<T>(e.rows * width) : nullptr),
          channel_input(two_norms ? arena.template take<T>(e.rows * width) : mixer_input),
          mixer_output(posted ? arena.template take<T>(e.rows * width) : nullptr),
          channel_output(channel_posted ? arena.template take<T>(e.rows * width) : nullptr),
          mixer_norm(arena, e),
          mixer(arena, e),
          mixer_post_norm(arena, e),
          channel_norm(arena, e),
          channel(arena, e),
          channel_post_norm(arena, e) {}
  };

  template <class T>
  struct Scratch {
    T *branch, *d_input, *d_middle;
    T* d_output;  ///< by what a norm follows
    HYBRIDMOE_FUNCTION constexpr Scratch(auto& arena, Extent e)
        : branch(arena.template take<T>(e.rows * width)),
          d_input(e.training ? arena.template take<T>(e.rows * width) : nullptr),
          d_middle(e.training ? arena.template take<T>(e.rows * width) : nullptr),
          d_output(e.training && (posted || channel_posted) ? arena.template take<T>(e.rows * width) : nullptr) {}
  };

  template <class T, class Storage>
  static constexpr Index workspace_bytes(Extent e) {
    Index inner = 0;
    for (const Index part :
         {NormLayer::template workspace_bytes<T, Storage>(e), MixerLayer::template workspace_bytes<T, Storage>(e),
          PostLayer::template workspace_bytes<T, Storage>(e), ChannelLayer::template workspace_bytes<T, Storage>(e),
          ChannelPostLayer::template workspace_bytes<T, Storage>(e)})
      inner = larger(inner, part);
    return planned_bytes<Scratch<T>>(e) + inner;
  }

  template <class Space, class T, class Storage>
  HYBRIDMOE_FUNCTION static void forward(const Call<Space>& call, const Parameters<T, Storage>& p, Rows<const T, width> x,
                                         Rows<T, width> y, States<State<T>> states, const Tape<T>& tape) {
    const Index rows = call.batch.rows;
    Arena arena = call.arena;
    const Scratch<T> s(arena, Extent::of(call.batch, call.training));
    const Call<Space> inner = call.with(arena);
    NormLayer::forward(inner, p.mixer_norm, x, Rows<T, width>{tape.mixer_input}, States<Stateless>{}, tape.mixer_norm);
    MixerLayer::forward(inner, p.mixer, Rows<const T, width>{tape.mixer_input},
                        Rows<T, width>{posted ? tape.mixer_output : s.branch},
                        States<typename MixerLayer::template State<T>>{states.base, states.stride}, tape.mixer);
    if constexpr (posted)
      PostLayer::forward(inner, held<PostLayer>(p, p.mixer_post_norm), Rows<const T, width>{tape.mixer_output},
                         Rows<T, width>{s.branch}, States<Stateless>{}, tape.mixer_post_norm);
    T* const h = two_norms ? tape.middle : y.data;
    ops::add_dropped<width>(call.space, rows, x.data, s.branch, h, mask(call, 0));
    if constexpr (has_channel) {
      if constexpr (two_norms)
        NormLayer::forward(inner, channel_norm(p), Rows<const T, width>{h}, Rows<T, width>{tape.channel_input},
                           States<Stateless>{}, tape.channel_norm);
      ChannelLayer::forward(inner, p.channel, Rows<const T, width>{tape.channel_input},
                            Rows<T, width>{channel_posted ? tape.channel_output : s.branch}, channel_states<T>(states),
                            tape.channel);
      if constexpr (channel_posted)
        ChannelPostLayer::forward(inner, held<ChannelPostLayer>(p, p.channel_post_norm),
                                  Rows<const T, width>{tape.channel_output}, Rows<T, width>{s.branch}, States<Stateless>{},
                                  tape.channel_post_norm);
      ops::add_dropped<width>(call.space, rows, h, s.branch, y.data, mask(call, 1));
    }
  }

  template <class Space, class T>
  HYBRIDMOE_FUNCTION static void backward(const Call<Space>& call, const Parameters<T, Flat>& p, Rows<const T, width> x,
                                          const Tape<T>& tape, Rows<const T, width> dy, Rows<T, width> dx,
                                          Parameters<T, Flat>& gradient) {
    const Index rows = call.batch.rows, count = rows * width;
    Arena arena = call.arena;
    const Scratch<T> s(arena, Extent::of(call.batch, true));
    const Call<Space> inner = call.with(arena);
    const Rows<T, width> d_input{s.d_input};
    const T* d_middle = dy.data;
    if constexpr (has_channel) {
      ops::zero(call.space, count, s.d_input);
      ops::add_dropped<width>(call.space, rows, static_cast<const T*>(nullptr), dy.data, s.branch, mask(call, 1));
      if constexpr (channel_posted)
        back_through<ChannelPostLayer>(inner, held<ChannelPostLayer>(p, p.channel_post_norm), tape.channel_output,
                                       tape.channel_post_norm, s.branch, s.d_output,
                                       held<ChannelPostLayer>(gradient, gradient.channel_post_norm));
      ChannelLayer::backward(inner, p.channel, Rows<const T, width>{tape.channel_input}, tape.channel,
                             Rows<const T, width>{channel_posted ? s.d_output : s.branch}, d_input, gradient.channel);
      if constexpr (two_norms) {
        ops::copy(call.space, count, dy.data, s.d_middle);
        NormLayer::backward(inner, channel_norm(p), Rows<const T, width>{tape.middle}, tape.channel_norm,
                            Rows<const T, width>{s.d_input}, Rows<T, width>{s.d_middle}, channel_norm(gradient));
        d_middle = s.d_middle;
      }
    }
    if constexpr (!has_channel || two_norms) ops::zero(call.space, count, s.d_input);
    ops::add_dropped<width>(call.space, rows, static_cast<const T*>(nullptr), d_middle, s.branch, mask(call, 0));
    if constexpr (posted)
      back_through<PostLayer>(inner, held<PostLayer>(p, p.mixer_post_norm), tape.mixer_output, tape.mixer_post_norm, s.branch,
                              s.d_output, held<PostLayer>(gradient, gradient.mixer_post_norm));
    MixerLayer::backward(inner, p.mixer, Rows<const T, width>{tape.mixer_input}, tape.mixer,
                         Rows<const T, width>{posted ? s.d_output : s.branch}, d_input, gradient.mixer);
    NormLayer::backward(inner, p.mixer_norm, x, tape.mixer_norm, Rows<const T, width>{s.d_input}, dx, gradient.mixer_norm);
    ops::add(call.space, count, d_middle, dx.data);
  }

  // Accounting.
  static constexpr Spread active_parameters() {
    const Spread norm = NormLayer::active_parameters();
    return (two_norms ? norm + norm : norm) + PostLayer::active_parameters() + ChannelPostLayer::active_parameters() +
           MixerLayer::active_parameters() + ChannelLayer::active_parameters();
  }
  static constexpr Index recurrent_elements = MixerLayer::recurrent_elements + ChannelLayer::recurrent_elements;
  static constexpr Index cache_elements(Index context) {
    return MixerLayer::cache_elements(context) + ChannelLayer::cache_elements(context);
  }
  static constexpr Flops flops_per_token(Index context) {
    return norm_flops(context) + MixerLayer::flops_per_token(context) + ChannelLayer::flops_per_token(context);
  }
  /// The most forward FLOPs of a token at a budget.
  static constexpr double capped_flops(Index context, double budget) {
    return norm_flops(context).forward + most_flops<MixerLayer>(context, budget) + most_flops<ChannelLayer>(context, budget);
  }

 private:
  static constexpr Flops norm_flops(Index context) {
    const Flops norm = NormLayer::flops_per_token(context);
    return (two_norms ? norm + norm : norm) + PostLayer::flops_per_token(context) + ChannelPostLayer::flops_per_token(context);
  }

  /// The parameters of norm L, which `member` is, or stands for where they are none.
  template <class L, class T, class Storage, class Member>
  HYBRIDMOE_FUNCTION static auto& held(const Parameters<T, Storage>&, Member& member) {
    using P = typename L::template Parameters<T, Storage>;
    if constexpr (std::is_empty_v<P>)
      return reinterpret_cast<std::conditional_t<std::is_const_v<Member>, const P, P>&>(member);
    else
      return member;
  }

  /// dx = the gradient by a norm's input.
  template <class L, class Space, class T>
  HYBRIDMOE_FUNCTION static void back_through(const Call<Space>& call, const typename L::template Parameters<T, Flat>& p,
                                              const T* x, const typename L::template Tape<T>& tape, const T* dy, T* dx,
                                              typename L::template Parameters<T, Flat>& gradient) {
    ops::zero(call.space, call.batch.rows * width, dx);
    L::backward(call, p, Rows<const T, width>{x}, tape, Rows<const T, width>{dy}, Rows<T, width>{dx}, gradient);
  }

  template <class P>
  HYBRIDMOE_FUNCTION static constexpr auto& channel_norm(P& p) {
    if constexpr (std::is_same_v<decltype(p.channel_norm), Absent<110>>)
      return p.mixer_norm;
    else
      return p.channel_norm;
  }

  template <class Space>
  HYBRIDMOE_FUNCTION static ops::DropoutMask mask(const Call<Space>& call, std::uint64_t site) {
    return {call.noise.key, static_cast<std::uint64_t>(call.layer) * 4 + site, call.training ? call.noise.rate : 0.0f};
  }

  template <class T>
  HYBRIDMOE_FUNCTION static auto channel_states(States<State<T>> states) {
    using ChannelState = typename ChannelLayer::template State<T>;
    const Index offset = state_bytes<typename MixerLayer::template State<T>>;
    return States<ChannelState>{states.base == nullptr || std::is_empty_v<ChannelState> ? nullptr : states.base + offset,
                                states.stride};
  }
};

}  // namespace hybridmoe
