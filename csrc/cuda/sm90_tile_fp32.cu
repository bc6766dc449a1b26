// The tile kernel of Hopper in fp32; see tile/warpgroup_kernel.cuh.
#include "runtime.hpp"
#include "tile/warpgroup_kernel.cuh"

namespace vgf::cuda {

template <>
Kernel<Program> hopper_tile_kernel_in<Precision::fp32>() {
  return hopper_tile_kernel<Precision::fp32>;
}

}  // namespace vgf::cuda
