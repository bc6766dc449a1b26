// Weights on their way to the tensor cores: a ring of k-blocks in shared memory, filled for all blocks of a cluster at once.
//
// A packed operand is a straight line of k-blocks, byte for byte what wgmma reads, so a k-block is one bulk copy without a
// tensor map. Each block of the cluster fetches its share of a k-block and sends it to all; each waits for the whole.
//
// full[slot]   one arrival, of the fetching thread, and the bytes of the k-block
// empty[slot]  an arrival of every working warp of every block of the cluster: here, too, shares are received
//
// The fetching thread walks through the same passes and their operands as the others and is ahead of them by as many
// k-blocks as the ring has, also where one product, pass or tile ends and another one begins.
#pragma once

#include <ptx/bulk.cuh>
#include <ptx/cluster.cuh>

#include "../sm90_layout.hpp"
#include "place.cuh"

namespace vgf::cuda {

struct Operand {
  const unsigned char* w;
  int blocks, columns;
};
__device__ inline Operand operand_at(const unsigned char* w, int k, int columns) {
  return {w, k_blocks(k, Precision::bf16), padded(columns)};
}

// The products of a pass, in order: what the members see; or up through the hidden layers, out of a policy, and down again.
__device__ inline int products_of(const Program& p, const Pass& pass) {
  const Net& net = net_of(p, pass);
  if (pass.observes) return net.ensemble;
  return net.hidden + !net.critic + (pass.role == Role::critic ? net.hidden : 0);
}
__device__ inline Operand operand_of(const Program& p, const Pass& pass, int product) {
  const Net& net = net_of(p, pass);
  const auto below = [&](int l) { return l > 0 ? net.layer(l - 1).width : net.inputs; };
  if (pass.observes)
    return operand_at(net.member(product) + net.observe, net.observations, net.first_width);
  const unsigned char* member = net.member(pass.member);
  if (product < net.hidden) {
    const int l = product, k = l > 0 ? padded(below(l)) : below(l);
    return operand_at(member + net.layer(l).forward, k, net.layer(l).width);
  }
  if (!net.critic) return operand_at(member + net.last, padded(below(net.hidden)), net.outputs);
  const int l = 2 * net.hidden - 1 - product;
  return operand_at(member + net.layer(l).backward, padded(net.layer(l).width), below(l));
}

struct Ring {
  unsigned char* slots;
  ptx::Barrier *full, *empty;
  int slot = 0;
  unsigned parity = 0;  // of the phase that is next in this slot

  __device__ explicit Ring(unsigned char* shared) {
    full = reinterpret_cast<ptx::Barrier*>(shared);
    empty = full + kRing;
    slots = shared + kHopperHeadBytes;
  }
  // By one thread of every block; the cluster must meet then. warps: that work, in a block
  __device__ void begin(int warps) const {
    for (int i = 0; i < kRing; i++) {
      ptx::begin_barrier(full + i, 1);
      ptx::begin_barrier(empty + i, warps * kCluster);
    }
    ptx::publish_barriers();
  }
  __device__ void advance() {
    slot++;
    if (slot < kRing) return;
    slot = 0;
    parity ^= 1;
  }

  // The fetching thread's part: all that a tile is multiplied with.
  __device__ void fetch(const Program& p) {
    for (Pass pass = following(p, {}); pass.role != Role::end; pass = following(p, pass))
      for (int i = 0; i < products_of(p, pass); i++) fetch(operand_of(p, pass, i));
  }
  __device__ void fetch(const Operand& o) {
    const unsigned char* from = o.w;
    for (int chunk = 0; chunk < chunks_of(o.columns); chunk++) {
      const int bytes = chunk_columns(o.columns, chunk) * kBlockBytes, share = bytes / kCluster;
      const int mine = ptx::cluster_rank() * share;
#pragma unroll 1
      for (int block = 0; block < o.blocks; block++, from += bytes) {
        ptx::wait_for(empty + slot, parity ^ 1);  // of the phase before, which a new barrier counts as ended
        ptx::arrive_expecting(full + slot, bytes);
        ptx::copy_to_cluster(slots + slot * kSlotBytes + mine, from + mine, share, full + slot, (1 << kCluster) - 1);
        advance();
      }
    }
  }

  // The others': the k-block that is next, once it is here; and that a warp needs one no longer.
  __device__ const unsigned char* wait() const {
    ptx::wait_for(full + slot, parity);
    return slots + slot * kSlotBytes;
  }
  __device__ void release(int which) const {
    const int lane = ptx::thread() % kLanes;
    if (lane < kCluster) ptx::arrive_at(empty + which, lane);
  }
};
static_assert(kGroup * kBlockBytes % (16 * kCluster) == 0, "a share of a k-block is a whole number of 16 bytes");

}  // namespace vgf::cuda
