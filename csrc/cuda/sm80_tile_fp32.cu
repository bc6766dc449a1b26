// The tile kernel in fp32; see tile/mma_kernel.cuh.
#include "runtime.hpp"
#include "tile/mma_kernel.cuh"

namespace vgf::cuda {

template <>
Kernel<Program> tile_kernel_in<Precision::fp32>(int M) {
  if (M == 32) return tile_kernel<Precision::fp32, 32>;
  return tile_kernel<Precision::fp32, 64>;
}

}  // namespace vgf::cuda
