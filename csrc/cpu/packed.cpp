#include "packed.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "ranges.hpp"
#include "team.hpp"

namespace vgf::cpu {
namespace {

void fill_vector(float* to, const float* from, int count, float missing) {
  for (int i = 0; i < count; i++) to[i] = from ? from[i] : missing;
  std::fill(to + count, to + padded(count), 0.0f);
}

}  // namespace

PackedMlp::PackedMlp(const MlpSpec& spec, bool gradient) : spec_(spec), gradient_(gradient) {
  if (spec.layers() < 2) throw std::invalid_argument("pack: expected at least one hidden layer");
  if (gradient && spec.widths.back() != 1)
    throw std::invalid_argument("pack: a gradient needs a critic, whose last width is 1");
  for (int l = 1; l <= spec.layers(); l++) max_width_ = std::max(max_width_, padded(spec.widths[l]));
}

PackedMlp::PackedMlp(const MlpSpec& spec, bool gradient, Precision precision, float* memory,
                     const std::vector<LayerWeights>* borrowed)
    : PackedMlp(spec, gradient) {
  memory_ = memory;
  if (!memory_) {
    lay_out(precision, nullptr, borrowed);  // counts
    own_ = borrowed ? kept_memory(bytes()) : allocate(bytes());
    memory_ = own_.get();
  }
  lay_out(precision, memory_, borrowed);
}

std::size_t PackedMlp::bytes(const MlpSpec& spec, bool gradient, Precision precision) {
  PackedMlp counted(spec, gradient);
  counted.lay_out(precision, nullptr, nullptr);
  return counted.bytes();
}

PackedMlp::PackedMlp(const PackedMlp& ensemble, int member)
    : spec_(ensemble.spec_),
      gradient_(ensemble.gradient_),
      max_width_(ensemble.max_width_),
      floats_(ensemble.floats_ / ensemble.spec_.ensemble),
      own_(ensemble.own_),
      memory_(ensemble.memory_),
      finite_{ensemble.finite_[member]} {
  const auto first = ensemble.layers_.begin() + member * spec_.layers();
  layers_.assign(first, first + spec_.layers());
  spec_.ensemble = 1;
}

void PackedMlp::lay_out(Precision precision, const float* base, const std::vector<LayerWeights>* borrowed) {
  layers_.clear();
  floats_ = 0;
  const auto take = [&](long count) {
    const float* at = base ? base + floats_ : nullptr;
    floats_ += static_cast<std::size_t>(count);
    return at;
  };
  finite_.clear();
  for (int e = 0; e < spec_.ensemble; e++) {
    for (int l = 0; l < spec_.layers(); l++) {
      const bool last = l + 1 == spec_.layers();
      PackedLayer layer{};
      layer.in = spec_.widths[l];
      layer.out = spec_.widths[l + 1];
      const bool between = precision == Precision::bf16 && l > 0 && !last;
      layer.bf16 = between && kernels().bf16.forward;
      layer.rounded = between && !layer.bf16;
      layer.pulls = kernels().pull && l > 0 && !layer.bf16;
      const PanelLayout floats = layer.rounded ? PanelLayout::rounded : PanelLayout::single;
      layer.forward = {layer.bf16 ? kernels().bf16.layout : floats, layer.in, layer.out};
      const LayerWeights* there = borrowed ? &(*borrowed)[e * spec_.layers() + l] : nullptr;
      if (there && there->stride_out == 1 && layer.out % kPanel == 0 && !between) {
        layer.forward.first = there->W;
        layer.forward.borrowed = there->stride_in;
      } else {
        layer.forward.first = take(layer.forward.floats());
      }
      layer.backward = {layer.bf16 ? PanelLayout::pairs : floats, layer.out, layer.in};
      if (gradient_ && !last && !layer.pulls) layer.backward.first = take(layer.backward.floats());
      for (const float** part : {&layer.b, &layer.scale, &layer.bias}) *part = take(padded(layer.out));
      if (last && layer.out == 1) layer.head = take(padded(layer.in));
      layers_.push_back(layer);
    }
    finite_.push_back(take(padded(1)));
  }
}

void PackedMlp::fill(const std::vector<LayerWeights>& weights, int threads, bool looks) {
  if (weights.size() != layers_.size()) throw std::invalid_argument("pack: expected ensemble * layers weights");
  const Range range("pack", spec_.ensemble);
  looks = looks || gradient_;
  struct Task {
    PackPanel panel;
    int member;
    bool finite;
  };
  std::vector<Task> tasks;
  for (int e = 0; e < spec_.ensemble; e++) {
    const auto add = [&](const Panels& p, const float* W, std::ptrdiff_t stride_k, std::ptrdiff_t stride_c) {
      for (int i = 0; i < p.count(); i++) {
        const int column = i * p.width();
        if (p.first) std::fill_n(writable(p.first + (i + 1) * p.panel() - kPanel), kPanel, 0.0f);  // what parts panels
        const PackPanel panel{W + column * stride_c, stride_k, stride_c, p.depth, p.columns - column, p.layout,
                              p.first ? writable(p.first + i * p.panel()) : nullptr};
        tasks.push_back({panel, e, true});
      }
    };
    for (int l = 0; l < spec_.layers(); l++) {
      const PackedLayer& to = layer(e, l);
      const LayerWeights& from = weights[e * spec_.layers() + l];
      if (!to.forward.borrowed) add(to.forward, from.W, from.stride_in, from.stride_out);
      if (to.backward.first || (to.forward.borrowed && looks))
        add(to.backward, from.W, from.stride_out, from.stride_in);
      fill_vector(writable(to.b), from.b, to.out, 0.0f);
      fill_vector(writable(to.scale), from.scale, to.out, 1.0f);
      fill_vector(writable(to.bias), from.bias, to.out, 0.0f);
      for (long k = 0; to.head && k < padded(to.in); k++)
        writable(to.head)[k] = k < to.in ? from.W[k * from.stride_in] : 0.0f;
    }
    *writable(finite_[e]) = looks;
    *writable(finite_[e] + 1) = stamp();
  }
  const auto pack_panel = kernels().pack_panel;
  share_tasks(threads, static_cast<std::int64_t>(tasks.size()),
              [&](std::int64_t i) { tasks[i].finite = pack_panel(tasks[i].panel); });
  for (const Task& task : tasks)
    if (!task.finite) *writable(finite_[task.member]) = 0;
}

// Differs where panels lie otherwise: in another version, or for another instruction set.
float PackedMlp::stamp() const {
  constexpr int kVersion = 1002, kPulls = 4;
  PanelLayout layout = PanelLayout::single;
  bool pulls = false;
  for (const PackedLayer& layer : layers_) {
    layout = std::max(layout, layer.forward.layout);
    pulls = pulls || layer.pulls;
  }
  return static_cast<float>(kVersion + static_cast<int>(layout) + (pulls ? kPulls : 0));
}

void PackedMlp::check() const {
  for (const float* finite : finite_)
    if (finite[1] != stamp())
      throw std::invalid_argument(
          "packed weights: expected those that this version of vgf-kernels packs on this machine's instruction set, got "
          "others; pack the network here");
}

std::shared_ptr<const PackedMlp> pack(const MlpSpec& spec, const std::vector<LayerWeights>& weights, bool gradient,
                                      Precision precision, int threads) {
  const auto packed = std::make_shared<PackedMlp>(spec, gradient, precision);
  packed->fill(weights, threads);
  return packed;
}

std::size_t packed_bytes(const MlpSpec& spec, bool gradient, Precision precision) {
  return PackedMlp::bytes(spec, gradient, precision);
}

void pack_into(float* memory, const MlpSpec& spec, const std::vector<LayerWeights>& weights, bool gradient,
               Precision precision, int threads) {
  PackedMlp(spec, gradient, precision, memory).fill(weights, threads);
}

std::shared_ptr<const PackedMlp> packed_at(const float* memory, const MlpSpec& spec, bool gradient,
                                           Precision precision) {
  const auto packed = std::make_shared<const PackedMlp>(spec, gradient, precision, const_cast<float*>(memory));
  packed->check();
  return packed;
}

std::shared_ptr<const PackedMlp> borrow(const MlpSpec& spec, const std::vector<LayerWeights>& weights, bool gradient,
                                        bool often, int threads) {
  const auto packed = std::make_shared<PackedMlp>(spec, gradient, Precision::fp32, nullptr, &weights);
  packed->fill(weights, threads, often);
  return packed;
}

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
  share_tasks(threads, static_cast<std::int64_t>(buffers.size()), [&](std::int64_t i) {
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
  std::uint64_t hash = buffers.size();
  for (std::uint64_t p : partial) hash = mix(hash, p);
  return hash;
}

}  // namespace vgf::cpu
