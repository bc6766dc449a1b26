// The tile kernel in tf32; see tile/mma_kernel.cuh.
#include "runtime.hpp"
#include "tile/mma_kernel.cuh"

namespace vgf::cuda {

template <>
Kernel<Program> tile_kernel_in<Precision::tf32>(int M) {
  if (M == 32) return tile_kernel<Precision::tf32, 32>;
  return tile_kernel<Precision::tf32, 64>;
}

}  // namespace vgf::cuda
