// The latency kernel of Hopper: bfloat16, few states, layer norm before the activation or none. A cluster of up to 16 blocks
// keeps the networks of a phase in its shared memory, 64 columns of every layer a block, and takes a tile of 16 or 32
// particles through the whole program. Pointers: those of Program (program.hpp).
//
// On chip, a block (sm90_latency_layout.hpp), a team of 8, 4 x 512, 16 rows (32): the area of what is exchanged, 16 KB (32);
// sums of rows, 1 KB (2); weights, 192 KB. Registers: one unit of 8 numbers of one row a thread, and sums of a product.
//
// What lies between networks every block does for itself, in its own scratch: the same numbers, so nothing is exchanged,
// and the first block gives the results. Cost model, a layer of 512 in a direction: the two floors are shared memory, which
// gives a block 64 KB of weights in 512 clocks, and two exchanges, the latency of another multiprocessor (180 clocks) twice
// and 1 KB a row at 14 to 28 bytes a clock. sm90_latency.md has the rest, and what else was weighed.
#include "runtime.hpp"
#include "tile/cluster_network.cuh"
#include "tile/tile.cuh"

namespace vgf::cuda {

template <int Rows>
__global__ void __launch_bounds__(kThreads, 1) hopper_latency_kernel(const __grid_constant__ Program program) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const unsigned blocks = ptx::cluster_blocks(), clusters = ptx::blocks_x() / blocks;
  Place here(program, Spot(program, ptx::block_x() / blocks), Rows);
  here.speaks = ptx::cluster_rank() == 0;
  ClusterNetwork<Rows> network(here);
  const Tile phases(here, network.bandwidths(), network.pair_memory());
  network.begin();
  while (here.tile < program.tiles) {
    for (Pass pass; phases.next(pass);) network.run(pass);
    ptx::sync_block();  // the next tile writes what this one may still be reading
    here.go_to(here.tile + clusters);
  }
#endif
}

Kernel<Program> hopper_latency_kernel_of(int rows) {
  return rows == kSmallLatencyTile ? hopper_latency_kernel<kSmallLatencyTile> : hopper_latency_kernel<kLargestLatencyTile>;
}

}  // namespace vgf::cuda
