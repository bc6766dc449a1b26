#include "pack.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace vgf::cuda {
namespace {

constexpr int kAlignment = 128;

class Offsets {
 public:
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t at = next_;
    next_ = round_up(next_ + bytes, kAlignment);
    return at;
  }
  std::int64_t operand(int K, int N, Precision precision) {
    return take(operand_bytes(packed_blocks(K, precision), padded(N)));
  }
  std::int64_t used() const { return next_; }

 private:
  std::int64_t next_ = 0;
};

}  // namespace

Layout lay_out(const MlpSpec& spec, int observations, bool critic, bool gradient, Precision precision) {
  Layout layout;
  Net& net = layout.net;
  net.ensemble = spec.ensemble;
  net.hidden = spec.hidden();
  net.observations = observations;
  net.inputs = spec.widths.front() - observations;
  if (observations < 0 || net.inputs < 1)
    throw std::invalid_argument("a network of " + std::to_string(spec.widths.front()) + " inputs cannot take " +
                                std::to_string(observations) + " observations and an action");
  net.outputs = spec.widths.back();
  net.activation = spec.activation;
  net.norm = spec.norm;
  net.norm_eps = spec.norm_eps;
  net.critic = critic;
  net.gradient = gradient;
  net.members = round_up(net.hidden * std::int64_t{sizeof(PackedLayer)}, kAlignment);
  net.first_width = padded(spec.widths[1]);
  Offsets at;  // within a member
  int below = net.inputs;
  net.observe = at.operand(observations, spec.widths[1], precision);
  for (int l = 0; l < net.hidden; l++) {
    PackedLayer layer{};
    layer.width = spec.widths[l + 1];
    layer.inverse_width = 1.0f / layer.width;
    layer.forward = at.operand(below, layer.width, precision);
    layer.backward = gradient ? at.operand(padded(layer.width), below, precision) : 0;
    layer.vectors = at.take(std::int64_t{3} * padded(layer.width) * sizeof(float));
    below = padded(layer.width);
    net.widest = std::max(net.widest, below);
    net.narrowest = l > 0 ? std::min(net.narrowest, layer.width) : layer.width;
    layout.layers.push_back(layer);
    if (l < Net::kFirstLayers) net.first_layers[l] = layer;
  }
  net.last = critic ? at.take(std::int64_t{below} * sizeof(float)) : at.operand(below, net.outputs, precision);
  net.last_bias = at.take(std::int64_t{padded(net.outputs)} * sizeof(float));
  net.member_bytes = at.used();
  net.bytes = net.members + net.member_bytes * net.ensemble;
  return layout;
}

std::vector<PackJob> pack_jobs(const Layout& layout, const MlpSpec& spec, const std::vector<LayerWeights>& weights) {
  const Net& net = layout.net;
  std::vector<PackJob> jobs;
  for (int e = 0; e < net.ensemble; e++) {
    const std::int64_t member = net.members + e * net.member_bytes;
    const auto operand = [&](const float* from, std::int64_t stride_k, std::int64_t stride_n, std::int64_t to, int K,
                             int depth, int N) {
      if (K > 0) jobs.push_back({from, stride_k, stride_n, member + to, K, depth, N, 0, false});
    };
    const auto vector = [&](const float* from, std::int64_t stride, std::int64_t to, int N, float fill) {
      jobs.push_back({from, 0, stride, member + to, 1, 1, N, fill, true});
    };
    for (int l = 0; l < net.hidden; l++) {
      const LayerWeights& w = weights[e * spec.layers() + l];
      const PackedLayer& layer = layout.layers[l];
      const int skipped = l == 0 ? net.observations : 0, below = spec.widths[l] - skipped;
      const float* rows = w.W + skipped * w.stride_in;
      const int seen = net.observations, depth = l == 0 ? below : padded(below);
      if (l == 0) operand(w.W, w.stride_in, w.stride_out, net.observe, seen, seen, layer.width);
      operand(rows, w.stride_in, w.stride_out, layer.forward, below, depth, layer.width);
      if (net.gradient)
        operand(rows, w.stride_out, w.stride_in, layer.backward, layer.width, padded(layer.width), below);
      const std::int64_t row = std::int64_t{padded(layer.width)} * sizeof(float);
      vector(w.b, 1, layer.vectors, layer.width, 0);
      vector(w.scale, 1, layer.vectors + row, layer.width, 1);
      vector(w.bias, 1, layer.vectors + 2 * row, layer.width, 0);
    }
    const LayerWeights& last = weights[e * spec.layers() + net.hidden];
    const int below = spec.widths[net.hidden];
    if (net.critic)
      vector(last.W, last.stride_in, net.last, below, 0);
    else
      operand(last.W, last.stride_in, last.stride_out, net.last, below, padded(below), net.outputs);
    vector(last.b, 1, net.last_bias, net.outputs, 0);
  }
  return jobs;
}

}  // namespace vgf::cuda
