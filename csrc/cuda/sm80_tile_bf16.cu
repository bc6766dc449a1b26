// The tile kernel in bf16; see tile/mma_kernel.cuh.
#include "runtime.hpp"
#include "tile/mma_kernel.cuh"

namespace vgf::cuda {

template <>
Kernel<Program> tile_kernel_in<Precision::bf16>(int M) {
  if (M == 32) return tile_kernel<Precision::bf16, 32>;
  return M == 64 ? tile_kernel<Precision::bf16, 64> : tile_kernel<Precision::bf16, 128>;
}

}  // namespace vgf::cuda
