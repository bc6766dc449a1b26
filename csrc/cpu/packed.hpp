// The engine's copy of an MLP's weights.
//
// forward panels of layer l  [out / 16][in][16]   c[16 columns] += a[k] * panel[k]
// backward panels of layer l [in / 16][out][16]   the same of W transposed; all but the last layer
// In bf16, layers between hidden ones hold instead
// forward16  [out / 32][in][32] bfloat16, columns ordered as gemm_rows16.inl says
// backward16 [in / 16][out / 2][16] pairs of bfloat16: neighbouring k of W transposed
// b, scale, bias             padded to whole panels with zeros
// head                       the last layer's only column, where out = 1
#pragma once

#include <memory>

#include "vgf/cpu.hpp"

namespace vgf::cpu {

inline long padded(long width) { return (width + 15) / 16 * 16; }

struct PackedLayer {
  int in, out;
  const float *forward, *backward, *b, *scale, *bias, *head;  // a bfloat16 layout fills the same places
  bool bf16;
};

class PackedMlp {
 public:
  // Packed weights at `memory`, bytes() long, to be filled or filled before. Null: memory of its own.
  PackedMlp(const MlpSpec&, bool gradient, Precision, float* memory = nullptr);
  void fill(const std::vector<LayerWeights>&, int threads);

  const MlpSpec& spec() const { return spec_; }
  bool gradient() const { return gradient_; }
  std::size_t bytes() const { return floats_ * sizeof(float); }
  const PackedLayer& layer(int member, int l) const { return layers_[member * spec_.layers() + l]; }
  long max_width() const { return max_width_; }  // padded, over all layers but the input
  int input() const { return spec_.widths.front(); }
  int output() const { return spec_.widths.back(); }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  struct Place {  // of a layer's parts, in floats from the start
    std::size_t forward, backward, b, scale, bias, head;
  };
  MlpSpec spec_;
  bool gradient_;
  long max_width_ = 0;
  std::size_t floats_ = 0;
  std::unique_ptr<float, Free> own_;
  float* memory_;
  std::vector<Place> places_;
  std::vector<PackedLayer> layers_;
};

}  // namespace vgf::cpu
