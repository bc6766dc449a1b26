// From an MLP to a packed network: where every part lies, and the jobs that put it there.
#pragma once

#include <vector>

#include "layout.hpp"

namespace vgf::cuda {

// Element (k, n) of an operand is at from[k * stride_k + n * stride_n]; outside K x N it is zero, up to `depth` and
// padded(N); in float32 the split one follows. A vector is one row of floats, filled with `fill` where `from` is null.
struct PackJob {
  const float* from;
  std::int64_t stride_k, stride_n;
  std::int64_t to;  // bytes
  int K, depth, N;
  float fill;
  bool vector;
};

// A launch does some jobs, and writes some of the table.
constexpr int kJobsPerLaunch = 60, kLayersPerLaunch = 16;
struct PackJobs {
  unsigned char* packed;
  int first_layer, layers;
  PackedLayer layer[kLayersPerLaunch];
  PackJob job[kJobsPerLaunch];
};
static_assert(sizeof(PackJobs) <= 4096, "kernel parameters hold 4 KB");

struct Layout {
  Net net;  // `packed` is null
  std::vector<PackedLayer> layers;
};
// In float32 with split operands, on every device, so that a packed network may go to another.
Layout lay_out(const MlpSpec&, int observations, bool critic, bool gradient, Precision);

// weights: of every member, every layer, on the device.
std::vector<PackJob> pack_jobs(const Layout&, const MlpSpec&, const std::vector<LayerWeights>& weights);

}  // namespace vgf::cuda
