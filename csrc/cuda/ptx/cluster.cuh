// Thread block clusters (sm_90): who a block is in its cluster, and how all threads of a cluster meet.
// PTX ISA, "Special Registers: %cluster_ctarank, %cluster_nctarank" and "Parallel Synchronization and Communication
// Instructions: barrier.cluster".
#pragma once

#include <cstdint>

namespace vgf::cuda::ptx {

__device__ inline unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline unsigned cluster_blocks() {
  unsigned blocks;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  return blocks;
}

// What a thread of the cluster wrote before, in shared or global memory, is visible to all after.
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

}  // namespace vgf::cuda::ptx
