// dq of the aggregate from the members' own: their mean, or the smallest critic's, shared evenly at a tie.
#pragma once

#include "place.cuh"

namespace vgf::cuda {

// Four numbers of a row, the `four`-th; what lies past the actions' numbers is nobody's.
__device__ inline Four combined_gradient(const Place& here, int row, int four) {
  const Program& p = here.p;
  const bool mean = p.aggregate == Aggregate::mean;
  Four sum{};
  float smallest = 0;
  int sharing = 0;
  bool nan = false;
#pragma unroll 2
  for (int e = 0; e < p.critic.ensemble; e++) {
    const Four its = *reinterpret_cast<const Four*>(here.member(e) + row * padded(p.A) + 4 * four);
    const float q = here.q(e)[row];
    nan |= q != q;
    const bool alone = e == 0 || (!mean && q < smallest), shares = mean || q == smallest;
    smallest = alone ? q : smallest;
    sharing = alone ? 1 : sharing + shares;
    for (int k = 0; k < 4; k++) sum.x[k] = alone ? its.x[k] : shares ? sum.x[k] + its.x[k] : sum.x[k];
  }
  // nobody is smallest where q is NaN
  for (int k = 0; k < 4; k++) sum.x[k] = nan && !mean ? ptx::as_float(0x7fc00000u) : sum.x[k] / sharing;
  return sum;
}

}  // namespace vgf::cuda
