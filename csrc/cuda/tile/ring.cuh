// What products need on its way to the tensor cores: a ring of k-blocks of weights in shared memory, filled for all blocks of
// a cluster that evaluate the same members, and a ring of what is said of a product, with the vectors of its layer, which each
// block fills for itself.
//
// A packed operand is a straight line of k-blocks, byte for byte what wgmma reads, so a k-block is one bulk copy without a
// tensor map for each chunk of 256 columns. Each of the blocks fetches its share and sends it to all; each waits for the whole.
//
// full[slot]   one arrival, of the fetching thread, and the bytes of the k-block
// empty[slot]  an arrival of every working warp of these blocks: here, too, shares are received
// told, done   the same of products, within the block
// taped        one arrival, and the bytes of z of the layer that a product leads down to, which each block fetches for itself
// met          an arrival of every block that evaluates other members on the same tile, and of this one
#pragma once

#include <ptx/access.cuh>
#include <ptx/bulk.cuh>
#include <ptx/cluster.cuh>

#include "../sm90_layout.hpp"
#include "../numbers.cuh"

namespace vgf::cuda {

// The normalised value of z is z rstd + shift; in float32 (z - mean) rstd, of which nothing cancels.
template <Precision P>
struct Normaliser {
  static constexpr bool kCentred = P == Precision::fp32;
  float rstd = 1, shift = 0;  // or the mean
  static __device__ Normaliser of(float mean, float rstd) { return {rstd, kCentred ? mean : -mean * rstd}; }
  __device__ float operator()(float z) const { return kCentred ? (z - shift) * rstd : math::fma(z, rstd, shift); }
};

// A product, what it is added to, and what becomes of it: it leaves as it is, or it is z of a hidden layer on the way up, or
// its dy on the way down. Uniform, so it lies in shared memory: what registers have no room for would go to local memory, a
// copy a thread.
struct Product {
  enum What { out, up, down } what;
  bool more;            // products in this pass
  unsigned first;       // number of its first k-block
  int blocks, columns;  // of the operand
  int groups, each;     // of columns; and of them a warpgroup's
  unsigned tape_number;  // down: z of the layer comes back as this one
  int rows;             // of the tile that are real
  float* to;            // out: [rows][columns]
  const float* init;    // out: [columns], or null; up: what the observations give, by state, or null: the bias

  int width;
  float inverse_width;
  Activation activation;
  bool normed, keep;  // keep z, for the gradient
  float eps;
  unsigned char* tape;   // of this layer
  void* stats;           // of this layer, [rows of a tile] Normaliser
  bool to_head, from_head;  // this is the critic's last hidden layer; the way down begins here
  float head_bias;
  float* q;
};
constexpr int kProductBytes = 128;
static_assert(sizeof(Product) <= kProductBytes && kProductsAt + kProductSlots * kProductBytes <= kFetchingAt);

// Products, k-blocks and tapes are numbered from the kernel's start.
template <Precision P>
struct Ring {
  static constexpr int kSlots = ring_of(P);
  const Program& p;

  __device__ explicit Ring(const Program& program) : p(program) {}
  // The blocks that share what they fetch, by rank in the cluster; and which members they evaluate.
  __device__ int mates() const { return p.at_once == 1 ? kCluster : kCluster / kMostAtOnce; }
  __device__ int side() const { return ptx::cluster_rank() / mates(); }
  __device__ int first_mate() const { return side() * mates(); }

  __device__ ptx::Barrier* full(int i) const { return reinterpret_cast<ptx::Barrier*>(ptx::shared_memory()) + i; }
  __device__ ptx::Barrier* empty(int i) const { return full(kSlots + i); }
  __device__ ptx::Barrier* told(unsigned product) const { return full(2 * kSlots + product % kProductSlots); }
  __device__ ptx::Barrier* done(unsigned product) const {
    return full(2 * kSlots + kProductSlots + product % kProductSlots);
  }
  __device__ ptx::Barrier* met() const { return full(2 * (kSlots + kProductSlots)); }
  __device__ ptx::Barrier* taped() const { return met() + 1; }
  // Of a k-block, and of the phase that brings it there.
  static __device__ int slot(unsigned block) { return block % kSlots; }
  static __device__ unsigned parity(unsigned block) { return block / kSlots % 2; }
  static __device__ unsigned tape_parity(unsigned tape) { return tape % 2; }
  static __device__ unsigned product_parity(unsigned product) { return product / kProductSlots % 2; }
  __device__ Product* description(unsigned product) const {
    return reinterpret_cast<Product*>(ptx::shared_memory() + kProductsAt + product % kProductSlots * kProductBytes);
  }
  __device__ unsigned char* weights(int i) const { return ptx::shared_memory() + kHopperHeadBytes + i * kSlotBytes; }
  __device__ unsigned char* vectors(unsigned product) const {
    return weights(kSlots) + product % kProductSlots * kVectors * kVectorBytes;
  }
  __device__ unsigned char* behind() const { return weights(kSlots) + kProductSlots * kVectors * kVectorBytes; }

  // By one thread of every block; the cluster must meet then.
  __device__ void begin() const {
    for (int i = 0; i < kSlots; i++) {
      ptx::begin_barrier(full(i), 1);
      ptx::begin_barrier(empty(i), kNetworkWarps * mates());
    }
    for (int i = 0; i < kProductSlots; i++) {
      ptx::begin_barrier(full(2 * kSlots + i), 1);
      ptx::begin_barrier(full(2 * kSlots + kProductSlots + i), kNetworkWarps);
    }
    ptx::begin_barrier(met(), p.at_once);
    ptx::begin_barrier(taped(), 1);
    ptx::publish_barriers();
  }
  // The working warps': the slot of a k-block, once it is here; and that a warp needs one no longer, told by a lane to each of
  // these blocks.
  __device__ int wait(unsigned block) const {
    ptx::wait_for(full(slot(block)), parity(block));
    return slot(block);
  }
  struct Mate {
    bool tells;
    ptx::Remote empty;
  };
  __device__ Mate mate() const {
    const int lane = ptx::thread_anew() % kLanes;
    return {lane < mates(), ptx::in_block(empty(0), first_mate() + (lane < mates() ? lane : 0))};
  }
  static __device__ void release(const Mate& mate, unsigned block) {
    if (mate.tells) ptx::arrive_at(mate.empty, slot(block));
  }
  // The same of products.
  __device__ const Product& wait_product(unsigned product) const {
    ptx::wait_for(told(product), product_parity(product));
    return *description(product);
  }
  __device__ void release_product(unsigned product) const {
    ptx::sync_warp();
    if (ptx::thread_anew() % kLanes == 0) ptx::arrive(done(product));
  }
};
static_assert(kGroup * kBlockBytes % (16 * kCluster) == 0, "a share of a k-block is a whole number of 16 bytes");

}  // namespace vgf::cuda
