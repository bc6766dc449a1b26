// The median bandwidth of one state: exact, over all N^2 squared distances, without an N x N array.
#pragma once

#include "kernels.hpp"
#include "team.hpp"

namespace vgf::cpu {

// The entries of the row-major [N, N] distance matrix that stand in the middle of a stable ascending sort.
struct Middle {
  int entries = 0;  // 1 or 2
  int row[2], column[2];
};

struct Bandwidth {
  float gamma;
  bool floored;  // sigma^2 sits at its floor, where the median no longer moves it
  Middle middle;
};

// Floats of memory that a state's median takes: of the team, and of each member on top.
std::size_t bandwidth_shared(int n);
std::size_t bandwidth_scratch(int n);

// x is struct of arrays (see Pairwise). `middle` is found only when asked for. All members of the team call it and get the
// same result.
Bandwidth median_bandwidth(const Member&, const float* x, long stride, int dims, int n, bool want_middle, float* shared,
                           float* scratch);
Bandwidth fixed_bandwidth(double sigma);

}  // namespace vgf::cpu
