// The tile kernel of Hopper: bfloat16, layers of up to 512 columns, layer norm before the activation or none. Clusters of two
// blocks share their weights; one warpgroup fetches them, two multiply; see sm90_design.md and tile/warpgroup_network.cuh.
#include "runtime.hpp"
#include "tile/tile.cuh"
#include "tile/warpgroup_network.cuh"

namespace vgf::cuda {
namespace {

__device__ inline void run_tile(const Program& program, std::int64_t tile, Ring& ring) {
  const Place here(program, tile, kHopperRows);
  const WarpgroupNetwork network(here, ring);
  const Tile phases(here, network.bandwidths(), network.pair_memory());
  for (Pass pass = phases.next({}); pass.role != Role::end; pass = phases.next(pass)) network.run(pass);
  ptx::sync_block();  // the next tile writes what this one may still be reading
}

}  // namespace

// A block's tiles, one after the other. All blocks of a cluster go through as many, the last perhaps without rows, since
// they share weights.
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_tile_kernel(const __grid_constant__ Program program) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  Ring ring(ptx::shared_memory());
  if (ptx::thread() == 0) ring.begin();
  ptx::sync_cluster();
  const std::int64_t rounds = (program.tiles + ptx::blocks_x() - 1) / ptx::blocks_x();
  if (ptx::thread() < kThreads) {
    ptx::take_registers<kWorkRegisters>();
    for (std::int64_t round = 0; round < rounds; round++)
      run_tile(program, ptx::block_x() + round * ptx::blocks_x(), ring);
  } else {
    ptx::give_registers<kFetchRegisters>();
    for (std::int64_t round = 0; round < rounds && ptx::thread() == kThreads; round++) ring.fetch(program);
  }
  ptx::sync_cluster();  // nobody leaves while others may arrive at its barriers
#endif
}

Kernel<Program> hopper_tile_kernel_of() { return hopper_tile_kernel; }

}  // namespace vgf::cuda
