// Values to targets or actions, for states larger than a tile: a warp a state.
//
// q [E, B, N], particles [B, N, A]; see Judging. Cost model: 4 E N bytes a state, bound by memory.
#include "reduce.cuh"
#include "runtime.hpp"

namespace vgf::cuda {

__global__ void __launch_bounds__(kThreads) judge_kernel(const __grid_constant__ Judging g) {
  const Judgement& j = g.judgement;
  const std::int64_t state = std::int64_t{ptx::block_x()} * kWarps + ptx::thread() / kLanes;
  if (state >= g.B) return;
  const auto value = [&](int i) {
    return aggregated(g.E, j.aggregate, [&](int e) { return g.q[(e * g.B + state) * g.N + i]; });
  };
  judge_state(j, state, g.N, g.A, g.particles + state * g.N * g.A, value);
}

Kernel<Judging> judge_kernel_of() { return judge_kernel; }

}  // namespace vgf::cuda
