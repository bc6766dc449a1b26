// The tile kernel of Hopper, in any precision: layer norm before the activation or none. Clusters of two blocks share their
// weights, or evaluate two critics; one warpgroup fetches them, four multiply. On chip: sm90_layout.hpp; what lies where:
// warpgroup_network.cuh; the cost model and what else was weighed: sm90_design.md.
#pragma once

#include "fetch.cuh"
#include "tile.cuh"
#include "warpgroup_network.cuh"

namespace vgf::cuda {

// The blocks that share weights go through as many tiles, the last of them perhaps without rows: until their first has none.
struct Tiles {
  int place, step;
  std::int64_t tile;  // at first that before this block's first one
  template <Precision P>
  __device__ explicit Tiles(const Ring<P>& ring)
      : place(ptx::cluster_rank() - ring.first_mate()), step(ptx::blocks_x() / kCluster * ring.mates()),
        tile(static_cast<int>(ptx::block_x() / kCluster * ring.mates()) + place - step) {}
  __device__ bool next(const Program& program) {
    tile += step;
    return tile - place < program.tiles;
  }
};

// The next tile, if there is one. Where this block is, is kept in shared memory.
template <Precision P>
__device__ __noinline__ bool begin_tile(const Program& program) {
  Known& here = *ptx::in_shared(&known());
  Tiles tiles{Ring<P>(program)};
  tiles.tile = here.spot.tile;
  const bool more = tiles.next(program);
  ptx::sync_warpgroups();  // all are done with the tile before
  if (!more) return false;
  const Spot spot(program, tiles.tile);
  const int row = ptx::thread();
  if (row < kHopperRows) here.state_of[row] = row < spot.rows ? (row + spot.offset) / program.N : 0;
  if (row == 0) {
    here.spot = spot;
    here.pass = {};
  }
  ptx::sync_warpgroups();
  return true;
}

// The blocks that evaluate other members on the same tile have done what this one has. By all threads.
template <Precision P>
__device__ void meet(const Ring<P>& ring, Known& here) {
  ptx::sync_block();
  if (ptx::thread() == 0) {
    const int mates = ring.mates();
    for (int rank = ptx::cluster_rank() % mates; rank < kCluster; rank += mates) ptx::arrive_releasing(ring.met(), rank);
    ptx::wait_acquiring(ring.met(), here.meetings++ % 2);
  }
  ptx::sync_block();
}

// The phases between passes, by kThreads. They are a function: what outlived them in registers would be in the way of the
// products.
template <Precision P>
__device__ __noinline__ void go_on(const Program& program) {
  const Ring<P> ring(program);
  Known& here = *ptx::in_shared(&known());
  unsigned char* pairs = ring.behind();
  const Place place = place_of(program, here.spot, ring);
  const Tile phases(place, reinterpret_cast<Bandwidth*>(pairs), reinterpret_cast<float*>(pairs + bandwidth_bytes(kHopperRows)));
  Pass pass = here.pass;
  const bool together = program.at_once > 1 && pass.role >= Role::critic && ends_round(program, pass);
  if (together) meet(ring, here);  // what the others' members give is there
  phases.next(pass);
  if (together) meet(ring, here);  // it has been read
  ptx::sync_block();  // all have read the pass before
  if (ptx::thread() == 0) here.pass = pass;
}
// Whether a pass follows; none: the tile is done.
template <Precision P>
__device__ bool next(const Program& program) {
  if (ptx::thread() < kThreads) go_on<P>(program);
  ptx::sync_warpgroups();
  return known().pass.role != Role::end;
}

template <Precision P>
__device__ __forceinline__ void work(const Program& program) {
  WarpgroupNetwork<P> network(program);
  while (begin_tile<P>(program))
    while (next<P>(program)) network.run();
}

// The same for the fetching thread.
template <Precision P>
__device__ __noinline__ bool begin_errand(const Program& program) {
  const Ring<P> ring(program);
  Tiles tiles(ring);
  tiles.tile = ptx::in_shared(&errand())->here.tile;
  if (!tiles.next(program)) return false;
  new (&errand()) Errand(place_of(program, Spot(program, tiles.tile), ring));
  return true;
}
template <Precision P>
__device__ void fetch(const Program& program) {
  Fetcher<P> fetcher(program);
  errand().here.tile = Tiles(Ring<P>(program)).tile;
  while (begin_errand<P>(program)) fetcher.run();
}

template <Precision P>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_tile_kernel(const __grid_constant__ Program program) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if (ptx::thread() == 0) {
    const Ring<P> ring(program);
    ring.begin();
    known().spot.tile = Tiles(ring).tile;
    known().meetings = 0;
  }
  ptx::sync_cluster();
  if (ptx::thread() < kNetworkThreads) {
    ptx::take_registers<kWorkRegisters>();
    work<P>(program);
  } else {
    ptx::give_registers<kFetchRegisters>();
    if (ptx::thread() == kNetworkThreads) fetch<P>(program);
  }
  ptx::sync_cluster();  // nobody leaves while others may arrive at its barriers
#endif
}

}  // namespace vgf::cuda
