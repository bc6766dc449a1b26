#include "packed.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "kernels.hpp"
#include "ranges.hpp"
#include "team.hpp"

namespace vgf::cpu {
namespace {

void fill_vector(float* to, const float* from, int count, float missing) {
  for (int i = 0; i < count; i++) to[i] = from ? from[i] : missing;
  std::fill(to + count, to + padded(count), 0.0f);
}

}  // namespace

PackedMlp::PackedMlp(const MlpSpec& spec, const std::vector<LayerWeights>& weights, bool gradient, Precision precision,
                     int threads)
    : spec_(spec), gradient_(gradient), bf16_(precision == Precision::bf16) {
  const int depth = spec.layers();
  if (depth < 2 || weights.size() != static_cast<std::size_t>(spec.ensemble) * depth)
    throw std::invalid_argument("pack: expected ensemble * layers weights with at least one hidden layer");
  if (gradient && spec.widths.back() != 1)
    throw std::invalid_argument("pack: a gradient needs a critic, whose last width is 1");
  const Range range("pack", spec.ensemble);

  struct Place {
    std::size_t forward, backward, b, scale, bias, head;
    bool bf16;
  };
  std::vector<Place> places;
  const auto take = [&](std::size_t count) {
    const std::size_t at = floats_;
    floats_ += count;
    return at;
  };
  for (int e = 0; e < spec.ensemble; e++)
    for (int l = 0; l < depth; l++) {
      const std::size_t in = spec.widths[l], out = spec.widths[l + 1];
      const bool last = l + 1 == depth;
      Place p;
      p.bf16 = precision == Precision::bf16 && l > 0 && !last;
      p.forward = take(p.bf16 ? (out + 31) / 32 * in * kPanel : padded(out) * in);
      p.backward = gradient && !last ? take(padded(in) * (p.bf16 ? (out + 1) / 2 : out)) : 0;
      p.b = take(padded(out));
      p.scale = take(padded(out));
      p.bias = take(padded(out));
      p.head = last && out == 1 ? take(padded(in)) : 0;
      places.push_back(p);
    }
  for (int l = 1; l <= depth; l++) max_width_ = std::max(max_width_, padded(spec.widths[l]));
  memory_.reset(static_cast<float*>(std::aligned_alloc(64, (floats_ * sizeof(float) + 63) / 64 * 64)));
  if (!memory_) throw std::bad_alloc();
  float* base = memory_.get();

  layers_.resize(places.size());
  std::vector<PackPanel> panels;
  for (std::size_t i = 0; i < places.size(); i++) {
    const int l = static_cast<int>(i) % depth, in = spec.widths[l], out = spec.widths[l + 1];
    const Place& p = places[i];
    const LayerWeights& from = weights[i];
    layers_[i] = {in, out, base + p.forward, p.backward ? base + p.backward : nullptr, base + p.b, base + p.scale,
                  base + p.bias, p.head ? base + p.head : nullptr, p.bf16};
    const int wide = p.bf16 ? 2 * kPanel : kPanel;
    for (int c = 0; c < out; c += wide)
      panels.push_back({from.W + c * from.stride_out, from.stride_in, from.stride_out, in, out - c,
                        p.bf16 ? PanelLayout::rows16 : PanelLayout::single,
                        base + p.forward + static_cast<long>(c) * in * kPanel / wide});
    const long depth_back = p.bf16 ? (out + 1) / 2 : out;
    for (int c = 0; p.backward && c < in; c += kPanel)
      panels.push_back({from.W + c * from.stride_in, from.stride_out, from.stride_in, out, in - c,
                        p.bf16 ? PanelLayout::pairs : PanelLayout::single, base + p.backward + c * depth_back});
    fill_vector(base + p.b, from.b, out, 0.0f);
    fill_vector(base + p.scale, from.scale, out, 1.0f);
    fill_vector(base + p.bias, from.bias, out, 0.0f);
    for (long k = 0; p.head && k < padded(in); k++) base[p.head + k] = k < in ? from.W[k * from.stride_in] : 0.0f;
  }
  const auto fill = kernels().pack_panel;
  run_team(threads, [&](const Member& member) {
    member.share(static_cast<std::int64_t>(panels.size()), [&](std::int64_t i) { fill(panels[i]); });
  });
}

std::shared_ptr<const PackedMlp> pack(const MlpSpec& spec, const std::vector<LayerWeights>& weights, bool gradient,
                                      Precision precision, int threads) {
  return std::make_shared<const PackedMlp>(spec, weights, gradient, precision, threads);
}

std::size_t packed_bytes(const PackedMlp& mlp) { return mlp.bytes(); }
bool has_gradient(const PackedMlp& mlp) { return mlp.gradient(); }

std::uint64_t fingerprint(const std::vector<std::pair<const void*, std::size_t>>& buffers, int threads) {
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15ull;
  constexpr int kLanes = 8;  // independent running hashes hide the multiplier's latency
  // A bijection of the hash for every word. The rotation keeps changes of high bits (signs) from cancelling.
  const auto mix = [](std::uint64_t hash, std::uint64_t word) {
    hash = (hash ^ word) * kOdd;
    return hash << 31 | hash >> 33;
  };
  std::vector<std::uint64_t> partial(buffers.size());
  const Range range("fingerprint", static_cast<std::int64_t>(buffers.size()));
  run_team(threads, [&](const Member& member) {
    member.share(static_cast<std::int64_t>(buffers.size()), [&](std::int64_t i) {
      const char* bytes = static_cast<const char*>(buffers[i].first);
      const std::size_t size = buffers[i].second;
      std::uint64_t lane[kLanes], word[kLanes];
      for (int j = 0; j < kLanes; j++) lane[j] = j + 1;
      std::size_t at = 0;
      for (; at + sizeof word <= size; at += sizeof word) {
        std::memcpy(word, bytes + at, sizeof word);
        for (int j = 0; j < kLanes; j++) lane[j] = mix(lane[j], word[j]);
      }
      if (at < size) {
        std::memset(word, 0, sizeof word);
        std::memcpy(word, bytes + at, size - at);
        for (int j = 0; j < kLanes; j++) lane[j] = mix(lane[j], word[j]);
      }
      std::uint64_t hash = size;
      for (int j = 0; j < kLanes; j++) hash = mix(hash, lane[j]);
      partial[i] = hash;
    });
  });
  std::uint64_t hash = buffers.size();
  for (std::uint64_t p : partial) hash = mix(hash, p);
  return hash;
}

}  // namespace vgf::cpu
