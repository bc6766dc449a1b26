// The optimizer step and the clip of all particles, where the direction came from kernels of its own.
//
// x, first, second [count] are updated from phi [count]; path [count] or null gets a copy. A thread a number.
// Cost model: 28 bytes a number, bound by memory.
#include <ptx/thread.cuh>

#include "runtime.hpp"
#include "update.cuh"

namespace vgf::cuda {

__global__ void __launch_bounds__(kThreads) step_kernel(const __grid_constant__ Step s) {
  const Corrections corrections = Corrections::of(counted(s.rule.first_step));
  const std::int64_t stride = std::int64_t{ptx::blocks_x()} * kThreads;
  for (std::int64_t i = std::int64_t{ptx::block_x()} * kThreads + ptx::thread(); i < s.count; i += stride) {
    s.x[i] = moved(s.x[i], s.phi[i], s.first[i], s.second[i], s.rule, corrections);
    if (s.path) s.path[i] = s.x[i];
  }
}

Kernel<Step> step_kernel_of() { return step_kernel; }

}  // namespace vgf::cuda
