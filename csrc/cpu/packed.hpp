// The engine's copy of an MLP's weights.
//
// Panels of layer l    c[columns] += a[k] * panel[k], as PanelLayout says
// forward              k: in, columns: out
// backward             of W transposed, k: out, columns: in; for a gradient, of all layers but the last and those that pull
// b, scale, bias       padded to whole panels with zeros
// head                 the last layer's only column, where out = 1
// finite               1 where all weights of the member are known to be, else 0; beside it what `check` looks for
// In bf16, layers between hidden ones hold numbers of bfloat16. Members of an ensemble lie one after the other.
#pragma once

#include <memory>

#include "kernels.hpp"
#include "memory.hpp"
#include "vgf/cpu.hpp"

namespace vgf::cpu {

inline long padded(long width) { return (width + kPanel - 1) / kPanel * kPanel; }

struct Panels {
  PanelLayout layout;
  int depth, columns;
  const float* first = nullptr;  // null: there are none
  std::ptrdiff_t borrowed = 0;   // from k to k of the caller's matrix, whose columns they are; 0: they are packed

  int width() const { return layout == PanelLayout::rows16 ? 2 * kPanel : kPanel; }
  int count() const { return (columns + width() - 1) / width(); }
  int rows() const { return layout == PanelLayout::pairs ? (depth + 1) / 2 : depth; }
  // Floats from a panel to the next: a line more than it has, or row k of every panel of 512 would fall on one set of L1.
  long panel() const { return static_cast<long>(rows() + 1) * kPanel; }
  long floats() const { return count() * panel(); }
  // A product with all panels, its other operands yet to be set.
  Gemm product() const {
    Gemm g{};
    g.w = first;
    g.panel_stride = borrowed ? kPanel : panel();
    g.k_stride = borrowed ? borrowed : kPanel;
    g.end = count();
    return g;
  }
};

struct PackedLayer {
  int in, out;
  Panels forward, backward;
  const float *b, *scale, *bias, *head;
  bool bf16;     // Bf16Products
  bool rounded;  // in bf16, float32's products of rounded numbers
  bool pulls;    // the gradient goes back by the weights of the forward product: Kernels::pull
};

class PackedMlp {
 public:
  // Packed weights at `memory`, of which bytes() must be there: to be filled, or filled before. Null: memory of its own,
  // which the thread keeps where weights are borrowed.
  // Borrowed: weights whose matrices forward products read in place, where contiguous columns fill whole panels.
  PackedMlp(const MlpSpec&, bool gradient, Precision, float* memory = nullptr,
            const std::vector<LayerWeights>* borrowed = nullptr);
  // What a memory of the caller must have.
  static std::size_t bytes(const MlpSpec&, bool gradient, Precision);
  // A member of an ensemble, in the same memory.
  PackedMlp(const PackedMlp& ensemble, int member);
  // Looks: also through matrices that are read in place; where it does not, no unit is left out.
  void fill(const std::vector<LayerWeights>&, int threads, bool looks = true);

  // Throws where its memory was filled by another version, or for another instruction set.
  void check() const;

  const MlpSpec& spec() const { return spec_; }
  bool gradient() const { return gradient_; }
  std::size_t bytes() const { return floats_ * sizeof(float); }
  const PackedLayer& layer(int member, int l) const { return layers_[member * spec_.layers() + l]; }
  long max_width() const { return max_width_; }  // padded, over all layers but the input
  // Units that are off may be left out then: 0 times infinity or NaN would be NaN.
  bool finite(int member) const { return *finite_[member] != 0; }
  int input() const { return spec_.widths.front(); }
  int output() const { return spec_.widths.back(); }

 private:
  PackedMlp(const MlpSpec&, bool gradient);  // not laid out
  // Lays everything out from `base` on; null only counts.
  void lay_out(Precision, const float* base, const std::vector<LayerWeights>* borrowed);
  float stamp() const;
  float* writable(const float* p) const { return memory_ + (p - memory_); }

  MlpSpec spec_;
  bool gradient_;
  long max_width_ = 0;
  std::size_t floats_ = 0;
  std::shared_ptr<float> own_;
  float* memory_;
  std::vector<const float*> finite_;
  std::vector<PackedLayer> layers_;
};

}  // namespace vgf::cpu
