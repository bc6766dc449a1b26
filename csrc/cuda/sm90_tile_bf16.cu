// The tile kernel of Hopper in bf16; see tile/warpgroup_kernel.cuh.
#include "runtime.hpp"
#include "tile/warpgroup_kernel.cuh"

namespace vgf::cuda {

template <>
Kernel<Program> hopper_tile_kernel_in<Precision::bf16>() {
  return hopper_tile_kernel<Precision::bf16>;
}

}  // namespace vgf::cuda
