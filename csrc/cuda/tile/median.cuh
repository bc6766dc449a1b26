// The bandwidth of one state that a block holds: the exact median of all N^2 squared distances, by counting digits.
//
// A team, one warp or the whole block, walks all pairs four times; distances are computed anew each time (3 A
// instructions), so nothing of size N^2 is kept. counts: kCounts numbers of the team in shared memory.
#pragma once

#include "../../math/elementary.hpp"
#include "../select.cuh"

namespace vgf::cuda {

template <bool BlockWide>
struct Team {
  static __device__ int rank() { return BlockWide ? ptx::thread() : ptx::thread() % kLanes; }
  static constexpr int kSize = BlockWide ? kThreads : kLanes;
  static __device__ void sync() {
    if constexpr (BlockWide)
      ptx::sync_block();
    else
      ptx::sync_warp();
  }
};

// The particles of one state: x [n][dims].
struct State {
  const float* x;
  int n, dims;
  __device__ float distance(int pair) const {
    return squared_distance(x + pair / n * dims, x + pair % n * dims, dims);
  }
};

struct Middle {
  unsigned low, high;  // bits of the two middle values
  bool nan;
};

template <class T>
__device__ inline Middle middle_values(const State& s, unsigned* counts) {
  const int total = s.n * s.n;
  unsigned *nan = counts + kBins, *largest_below = nan + 1;
  unsigned long long rank = total / 2;
  unsigned prefix = 0;
  Middle middle{};
  for (int shift = 32 - kDigitBits;; shift -= kDigitBits) {
    const bool first = shift == 32 - kDigitBits, last = shift == 0;
    for (int i = T::rank(); i < kCounts; i += T::kSize)
      if (first || i < kBins) counts[i] = 0;
    T::sync();
    for (int pair = T::rank(); pair < total; pair += T::kSize) {
      const unsigned bits = ptx::as_bits(s.distance(pair));
      const unsigned known = first ? 0 : bits >> (shift + kDigitBits);
      if (known == prefix)
        ptx::atomic_add(counts + (bits >> shift & (kBins - 1)), 1u);
      else if (last && known < prefix)
        ptx::atomic_max(largest_below, bits);
      if (first && is_nan(bits)) ptx::atomic_max(nan, 1);
    }
    T::sync();
    unsigned bin = 0;
    find_bin(counts, kBins, rank, bin);
    prefix = prefix << kDigitBits | bin;
    if (last) {
      middle.high = middle.low = prefix;
      middle.nan = *nan > 0;
      if (total % 2 == 0 && rank == 0) {  // the entry before is a smaller one
        const int below = bin_below(counts, bin);
        middle.low = below < 0 ? *largest_below : (prefix & ~(kBins - 1u)) | below;
      }
    }
    T::sync();
    if (last) return middle;
  }
}

// Where the entry of rank `rank`, whose value is known, stands in the row-major matrix. One warp.
__device__ inline void locate(const State& s, unsigned rank, unsigned value, int& row, int& column) {
  const int lane = ptx::thread() % kLanes, total = s.n * s.n;
  unsigned smaller = 0;
  for (int first = 0; first < total; first += kLanes)
    smaller += ptx::count_bits(
        ptx::ballot(first + lane < total && ptx::as_bits(s.distance(min_int(first + lane, total - 1))) < value));
  unsigned left = rank - smaller;
  for (int first = 0; first < total; first += kLanes) {
    const bool equal = first + lane < total && ptx::as_bits(s.distance(min_int(first + lane, total - 1))) == value;
    const unsigned found = ptx::ballot(equal);
    const unsigned count = ptx::count_bits(found);
    if (left < count) {
      const bool it = equal && ptx::count_bits(found & ((1u << lane) - 1)) == static_cast<int>(left);
      const int pair = first + ptx::first_bit(ptx::ballot(it));
      row = pair / s.n;
      column = pair % s.n;
      return;
    }
    left -= count;
  }
}

// sum over i, j of d2 k. One warp; all lanes get it.
__device__ inline float weighted_distances(const State& s, float gamma) {
  float sum = 0;
  for (int pair = ptx::thread() % kLanes; pair < s.n * s.n; pair += kLanes) {
    const float d2 = s.distance(pair);
    sum = math::fma(d2, math::exp(-gamma * d2), sum);
  }
  for (int mask = 1; mask < kLanes; mask *= 2) sum += ptx::shuffle_xor(sum, mask);
  return sum;
}

template <bool BlockWide>
__device__ inline void find_bandwidth(const State& s, const PairwiseRule& rule, unsigned* counts, Bandwidth* out) {
  const Middle middle = middle_values<Team<BlockWide>>(s, counts);
  if (BlockWide && ptx::thread() >= kLanes) return;
  const double h = 0.5 * (double{ptx::as_float(middle.low)} + double{ptx::as_float(middle.high)}) / rule.scale;
  Bandwidth b{middle.nan ? ptx::as_float(0x7fc00000u) : gamma_of(h), 0, {-1, -1}, {0, 0}};
  if (rule.through && !middle.nan) {
    const unsigned total = s.n * s.n, lower = (total - 1) / 2, upper = total / 2;
    locate(s, lower, middle.low, b.row[0], b.column[0]);
    if (lower != upper) locate(s, upper, middle.high, b.row[1], b.column[1]);
    const float sum = weighted_distances(s, b.gamma);
    if (h > 1e-12)
      b.pull = static_cast<float>(2.0 * b.gamma * b.gamma * sum / rule.scale * 2 / (lower != upper ? 2 : 1));
  }
  if (ptx::thread() % kLanes == 0) *out = b;
}

}  // namespace vgf::cuda
