// The tile kernel of Hopper: bfloat16, layer norm before the activation or none. Clusters of two blocks share their weights;
// one warpgroup fetches them, two multiply. On chip: sm90_layout.hpp; what lies where: tile/warpgroup_network.cuh; the cost
// model and what else was weighed: sm90_design.md.
#include "runtime.hpp"
#include "tile/fetch.cuh"
#include "tile/tile.cuh"
#include "tile/warpgroup_network.cuh"

namespace vgf::cuda {
namespace {

// The blocks of a cluster go through as many tiles, the last of them perhaps without rows, since they share weights: until
// their first block has none.
__device__ inline bool cluster_goes_on(const Program& program, std::int64_t tile) {
  return tile - ptx::cluster_rank() < program.tiles;
}

__device__ __noinline__ inline void begin_tile(const Program& program, std::int64_t tile, Known& here) {
  const Spot spot(program, tile);
  const int row = ptx::thread();
  if (row < kLargestHopperTile) here.state_of[row] = row < spot.rows ? (row + spot.offset) / program.N : 0;
  if (row == 0) {
    here.spot = spot;
    here.pass = {};
  }
  ptx::sync_block();
}

// The phases between passes are a function: what outlived them in registers would be in the way of the products.
// False: the tile is done.
template <int Rows>
__device__ __noinline__ bool next(const Program& program, unsigned char* shared) {
  Known& here = *ptx::in_shared(&known(shared));
  unsigned char* pairs = Ring(shared).behind();
  const Place place(program, here.spot, Rows);
  const Tile phases(place, reinterpret_cast<Bandwidth*>(pairs), reinterpret_cast<float*>(pairs + bandwidth_bytes(Rows)));
  Pass pass = here.pass;
  const bool more = phases.next(pass);
  ptx::sync_block();  // all have read the pass before
  if (ptx::thread() == 0) here.pass = pass;
  ptx::sync_block();
  return more;
}

template <int Rows>
__device__ inline void work(const Program& program, unsigned char* shared) {
  WarpgroupNetwork<Rows> network(program, shared);
  std::int64_t tile = ptx::block_x();
  do {
    begin_tile(program, tile, known(shared));
    while (next<Rows>(program, shared)) network.run();
    tile += ptx::blocks_x();
    ptx::sync_block();  // the next tile writes what this one may still be reading
  } while (cluster_goes_on(program, tile));
}

template <int Rows>
__device__ inline void fetch(const Program& program, unsigned char* shared) {
  Fetcher<Rows> fetcher(program, shared);
  Place here(program, Spot(program, ptx::block_x()), Rows);
  for (; cluster_goes_on(program, here.tile); here.go_to(here.tile + ptx::blocks_x())) fetcher.run(here);
}

}  // namespace

template <int Rows>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_tile_kernel(const __grid_constant__ Program program) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  unsigned char* shared = ptx::shared_memory();
  if (ptx::thread() == 0) Ring(shared).begin(Rows / kGroupRows * kGroupThreads / kLanes);
  ptx::sync_cluster();
  if (ptx::thread() < kThreads) {
    ptx::take_registers<kWorkRegisters>();
    work<Rows>(program, shared);
  } else {
    ptx::give_registers<kFetchRegisters>();
    if (ptx::thread() == kThreads) fetch<Rows>(program, shared);
  }
  ptx::sync_cluster();  // nobody leaves while others may arrive at its barriers
#endif
}

Kernel<Program> hopper_tile_kernel_of(int rows) {
  return rows == kGroupRows ? hopper_tile_kernel<kGroupRows> : hopper_tile_kernel<kLargestHopperTile>;
}

}  // namespace vgf::cuda
