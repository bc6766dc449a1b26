// The tile kernel of mma.sync (sm_80 and newer).
#pragma once

#include "network.cuh"
#include "tile.cuh"

namespace vgf::cuda {

// What happens between passes is a function, so that nothing of it is in a register while a network runs.
__device__ __noinline__ inline bool next(const Tile& phases, Pass& pass) { return phases.next(pass); }

template <Precision P, int M>
__device__ __noinline__ void run_tile(const Program& program, std::int64_t tile) {
  const Place here(program, Spot(program, tile), M);
  const MmaNetwork<P, M> network(here);
  const Tile phases(here, network.bandwidths(), network.pair_memory());
  for (Pass pass; next(phases, pass);) network.run(pass);
}

// A block's tiles, one after the other. A product takes all registers, so what outlives one is kept in memory on purpose:
// the number of the tile at the head of shared memory, the rest in the Tile.
template <Precision P, int M>
__global__ void __launch_bounds__(kThreads, 1) tile_kernel(const __grid_constant__ Program program) {
  volatile std::int64_t* tile = reinterpret_cast<volatile std::int64_t*>(ptx::shared_memory());
  if (ptx::thread() == 0) *tile = ptx::block_x();
  ptx::sync_block();
  while (*tile < program.tiles) {
    run_tile<P, M>(program, *tile);
    ptx::sync_block();  // the next tile writes what this one may still be reading
    if (ptx::thread() == 0) *tile = *tile + ptx::blocks_x();
    ptx::sync_block();
  }
}

}  // namespace vgf::cuda
