// The bandwidth of one state that a block holds: the exact median of all N^2 squared distances.
//
// Of few particles a warp holds all distances in registers and finds the median's bits one by one, a vote a bit. Of more,
// the block counts digits: it walks all pairs four times, and computes distances anew each time (3 A instructions), so
// nothing of size N^2 is kept. counts: kCounts numbers in shared memory.
#pragma once

#include "../../math/elementary.hpp"
#include "../select.cuh"

namespace vgf::cuda {

// The squared distances of one state's pairs, in the order of the matrix: of particles x [n][dims], or found already.
struct ComputedDistances {
  const float* x;
  int n, dims;
  __device__ float operator()(int pair) const {
    return squared_distance(x + pair / n * dims, x + pair % n * dims, dims);
  }
};
struct StoredDistances {
  const float* d2;  // [n][kPairPitch]
  int n;
  __device__ float operator()(int pair) const { return d2[pair / n * kPairPitch + pair % n]; }
};

struct Middle {
  unsigned low, high;  // bits of the two middle values
  bool nan;
};

// One warp. A function, since it takes more registers than anything else, and what surrounds it would have to do without them.
__device__ __noinline__ inline Middle middle_of_few(const StoredDistances distance) {
  constexpr int kPerLane = kPairColumns * kPairColumns / kLanes;
  const int lane = ptx::thread() % kLanes, total = distance.n * distance.n, rank = total / 2;
  unsigned bits[kPerLane];
  bool nan = false;
#pragma unroll
  for (int i = 0; i < kPerLane; i++) {
    const int pair = lane + i * kLanes;
    bits[i] = pair < total ? ptx::as_bits(distance(pair)) : ~0u;
    nan = nan || (pair < total && is_nan(bits[i]));
  }
  const auto below = [&](unsigned value) {
    int count = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; i++) count += ptx::count_bits(ptx::ballot(bits[i] < value));
    return count;
  };
  Middle middle{0, 0, ptx::ballot(nan) != 0};
#pragma unroll 1
  for (unsigned bit = 1u << 30; bit > 0; bit >>= 1)  // the largest number that no more than `rank` are below
    if (below(middle.high | bit) <= rank) middle.high |= bit;
  middle.low = middle.high;
  if (total % 2 == 0 && below(middle.high) == rank) {  // the entry before is a smaller one
    unsigned largest = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; i++)
      if (bits[i] < middle.high && bits[i] > largest) largest = bits[i];
    for (int mask = 1; mask < kLanes; mask *= 2) {
      const unsigned other = ptx::shuffle_xor(largest, mask);
      largest = other > largest ? other : largest;
    }
    middle.low = largest;
  }
  return middle;
}

// The whole block.
__device__ inline Middle middle_of_many(const ComputedDistances& distance, unsigned* counts) {
  const int total = distance.n * distance.n;
  unsigned *nan = counts + kBins, *largest_below = nan + 1;
  unsigned long long rank = total / 2;
  unsigned prefix = 0;
  Middle middle{};
  for (int shift = 32 - kDigitBits;; shift -= kDigitBits) {
    const bool first = shift == 32 - kDigitBits, last = shift == 0;
    for (int i = ptx::thread(); i < kCounts; i += kThreads)
      if (first || i < kBins) counts[i] = 0;
    ptx::sync_block();
    for (int pair = ptx::thread(); pair < total; pair += kThreads) {
      const unsigned bits = ptx::as_bits(distance(pair));
      const unsigned known = first ? 0 : bits >> (shift + kDigitBits);
      if (known == prefix)
        ptx::atomic_add(counts + (bits >> shift & (kBins - 1)), 1u);
      else if (last && known < prefix)
        ptx::atomic_max(largest_below, bits);
      if (first && is_nan(bits)) ptx::atomic_max(nan, 1);
    }
    ptx::sync_block();
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
    ptx::sync_block();
    if (last) return middle;
  }
}

// Where the entry of rank `rank`, whose value is known, stands in the row-major matrix. One warp.
template <class Distances>
__device__ inline void locate(const Distances& distance, unsigned rank, unsigned value, short& row, short& column) {
  const int lane = ptx::thread() % kLanes, total = distance.n * distance.n;
  unsigned smaller = 0;
  for (int first = 0; first < total; first += kLanes)
    smaller += ptx::count_bits(
        ptx::ballot(first + lane < total && ptx::as_bits(distance(min_int(first + lane, total - 1))) < value));
  unsigned left = rank - smaller;
  for (int first = 0; first < total; first += kLanes) {
    const bool equal = first + lane < total && ptx::as_bits(distance(min_int(first + lane, total - 1))) == value;
    const unsigned found = ptx::ballot(equal);
    const unsigned count = ptx::count_bits(found);
    if (left < count) {
      const bool it = equal && ptx::count_bits(found & ((1u << lane) - 1)) == static_cast<int>(left);
      const int pair = first + ptx::first_bit(ptx::ballot(it));
      row = static_cast<short>(pair / distance.n);
      column = static_cast<short>(pair % distance.n);
      return;
    }
    left -= count;
  }
}

// sum over i, j of d2 k. One warp; all lanes get it.
template <class Distances>
__device__ inline float weighted_distances(const Distances& distance, float gamma) {
  float sum = 0;
  for (int pair = ptx::thread() % kLanes; pair < distance.n * distance.n; pair += kLanes) {
    const float d2 = distance(pair);
    sum = math::fma(d2, math::rbf(gamma * d2), sum);
  }
  for (int mask = 1; mask < kLanes; mask *= 2) sum += ptx::shuffle_xor(sum, mask);
  return sum;
}

// By one warp, once it knows the middle.
template <class Distances>
__device__ inline void put_bandwidth(const Distances& distance, const Middle& middle, const PairwiseRule& rule,
                                     Bandwidth* out) {
  const double h = bandwidth_of(ptx::as_float(middle.low), ptx::as_float(middle.high), rule);
  Bandwidth b{middle.nan ? ptx::as_float(0x7fc00000u) : gamma_of(h), 0, {-1, -1}, {0, 0}};
  if (rule.through && !middle.nan) {
    const unsigned total = distance.n * distance.n, lower = (total - 1) / 2, upper = total / 2;
    locate(distance, lower, middle.low, b.row[0], b.column[0]);
    if (lower != upper) locate(distance, upper, middle.high, b.row[1], b.column[1]);
    b.pull = pull_of(h, b.gamma, weighted_distances(distance, b.gamma), lower != upper ? 2 : 1, rule);
  }
  if (ptx::thread() % kLanes == 0) *out = b;
}

}  // namespace vgf::cuda
