// The median bandwidth of one state: exact, over all N^2 squared distances, without an N x N array.
#pragma once

#include "kernels.hpp"

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

std::size_t bandwidth_scratch(int n);

// x is struct of arrays (see Pairwise). `middle` is found only when asked for.
Bandwidth median_bandwidth(const float* x, long stride, int dims, int n, bool want_middle, float* scratch);
float fixed_bandwidth(double sigma);

}  // namespace vgf::cpu
