// Mean and squared deviations of numbers that are seen a few at a time.
#pragma once

#include "../../math/elementary.hpp"
#include "../numbers.cuh"

namespace vgf::cuda {

struct Moments {
  float mean = 0, squares = 0;
  // n more behind the first `seen`.
  __device__ void include(int seen, int n, float its_mean, float its_squares) {
    const float away = its_mean - mean, share = static_cast<float>(n) / (seen + n);
    mean = math::fma(away, share, mean);
    squares += math::fma(away * away, seen * share, its_squares);
  }
};

}  // namespace vgf::cuda
