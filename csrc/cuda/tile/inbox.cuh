// What the blocks of a team send each other: stores into each other's shared memory, which tell an mbarrier of their bytes.
//
// All blocks send as much to all, so that who has received everything knows that all have come as far: that is what lets the
// two kinds of exchange in turns (cluster_network.cuh) do without any other barrier.
#pragma once

#include <ptx/bulk.cuh>

#include "../numbers.cuh"

namespace vgf::cuda {

class Inbox {
 public:
  // bytes: that a block receives from the whole team, itself included
  __device__ Inbox(ptx::Barrier* in_shared_memory, int bytes_of_a_phase)
      : barrier(in_shared_memory), bytes(bytes_of_a_phase) {}
  // By one thread of every block; the cluster must meet then.
  __device__ void begin() const { ptx::begin_barrier(barrier, 1); }

  // To the same place in block `rank` of the cluster.
  template <class Words>
  __device__ void send(Words* place, const Words& what, unsigned to) const {
    ptx::store_to(place, what.word, barrier, to);
  }
  // All that belongs to this phase. By all threads; those of a warp go on together, as the products that follow ask of them.
  __device__ void receive() {
    if (ptx::thread() == 0) ptx::arrive_expecting(barrier, bytes);
    ptx::wait_for(barrier, parity);
    parity ^= 1;
    ptx::sync_warp();
  }

 private:
  ptx::Barrier* barrier;
  int bytes;
  unsigned parity = 0;
};

}  // namespace vgf::cuda
