// Small kernels that do without something that orders two accesses, or, right, with it: what emulator/races.hpp must tell
// apart. Arguments: which, and "right" or "wrong".
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include <ptx/access.cuh>
#include <ptx/bulk.cuh>
#include <ptx/cluster.cuh>
#include <ptx/launch.hpp>
#include <ptx/thread.cuh>
#include <ptx/warpgroup.cuh>

#include "tile/tile.cuh"

namespace {

using namespace vgf::cuda;

constexpr int kBytes = 4096;

struct Parameter {
  unsigned char* memory;  // of the device, kBytes
  bool right;
};
// In shared memory: barriers, then kBytes where everything is done.
unsigned char* place() { return ptx::shared_memory() + 1024; }
ptx::Barrier* barrier() { return reinterpret_cast<ptx::Barrier*>(ptx::shared_memory()); }

void begin() {
  if (ptx::thread() == 0) ptx::begin_barrier(barrier(), 1);
  ptx::sync_cluster();
}
void bring(const Parameter& p) {
  if (ptx::thread() != 0) return;
  ptx::arrive_expecting(barrier(), kBytes);
  ptx::copy_to_block(place(), p.memory, kBytes, barrier());
}
void write() { reinterpret_cast<int*>(place())[ptx::thread()] = 0; }
int read() { return reinterpret_cast<const volatile int*>(place())[(ptx::thread() + 1) % kThreads]; }
using Sums = float[64];
void multiply(Sums& sum) {
  const std::uint32_t operand = ptx::operand(place());
  ptx::multiply_group<vgf::Precision::bf16>(sum, operand, operand);
  ptx::commit_products();
}

// A barrier between a thread's write and another's read.
void exchange(Parameter p) {
  write();
  if (p.right) ptx::sync_block();
  read();
}
// The same where the write is a copy that its thread has waited for.
void exchange_copied(Parameter p) {
  if (ptx::thread() % 4 == 0) ptx::copy16(place() + ptx::thread() * 4, p.memory + ptx::thread() * 4);
  ptx::commit_copies();
  ptx::wait_copies<0>();
  if (p.right) ptx::sync_block();
  read();
}
// A wait for a bulk copy.
void bulk_copy(Parameter p) {
  begin();
  bring(p);
  if (p.right) ptx::wait_for(barrier(), 0);
  read();
  if (!p.right) ptx::wait_for(barrier(), 0);
}
// A proxy fence between what is written and a product of it.
void shown_to_products(Parameter p) {
  write();
  if (p.right) ptx::show_to_products();
  ptx::sync_block();
  Sums sum = {};
  multiply(sum);
  ptx::wait_products<0>();
}
// A fence of another thread than the writer's that knows of the write.
void shown_by_another(Parameter p) {
  write();
  ptx::sync_block();
  if (p.right) ptx::show_to_products();
  Sums sum = {};
  multiply(sum);
  ptx::wait_products<0>();
}
// A proxy fence between what is read and a copy over it.
void shown_to_copies(Parameter p) {
  begin();
  bring(p);
  ptx::wait_for(barrier(), 0);
  read();
  if (p.right) ptx::show_to_products();
  ptx::sync_block();
  bring(p);
  ptx::wait_for(barrier(), 1);
}
// The fence of global memory, of which that of shared memory is none.
void tape(Parameter p) {
  begin();
  ptx::store_global(p.memory + ptx::thread() * 16, {});
  p.right ? ptx::show_to_copies() : ptx::show_to_products();
  ptx::sync_block();
  bring(p);
  ptx::wait_for(barrier(), 0);
}
// A wait for a product whose operands are overwritten.
void product(Parameter p) {
  ptx::show_to_products();
  ptx::sync_block();
  Sums sum = {};
  multiply(sum);
  if (p.right) ptx::wait_products<0>();
  ptx::sync_block();
  write();
  if (!p.right) ptx::wait_products<0>();
}
// An arrival at another block's barrier that hands on a store to global memory.
void handed_on(Parameter p) {
  begin();
  const bool gives = ptx::cluster_rank() == 1, first = ptx::thread() == 0;
  if (gives && first) {
    *p.memory = 1;
    p.right ? ptx::arrive_releasing(barrier(), 0) : ptx::arrive_at(ptx::in_block(barrier(), 0), 0);
  }
  if (!gives) {
    p.right ? ptx::wait_acquiring(barrier(), 0) : ptx::wait_for(barrier(), 0);
    if (first && *static_cast<volatile unsigned char*>(p.memory) == 2) std::abort();
  }
  ptx::sync_cluster();
}
// Lanes that meet before one of them speaks for the warp.
void told_by_a_lane(Parameter p) {
  ptx::Barrier* const told = barrier() + 1;
  if (ptx::thread() == 0) ptx::begin_barrier(told, kThreads / kLanes);
  begin();
  bring(p);
  ptx::wait_for(barrier(), 0);
  read();
  ptx::show_to_products();
  if (p.right) ptx::sync_warp();
  if (ptx::thread() % kLanes == 0) ptx::arrive(told);
  if (ptx::thread() == 0) ptx::wait_for(told, 0);
  bring(p);
  ptx::wait_for(barrier(), 1);
}
// Blocks of other clusters, which nothing orders.
void clusters(Parameter p) {
  if (ptx::thread() == 0) p.memory[p.right ? ptx::block_x() * 16 : 0] = 1;
}

struct Case {
  Kernel<Parameter> kernel;
  unsigned blocks = 1;
  int cluster = 1;
};
const std::map<std::string, Case> kCases = {
    {"exchange", {exchange}},
    {"exchange-copied", {exchange_copied}},
    {"bulk-copy", {bulk_copy}},
    {"shown-to-products", {shown_to_products}},
    {"shown-by-another", {shown_by_another}},
    {"shown-to-copies", {shown_to_copies}},
    {"tape", {tape}},
    {"product", {product}},
    {"handed-on", {handed_on, 2, 2}},
    {"told-by-a-lane", {told_by_a_lane}},
    {"clusters", {clusters, 2}},
};

}  // namespace

int main(int count, char** arguments) {
  if (count == 1) {
    for (const auto& [name, unused] : kCases) std::printf("%s\n", name.c_str());
    return 0;
  }
  const Case& one = kCases.at(arguments[1]);
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, kBytes) != 0) return 1;
  std::memset(memory, 0, kBytes);
  emulator::races::watch(memory, kBytes);
  const Parameter parameter{static_cast<unsigned char*>(memory), std::string(arguments[2]) == "right"};
  launch("kernel", one.kernel, {one.blocks, 1, kThreads, 64 * 1024, one.cluster}, parameter, nullptr);
  return 0;
}
