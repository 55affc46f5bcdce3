// The two helpers by which sources and layers that read streams are held to the laws, shown on small ones.

#include <hybridmoe/check/with_sources.hpp>
#include <hybridmoe/layer/source.hpp>
#include <support/laws.hpp>

namespace check = hybridmoe::check;
namespace stream = hybridmoe::stream;
using hybridmoe::Index;
using Env = hybridmoe::Environment<12, 40, 8>;

namespace {

/// c_t = σ(w·(e_t + e_{t−1})), whose state is the last embedding; adds c_t·bias[token] to the stack's input.
struct Blend {
  template <class Env>
  struct Layer {
    static constexpr std::string_view name = "blend";
    static constexpr Index width = Env::width;
    static constexpr bool causal = true, rewinds = false;
    template <class T, class Storage>
    struct Parameters {
      hybridmoe::Array<T, width> weight;
      hybridmoe::Array<T, Env::vocab> bias;
    };
    static void visit(auto&& f, const hybridmoe::Name& at, auto&... p) {
      f(at / "weight", hybridmoe::Trait::gain(0.1f), p.weight...);
      f(at / "bias", hybridmoe::Trait::bias(), p.bias...);
    }
    template <class T>
    struct State {
      hybridmoe::Array<T, width> last;
    };
    template <class T>
    struct Tape {
      T *value, *d;
      constexpr Tape(auto& arena, hybridmoe::Extent e)
          : value(arena.template take<T>(e.rows)), d(e.training ? arena.template take<T>(e.rows) : nullptr) {}
    };
    template <class T, class Storage>
    static constexpr Index workspace_bytes(hybridmoe::Extent) {
      return 0;
    }

    template <class T>
    struct ForwardKernel {
      hybridmoe::Batch batch;
      const T *weight, *bias, *e;
      const std::int32_t* token;
      hybridmoe::States<State<T>> states;
      T *value, *d, *x;
      void operator()(Index s) const {
        for (Index row = batch.begin[s]; row < batch.begin[s + 1]; ++row) {
          const bool start = batch.row_position[row] == 0;
          const T* last = row > batch.begin[s] ? e + (row - 1) * width
                          : states && !start   ? states[batch.slot[s]].last.data
                                               : nullptr;
          T sum = 0;
          for (Index c = 0; c < width; ++c) sum += weight[c] * (e[row * width + c] + (last == nullptr ? T(0) : last[c]));
          value[row] = hybridmoe::math::sigmoid(sum);
          if (d != nullptr) d[row] = 0;
          for (Index c = 0; c < width; ++c) x[row * width + c] += value[row] * bias[token[row]];
        }
        if (states)
          for (Index c = 0; c < width; ++c) states[batch.slot[s]].last[c] = e[(batch.begin[s + 1] - 1) * width + c];
      }
    };
    template <class T>
    struct BackwardKernel {
      hybridmoe::Batch batch;
      const T *weight, *bias, *e, *value, *dx;
      const std::int32_t* token;
      T *d, *de, *d_weight, *d_bias;
      void operator()(Index) const {
        for (Index row = 0; row < batch.rows; ++row) {
          for (Index c = 0; c < width; ++c) {
            d[row] += dx[row * width + c] * bias[token[row]];
            d_bias[token[row]] += dx[row * width + c] * value[row];
          }
          const T slope = d[row] * value[row] * (T(1) - value[row]);
          const bool first = row == batch.begin[batch.row_sequence[row]];
          for (Index c = 0; c < width; ++c) {
            d_weight[c] += slope * (e[row * width + c] + (first ? T(0) : e[(row - 1) * width + c]));
            de[row * width + c] += slope * weight[c];
            if (!first) de[(row - 1) * width + c] += slope * weight[c];
          }
        }
      }
    };

    template <class Space, class T, class Storage>
    static void forward(const hybridmoe::Call<Space>& call, const Parameters<T, Storage>& p,
                        const hybridmoe::SourceInput<T, width>& input, hybridmoe::Rows<T, width> x,
                        hybridmoe::States<State<T>> states, const Tape<T>& tape) {
      call.space.each(call.batch.sequences, ForwardKernel<T>{call.batch, p.weight.data, p.bias.data, input.embedding.data,
                                                             input.token, states, tape.value, tape.d, x.data});
    }
    template <class T>
    static void streams(const Tape<T>& tape, Index, hybridmoe::Side& side) {
      side.set<stream::Complexity>(static_cast<const T*>(tape.value), tape.d, 1);
    }
    template <class Space, class T>
    static void backward(const hybridmoe::Call<Space>& call, const Parameters<T, hybridmoe::Flat>& p,
                         const hybridmoe::SourceInput<T, width>& input, const Tape<T>& tape, hybridmoe::Rows<const T, width> dx,
                         hybridmoe::Rows<T, width> d_embedding, Parameters<T, hybridmoe::Flat>& gradient) {
      call.space.each(1, BackwardKernel<T>{call.batch, p.weight.data, p.bias.data, input.embedding.data, tape.value, dx.data,
                                           input.token, tape.d, d_embedding.data, gradient.weight.data, gradient.bias.data});
    }
    static constexpr hybridmoe::Spread active_parameters() { return {width, width + Env::vocab, width + Env::vocab}; }
    static constexpr hybridmoe::Flops flops_per_token(Index) { return {4.0 * width, 12.0 * width}; }
    static constexpr Index recurrent_elements = width;
    static constexpr Index cache_elements(Index) { return 0; }
  };
};

}  // namespace

TEST_CASE("a source with a state, and what reads its stream, keep the laws") {
  test::laws_everywhere<check::WithSources<check::ReadStreams<check::Drive<stream::Complexity, 1>>, 1, Blend>, Env>();
}

TEST_CASE("streams that are driven by the input keep the laws, given ones too") {
  using Read = check::ReadStreams<check::Drive<stream::Complexity, 1>, check::Drive<stream::Decisions, 9>,
                                  check::Drive<stream::Budget, 1>>;
  test::laws_everywhere<check::Driven<Read, check::Drive<stream::Complexity, 1>, check::Drive<stream::Decisions, 9>,
                                      check::Drive<stream::Budget, 1>>,
                        Env>();
}
