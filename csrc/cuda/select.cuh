// Exact order statistics by counting digits: the two middle values of all N^2 squared distances of a state.
//
// Squared distances are >= 0, so their bits order as unsigned integers do. A walk over all values counts one digit of
// those that match what is known so far; the walk of the last digit also keeps the largest value below.
#pragma once

#include <ptx/thread.cuh>

#include "program.hpp"

namespace vgf::cuda {

// (x_i - x_j)^2 of rows of `dims` floats, in one fixed order of operations.
__device__ inline float squared_distance(const float* x, const float* y, int dims) {
  float sum = 0;
  for (int a = 0; a < dims; a++) {
    const float d = x[a] - y[a];
    sum = math::fma(d, d, sum);
  }
  return sum;
}
__device__ inline bool is_nan(unsigned bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

// The sum of the counts of the lanes up to this one.
template <class T>
__device__ inline T sum_upto(T count) {
  for (int by = 1; by < kLanes; by *= 2) {
    const T below = ptx::shuffle_up(count, by);
    if (ptx::thread() % kLanes >= by) count += below;
  }
  return count;
}

// A warp's walk over `bins` counts: finds the bin where a running count passes `rank`; all lanes get it and
// what is left of the rank.
__device__ inline void find_bin(const unsigned* counts, int bins, unsigned long long& rank, unsigned& bin) {
  const int lane = ptx::thread() % kLanes;
  for (int first = 0; first < bins; first += kLanes) {
    const unsigned count = counts[first + lane];
    const unsigned sum = sum_upto(count);
    const unsigned found = ptx::ballot(sum > rank);
    if (found) {
      const int at = ptx::first_bit(found);
      bin = first + at;
      rank -= ptx::shuffle(sum - count, at);
      return;
    }
    rank -= ptx::shuffle(sum, kLanes - 1);
  }
}

// The largest bin below `bin` that is not empty, or -1.
__device__ inline int bin_below(const unsigned* counts, int bin) {
  const int lane = ptx::thread() % kLanes;
  for (int first = (bin / kLanes) * kLanes; first >= 0; first -= kLanes) {
    const unsigned found = ptx::ballot(first + lane < bin && counts[first + lane] > 0);
    if (found) return first + 31 - ptx::leading_zeros(found);
  }
  return -1;
}

// The bandwidth h, the median of the squared distances over 2 ln(N + 1), from the two in the middle.
__device__ inline double bandwidth_of(float low, float high, const PairwiseRule& rule) {
  return 0.5 * (double{low} + double{high}) * rule.inverse_scale;
}
constexpr double kLeastBandwidth = 1e-12;
__device__ inline float gamma_of(double h) {
  return 1.0f / static_cast<float>(1e-6 + 2 * (h > kLeastBandwidth ? h : kLeastBandwidth));
}
// How the particle of each middle entry (one or two of them) moves with the median. sum: of d2 k over all entries.
__device__ inline float pull_of(double h, float gamma, double sum, int entries, const PairwiseRule& rule) {
  if (!(h > kLeastBandwidth)) return 0;
  return static_cast<float>((entries == 2 ? 2.0 : 4.0) * gamma * gamma * sum * rule.inverse_scale);
}

}  // namespace vgf::cuda
