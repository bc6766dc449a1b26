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

// One panel: to[k][c] = from[k * stride_k + (first + c) * stride_c], zero past `columns`.
void fill_panel(float* to, const float* from, std::ptrdiff_t stride_k, std::ptrdiff_t stride_c, int depth, int first,
                int columns) {
  const int whole = std::min(kPanel, columns - first);
  from += first * stride_c;
  for (int k = 0; k < depth; k++, to += kPanel, from += stride_k) {
    for (int c = 0; c < whole; c++) to[c] = from[c * stride_c];
    for (int c = whole; c < kPanel; c++) to[c] = 0;
  }
}

std::uint16_t to_bf16(float x) {  // to nearest even
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return 0x7fc0;
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// A forward panel of 32 columns in bfloat16, ordered as gemm_rows16.inl wants them.
void fill_rows16(float* to, const LayerWeights& from, int depth, int first, int columns) {
  auto* place = reinterpret_cast<std::uint16_t*>(to);
  for (int k = 0; k < depth; k++)
    for (int i = 0; i < 2 * kPanel; i++) {
      const int c = first + i / 8 * 4 + i % 4 + (i % 8 < 4 ? 0 : kPanel);
      *place++ = c < columns ? to_bf16(from.W[k * from.stride_in + c * from.stride_out]) : 0;
    }
}

// A backward panel of 16 columns in pairs of neighbouring k of W transposed.
void fill_pairs(float* to, const LayerWeights& from, int depth, int first, int columns) {
  auto* place = reinterpret_cast<std::uint16_t*>(to);
  for (int k = 0; k < depth; k += 2)
    for (int c = first; c < first + kPanel; c++)
      for (int half = 0; half < 2; half++)
        *place++ =
            c < columns && k + half < depth ? to_bf16(from.W[c * from.stride_in + (k + half) * from.stride_out]) : 0;
}

void fill_vector(float* to, const float* from, int count, float missing) {
  for (int i = 0; i < count; i++) to[i] = from ? from[i] : missing;
  std::fill(to + count, to + padded(count), 0.0f);
}

}  // namespace

PackedMlp::PackedMlp(const MlpSpec& spec, bool gradient, Precision precision, float* memory)
    : spec_(spec), gradient_(gradient), memory_(memory) {
  const int depth = spec.layers();
  if (depth < 2) throw std::invalid_argument("pack: expected at least one hidden layer");
  if (gradient && spec.widths.back() != 1)
    throw std::invalid_argument("pack: a gradient needs a critic, whose last width is 1");

  const auto take = [&](std::size_t count) {
    const std::size_t at = floats_;
    floats_ += count;
    return at;
  };
  for (int e = 0; e < spec.ensemble; e++)
    for (int l = 0; l < depth; l++) {
      const std::size_t in = spec.widths[l], out = spec.widths[l + 1];
      const bool last = l + 1 == depth, bf16 = precision == Precision::bf16 && l > 0 && !last;
      Place p;
      p.forward = take(bf16 ? (out + 31) / 32 * in * kPanel : padded(out) * in);
      p.backward = gradient && !last ? take(padded(in) * (bf16 ? (out + 1) / 2 : out)) : 0;
      p.b = take(padded(out));
      p.scale = take(padded(out));
      p.bias = take(padded(out));
      p.head = last && out == 1 ? take(padded(in)) : 0;
      places_.push_back(p);
      layers_.push_back({static_cast<int>(in), static_cast<int>(out), nullptr, nullptr, nullptr, nullptr, nullptr,
                         nullptr, bf16});
    }
  for (int l = 1; l <= depth; l++) max_width_ = std::max(max_width_, padded(spec.widths[l]));
  if (!memory_) {
    own_.reset(static_cast<float*>(std::aligned_alloc(64, (bytes() + 63) / 64 * 64)));
    if (!own_) throw std::bad_alloc();
    memory_ = own_.get();
  }
  for (std::size_t i = 0; i < layers_.size(); i++) {
    const Place& p = places_[i];
    PackedLayer& layer = layers_[i];
    layer.forward = memory_ + p.forward;
    layer.backward = p.backward ? memory_ + p.backward : nullptr;
    layer.b = memory_ + p.b;
    layer.scale = memory_ + p.scale;
    layer.bias = memory_ + p.bias;
    layer.head = p.head ? memory_ + p.head : nullptr;
  }
}

void PackedMlp::fill(const std::vector<LayerWeights>& weights, int threads) {
  if (weights.size() != layers_.size()) throw std::invalid_argument("pack: expected ensemble * layers weights");
  const Range range("pack", spec_.ensemble);
  float* base = memory_;
  run_team(threads, [&](const Member& member) {
    member.share(static_cast<std::int64_t>(places_.size()), [&](std::int64_t i) {
      const PackedLayer& layer = layers_[i];
      const int in = layer.in, out = layer.out;
      const Place& p = places_[i];
      const LayerWeights& from = weights[i];
      if (layer.bf16)
        for (int c = 0; c < out; c += 2 * kPanel)
          fill_rows16(base + p.forward + static_cast<long>(c) / 2 * in, from, in, c, out);
      else
        for (int c = 0; c < out; c += kPanel)
          fill_panel(base + p.forward + static_cast<long>(c) * in, from.W, from.stride_in, from.stride_out, in, c, out);
      if (p.backward) {
        for (int c = 0; layer.bf16 && c < in; c += kPanel)
          fill_pairs(base + p.backward + static_cast<long>(c) * ((out + 1) / 2), from, out, c, in);
        for (int c = 0; !layer.bf16 && c < in; c += kPanel)
          fill_panel(base + p.backward + static_cast<long>(c) * out, from.W, from.stride_out, from.stride_in, out, c,
                     in);
      }
      fill_vector(base + p.b, from.b, out, 0.0f);
      fill_vector(base + p.scale, from.scale, out, 1.0f);
      fill_vector(base + p.bias, from.bias, out, 0.0f);
      if (p.head)
        for (long k = 0; k < padded(in); k++) base[p.head + k] = k < in ? from.W[k * from.stride_in] : 0.0f;
    });
  });
}

std::shared_ptr<const PackedMlp> pack(const MlpSpec& spec, const std::vector<LayerWeights>& weights, bool gradient,
                                      Precision precision, int threads) {
  const auto packed = std::make_shared<PackedMlp>(spec, gradient, precision);
  packed->fill(weights, threads);
  return packed;
}

std::size_t packed_bytes(const MlpSpec& spec, bool gradient, Precision precision) {
  float nothing;
  return PackedMlp(spec, gradient, precision, &nothing).bytes();
}

void pack_into(float* memory, const MlpSpec& spec, const std::vector<LayerWeights>& weights, bool gradient,
               Precision precision, int threads) {
  PackedMlp(spec, gradient, precision, memory).fill(weights, threads);
}

std::shared_ptr<const PackedMlp> packed_at(const float* memory, const MlpSpec& spec, bool gradient,
                                           Precision precision) {
  return std::make_shared<const PackedMlp>(spec, gradient, precision, const_cast<float*>(memory));
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
