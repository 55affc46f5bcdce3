#pragma once
// A whole language model in double from its definitions: one sequence, one row, one head, one expert after the other, with
// nothing of the library but the names of its tensors.

#include <attention/reference.hpp>
#include <map>
#include <ssm/mamba2_reference.hpp>

namespace test {

/// A layer as the reference sees it. Exactly one of attention and scan is used.
struct LayerReference {
  AttentionReference attention{};
  Mamba2Reference* scan = nullptr;
  enum { nothing, swiglu, gelu, experts } channel = nothing;
  std::size_t expert_count = 0, active = 0;
  double balance = 0;       ///< coefficient of the load-balancing loss
  bool shared = false;      ///< a SwiGLU that every token goes through, beside the experts
  bool parallel = false;    ///< mixer and channel mixer from one norm
  bool weightless = false;  ///< norms without gain
  bool centred = false;     ///< LayerNorm with bias instead of RMSNorm
};

struct ModelReference {
  std::size_t vocab, width;
  bool tied, positions;
  std::vector<LayerReference> layers;
  std::map<std::string, Numbers> tensors;
  bool final_weightless = false;
  double auxiliary = 0;  ///< auxiliary losses of the last forward; of whole batches only if all rows are one sequence

  const Numbers& tensor(const std::string& name) const { return tensors.at(name); }

  /// Logits [rows, vocab] of one sequence.
  Numbers forward(const std::vector<std::int32_t>& tokens) {
    Numbers x;
    for (std::size_t t = 0; t < tokens.size(); ++t)
      for (std::size_t i = 0; i < width; ++i)
        x.push_back(tensor("embedding.weight")[static_cast<std::size_t>(tokens[t]) * width + i] +
                    (positions ? tensor("position.weight")[t * width + i] : 0.0));
    auxiliary = 0;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const LayerReference& layer = layers[l];
      const std::string at = "layers." + std::to_string(l) + ".";
      const Numbers first = norm(x, at + "mixer_norm", layer.weightless, layer.centred);
      const Numbers mixed =
          layer.scan != nullptr
              ? scan(*layer.scan, first, at + "mixer.")
              : layer.attention.forward(first, [&](const std::string& n) { return tensor(at + "mixer." + n).data(); });
      Numbers h = x;
      add(h, mixed);
      if (layer.channel == LayerReference::nothing) {
        x = h;
        continue;
      }
      const Numbers second = layer.parallel ? first : norm(h, at + "channel_norm", layer.weightless, layer.centred);
      add(h, channel(layer, second, at + "channel."));
      x = h;
    }
    const Numbers last = norm(x, "final_norm", final_weightless, false);
    return product(last, tied ? "embedding.weight" : "head.weight", width, vocab);
  }

  /// −log softmax(logits)[target], by the definition.
  static double cross_entropy(const double* logits, std::size_t vocab, std::int32_t target) {
    double total = 0;
    for (std::size_t v = 0; v < vocab; ++v) total += std::exp(logits[v]);
    return std::log(total) - logits[target];
  }

 private:
  static void add(Numbers& to, const Numbers& from) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  }

  Numbers norm(const Numbers& x, const std::string& name, bool weightless, bool centred) const {
    Numbers y(x.size());
    for (std::size_t r = 0; r < x.size() / width; ++r) {
      double mean = 0, squares = 0;
      if (centred)
        for (std::size_t i = 0; i < width; ++i) mean += x[r * width + i] / static_cast<double>(width);
      for (std::size_t i = 0; i < width; ++i) squares += std::pow(x[r * width + i] - mean, 2) / static_cast<double>(width);
      for (std::size_t i = 0; i < width; ++i) {
        const double normal = (x[r * width + i] - mean) / std::sqrt(squares + 1e-5);
        y[r * width + i] = normal * (weightless ? 1 : tensor(name + ".weight")[i]) + (centred ? tensor(name + ".bias")[i] : 0);
      }
    }
    return y;
  }

  Numbers product(const Numbers& x, const std::string& weight, std::size_t in, std::size_t out,
                  const std::string& bias = {}) const {
    const Numbers& w = tensor(weight);
    Numbers y(x.size() / in * out, 0.0);
    for (std::size_t r = 0; r < x.size() / in; ++r)
      for (std::size_t o = 0; o < out; ++o) {
        if (!bias.empty()) y[r * out + o] = tensor(bias)[o];
        for (std::size_t i = 0; i < in; ++i) y[r * out + o] += w[o * in + i] * x[r * in + i];
      }
    return y;
  }

  Numbers scan(const Mamba2Reference& shape, const Numbers& x, const std::string& at) const {
    Mamba2Reference mixer = shape;
    for (const char* name : {"input.weight", "convolution.weight", "convolution.bias", "step_bias", "decay_log", "skip",
                             "norm.weight", "output.weight"})
      mixer.named(name) = tensor(at + name);
    return mixer.forward(x);
  }

  Numbers swiglu(const Numbers& x, const std::string& at) const {
    const std::size_t hidden = tensor(at + "gate.weight").size() / width;
    Numbers gate = product(x, at + "gate.weight", width, hidden);
    const Numbers up = product(x, at + "up.weight", width, hidden);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return product(gate, at + "down.weight", hidden, width);
  }

  Numbers gelu(const Numbers& x, const std::string& at) const {
    const std::size_t hidden = tensor(at + "up.weight").size() / width;
    Numbers h = product(x, at + "up.weight", width, hidden, at + "up.bias");
    for (double& v : h) v = 0.5 * v * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v)));
    return product(h, at + "down.weight", hidden, width, at + "down.bias");
  }

  /// Softmax over all experts; the best `active` of them, weights divided by their sum.
  Numbers mixture(const LayerReference& layer, const Numbers& x, const std::string& at) {
    const std::size_t count = layer.expert_count, rows = x.size() / width;
    const Numbers score = product(x, at + "router.weight", width, count);
    Numbers y = layer.shared ? swiglu(x, at + "shared.") : Numbers(x.size(), 0.0);
    Numbers chosen_share(count, 0.0), mean_probability(count, 0.0);
    for (std::size_t r = 0; r < rows; ++r) {
      Numbers probability(count);
      double total = 0, kept = 0;
      for (std::size_t e = 0; e < count; ++e) total += probability[e] = std::exp(score[r * count + e]);
      for (double& p : probability) p /= total;
      std::vector<bool> chosen(count, false);
      for (std::size_t k = 0; k < layer.active; ++k) {
        std::size_t best = count;
        for (std::size_t e = 0; e < count; ++e)
          if (!chosen[e] && (best == count || probability[e] > probability[best])) best = e;
        chosen[best] = true;
        kept += probability[best];
      }
      const Numbers row(x.begin() + static_cast<std::ptrdiff_t>(r * width),
                        x.begin() + static_cast<std::ptrdiff_t>((r + 1) * width));
      for (std::size_t e = 0; e < count; ++e) {
        mean_probability[e] += probability[e] / static_cast<double>(rows);
        if (!chosen[e]) continue;
        chosen_share[e] += 1 / static_cast<double>(rows);
        const Numbers out = swiglu(row, at + "experts." + std::to_string(e) + ".");
        for (std::size_t i = 0; i < width; ++i) y[r * width + i] += probability[e] / kept * out[i];
      }
    }
    for (std::size_t e = 0; e < count; ++e)
      auxiliary += layer.balance * static_cast<double>(count) * chosen_share[e] * mean_probability[e];
    return y;
  }

  Numbers channel(const LayerReference& layer, const Numbers& x, const std::string& at) {
    if (layer.channel == LayerReference::swiglu) return swiglu(x, at);
    if (layer.channel == LayerReference::gelu) return gelu(x, at);
    return mixture(layer, x, at);
  }
};

}  // namespace test
