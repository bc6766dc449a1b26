// Runs CUDA kernels on the host, to test them where no GPU is: every thread of a block is a fiber that runs up to the
// next barrier or warp-wide operation; the blocks of a cluster run at once, other blocks one after the other. The kernels
// are the very sources of csrc/cuda; the headers in ptx/ offer what csrc/cuda/ptx offers, made of the functions below.
//
// What it can show: results, barriers that are missing (fibers run in an order that a seed decides, so a value that is
// used too early differs from order to order or is poison), copies and products not waited for (done at the last moment
// allowed, or at once, by the seed), threads that disagree at a barrier, arrivals and bytes that an mbarrier waits for in
// vain, operands of a product that change while a warp of its warpgroup still needs them, and arrivals at blocks that have
// ended. With races.hpp, every two accesses that nothing orders, in shared and global memory, copies and products and the
// fences before them included; under the compiler's sanitizers memory out of bounds and addresses that the device would not
// take. What it cannot: timing, bank conflicts, registers of a product that are touched too early.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "races.hpp"

#define __device__
#define __global__
#define __noinline__
#define __forceinline__
#define __launch_bounds__(...)
#define __grid_constant__

namespace emulator {

constexpr int kWarp = 32, kWarpgroup = 128;
constexpr int kBarriers = 16;  // of a block

struct Copy {  // of 16 bytes
  void* to;
  const void* from;
};

// A wgmma of a thread: see ptx/warpgroup.cuh.
struct Product {
  float* d;
  std::uint64_t a, b;
  int columns;
  bool half = true;   // of bfloat16, else of tf32
  bool first = false;  // of a sum: adds to nothing
  std::optional<std::array<std::uint32_t, 4>> rows = {};  // this thread's numbers of A, where it is in registers
  races::View view = {};        // when it was issued
  bool done = false;
  std::uint32_t reads = 0;  // for races.hpp
};

// Where threads meet, for races.hpp. Its points take turns: who comes to the next one may be ahead of who has yet to leave
// this one, and must not seem ordered before it.
struct Barrier {
  char points[2];
  int turn = 0;
};

struct Block {
  unsigned x, rank;  // in the grid, in its cluster
  unsigned char* shared;
  int done;  // threads
  std::array<int, kBarriers> arrived;      // at each barrier
  std::array<Barrier, kBarriers> barriers;
  std::vector<Barrier> of_warp;
  std::vector<int> met_warp;               // threads that have come to meet
  // of each warpgroup, what the operands of its products were when the first of its warps was done with them
  std::vector<std::vector<std::uint64_t>> operands;
  std::vector<unsigned char> memory;
};

// A thread of a block, as the operations below see it.
struct Thread {
  int index = 0;
  Block* block = nullptr;
  std::vector<std::vector<Copy>> copies;      // groups under way; the last is still open
  std::vector<std::vector<Product>> products;  // likewise
  std::size_t products_done = 0;
};

extern Thread* current;
extern unsigned block_y, blocks_x;
extern std::vector<Block> cluster;  // the blocks that run at once
extern bool products_are_late;
extern std::map<std::string, int> launches;  // of every kernel, by name
extern std::map<const void*, int> work;  // launches, clears and copies, by the stream that was given them

// All of `count` threads of the block meet at a barrier.
void sync(int barrier, int count);
void sync_warp();
// All threads of the cluster meet.
void sync_cluster();
void start_copy(void* to, const void* from);
void commit_copies();
void wait_copies(int pending);
// All lanes of a warp meet with an argument each; the last to arrive runs `work` on the 32 arguments, in lane order.
void meet(void* argument, const std::function<void(void* const*)>& work);
// Lets all others go first.
void pause();

// mbarriers, by the address in shared memory
void begin_barrier(void* barrier, int arrivals);
void expect_bytes(void* barrier, int bytes);
void arrive(void* barrier, races::Scope = races::Scope::block);
void wait_for(void* barrier, unsigned parity, races::Scope = races::Scope::block);
// A bulk copy that tells a barrier of its bytes.
void copy_telling(void* to, const void* from, int bytes, void* barrier);
// A store of up to 16 bytes, likewise.
void store_telling(void* to, const void* what, int bytes, void* barrier);

// c[16][columns] += a[16][depth] b[depth][columns] as tensor cores add. Products are exact; each sum cuts its terms off at the
// last of 24 bits of the largest, adds what is left and is cut off: as they are known to do, with a bit or more less than
// newer ones keep.
void add_products(int depth, int columns, const double* a, const double* b, float* c);

// Runs a kernel in a grid of blocks.
void run(const std::function<void()>& kernel, unsigned blocks_x, unsigned blocks_y, int threads, int shared_bytes,
         int cluster_blocks);
// The order of fibers and blocks in later runs, 0: as numbered; bit 0: copies are done at once, bit 1: products are.
void set_seed(unsigned seed);

}  // namespace emulator
