// The words every engine shares: networks, sizes and options. Plain data, no framework.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vgf {

enum class Activation { relu, gelu, gelu_erf, silu, mish, tanh, elu };
enum class Norm { none, pre, post };
enum class Aggregate { mean, min };
enum class Select { max, softmax, uniform };
enum class Reduce { mean, max };
enum class Precision { fp32, tf32, bf16 };

// An ensemble of equal MLPs. widths = (in, hidden..., out).
struct MlpSpec {
  std::vector<int> widths;
  int ensemble = 1;
  Activation activation = Activation::relu;
  Norm norm = Norm::none;
  float norm_eps = 0;

  int layers() const { return static_cast<int>(widths.size()) - 1; }
  int hidden() const { return layers() - 1; }
};

// Where one Dense layer and its norm lie in the caller's memory. Strides in elements.
struct LayerWeights {
  const float* W;  // element (i, o) at W[i * stride_in + o * stride_out]
  std::ptrdiff_t stride_in, stride_out;
  const float* b;      // [out] or null: zeros
  const float* scale;  // [out] or null: ones
  const float* bias;   // [out] or null: zeros
};

// B states, N particles a state, O observation dims, A action dims.
struct Sizes {
  std::int64_t B, N;
  int O, A;
};

struct Clip {
  bool on = false;
  float low = 0, high = 0;
};

struct FlowOptions {
  int num_steps = 1;
  double learning_rate = 0.1;
  double alpha = 1;
  Aggregate aggregate = Aggregate::mean;
  bool kernel = true;         // RBF; false: every particle on its own
  bool median = true;         // bandwidth from the median heuristic, else `sigma`
  double sigma = 0;
  bool bandwidth_grad = false;
  bool adam = true;           // else plain gradient steps
  Clip clip;
};

// The action of a state among its particles.
struct Selection {
  Select how = Select::max;
  float temperature = 1;
  Aggregate aggregate = Aggregate::mean;
  const float* noise = nullptr;  // [B, N] uniform in (0, 1), for the random ones
};

// The value of the next states that a critic learns.
struct Target {
  const float* reward;  // [B]
  const float* mask;    // [B]
  double discount;
  Aggregate aggregate;
  Reduce reduce;
};

}  // namespace vgf
