// Bulk copies and stores to shared memory, and the mbarriers they complete on (sm_90).
// PTX ISA, "Data Movement and Conversion Instructions: cp.async.bulk, st.async, mapa" and "Parallel Synchronization and Communication
// Instructions: mbarrier". An mbarrier is in phases: one ends when all arrivals that it was initialised with have come and
// all bytes expected in it have been written. A thread waits for the parity of a phase, 0 for the first.
#pragma once

#include <cstdint>

#include "async.cuh"

namespace vgf::cuda::ptx {

using Barrier = std::uint64_t;  // in shared memory

__device__ inline void begin_barrier(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the cluster and to copies; sync_cluster must follow.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Arrives and expects `bytes` more in this phase.
__device__ inline void arrive_expecting(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Barriers that lie side by side in the shared memory of another block.
struct Remote {
  std::uint32_t first;
};
__device__ inline Remote in_block(Barrier* barriers, unsigned rank) {
  Remote remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote.first) : "r"(shared_address(barriers)), "r"(rank));
  return remote;
}
// Arrives at one of them: what this thread's products have read may be overwritten. Ordinary stores are not handed on: a
// release for the cluster would wait for all of them, to L2.
__device__ inline void arrive_at(Remote barriers, int which) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barriers.first + which * static_cast<int>(sizeof(Barrier)))
               : "memory");
}
// Arrives at the barrier that lies at this place in block `rank` of the cluster, and what this thread wrote or has seen written
// before, in any memory, is handed on to who waits with wait_acquiring there.
__device__ inline void arrive_releasing(Barrier* barrier, unsigned rank) {
  asm volatile(
      "{\n\t.reg .b32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n\t}" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}
// Arrives at this block's own.
__device__ inline void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Until the phase of this parity has ended. What copies and store_to have brought to this block's shared memory is there then;
// an acquire for the cluster would also throw away the multiprocessor's L1.
__device__ inline void wait_for(Barrier* barrier, unsigned parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "again:\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
      "@!done bra again;\n\t}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// The same, and what arrive_releasing has handed on is seen, too.
__device__ inline void wait_acquiring(Barrier* barrier, unsigned parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "again:\n\t"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n\t"
      "@!done bra again;\n\t}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// `bytes` (a multiple of 16, between 16-byte boundaries) from global memory to the same place in the shared memory of all
// blocks of `blocks` (a bit a rank); each block's barrier at the place of `barrier` is told of its bytes.
__device__ inline void copy_to_cluster(void* shared, const void* global, int bytes, Barrier* barrier,
                                       std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "h"(blocks)
      : "memory");
}

// The same to this block alone.
__device__ inline void copy_to_block(void* shared, const void* global, int bytes, Barrier* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// Words to the same place in the shared memory of block `rank`, whose barrier at the place of `barrier` is told of their
// bytes: data and signal in one, no fence. Aligned to all of them.
__device__ inline void store_to(void* shared, const std::uint32_t (&word)[2], Barrier* barrier, unsigned rank) {
  asm volatile(
      "{\n\t.reg .b32 there, told;\n\t"
      "mapa.shared::cluster.u32 there, %0, %4;\n\t"
      "mapa.shared::cluster.u32 told, %1, %4;\n\t"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [there], {%2, %3}, [told];\n\t}" ::"r"(
          shared_address(shared)),
      "r"(shared_address(barrier)), "r"(word[0]), "r"(word[1]), "r"(rank)
      : "memory");
}
__device__ inline void store_to(void* shared, const std::uint32_t (&word)[4], Barrier* barrier, unsigned rank) {
  asm volatile(
      "{\n\t.reg .b32 there, told;\n\t"
      "mapa.shared::cluster.u32 there, %0, %6;\n\t"
      "mapa.shared::cluster.u32 told, %1, %6;\n\t"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [there], {%2, %3, %4, %5}, [told];\n\t}" ::"r"(
          shared_address(shared)),
      "r"(shared_address(barrier)), "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3]), "r"(rank)
      : "memory");
}

}  // namespace vgf::cuda::ptx
