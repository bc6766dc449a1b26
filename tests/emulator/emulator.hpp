// Runs CUDA kernels on the host, to test them where no GPU is: every thread of a block is a fiber that runs up to the
// next barrier or warp-wide operation. The kernels are the very sources of csrc/cuda; the headers in ptx/ offer what
// csrc/cuda/ptx offers, made of the functions below.
//
// What it can show: results, barriers that are missing (fibers run in an order that a seed decides, so a value that is
// used too early differs from order to order or is poison), copies not waited for (done at the last moment allowed, or
// at once, by the seed), and threads that disagree at a barrier. Under ThreadSanitizer (races.hpp) every two accesses of
// a block that no barrier orders, in shared and global memory; under the other sanitizers memory out of bounds and
// addresses that the device would not take. What it cannot: timing, bank conflicts, races between blocks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#define __device__
#define __global__
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__

namespace emulator {

constexpr int kWarp = 32;

struct Copy {  // of 16 bytes
  void* to;
  const void* from;
};

// A thread of the block, as the operations below see it.
struct Thread {
  int index = 0;
  std::vector<std::vector<Copy>> copies;  // groups under way; the last is still open
};

extern Thread* current;
extern unsigned block_x, block_y, blocks_x;
extern unsigned char* shared;
extern std::map<std::string, int> launches;  // of every kernel, by name

void sync_block();
void sync_warp();
void start_copy(void* to, const void* from);
void commit_copies();
void wait_copies(int pending);
// All lanes of a warp meet with an argument each; the last to arrive runs `work` on the 32 arguments, in lane order.
void meet(void* argument, const std::function<void(void* const*)>& work);

// Runs a kernel in a grid of blocks, one block after the other.
void run(const std::function<void()>& kernel, unsigned blocks_x, unsigned blocks_y, int threads, int shared_bytes);
// The order of fibers and blocks and the time of copies in later runs; 0: as numbered, late.
void set_seed(unsigned seed);

}  // namespace emulator
