// The tile kernel of Hopper: bfloat16, layer norm before the activation or none. Clusters of two blocks share their weights;
// one warpgroup fetches them, two multiply. On chip: sm90_layout.hpp; what lies where: tile/warpgroup_network.cuh; the cost
// model and what else was weighed: sm90_design.md.
#include "runtime.hpp"
#include "tile/tile.cuh"
#include "tile/warpgroup_network.cuh"

namespace vgf::cuda {
namespace {

// The blocks of a cluster go through as many tiles, the last of them perhaps without rows, since they share weights: until
// their first block has none.
__device__ inline bool cluster_goes_on(const Program& program, std::int64_t tile) {
  return tile - ptx::cluster_rank() < program.tiles;
}

template <int Rows>
__device__ inline void work(const Program& program, Ring& ring) {
  Place here(program, ptx::block_x(), Rows);
  const WarpgroupNetwork<Rows> network(here, ring);
  const Tile phases(here, network.bandwidths(), network.pair_memory());
  do {
    for (Pass pass; phases.next(pass);) network.run(pass);
    ptx::sync_block();  // the next tile writes what this one may still be reading
    here.go_to(here.tile + ptx::blocks_x());
  } while (cluster_goes_on(program, here.tile));
}

}  // namespace

template <int Rows>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_tile_kernel(const __grid_constant__ Program program) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  Ring ring(ptx::shared_memory());
  if (ptx::thread() == 0) ring.begin(Rows / kGroupRows * kGroupThreads / kLanes);
  ptx::sync_cluster();
  if (ptx::thread() < kThreads) {
    ptx::take_registers<kWorkRegisters>();
    work<Rows>(program, ring);
  } else {
    ptx::give_registers<kFetchRegisters>();
    if (ptx::thread() == kThreads)
      for (std::int64_t tile = ptx::block_x(); cluster_goes_on(program, tile); tile += ptx::blocks_x())
        ring.fetch(program);
  }
  ptx::sync_cluster();  // nobody leaves while others may arrive at its barriers
#endif
}

Kernel<Program> hopper_tile_kernel_of(int rows) {
  return rows == kGroupRows ? hopper_tile_kernel<kGroupRows> : hopper_tile_kernel<kLargestHopperTile>;
}

}  // namespace vgf::cuda
