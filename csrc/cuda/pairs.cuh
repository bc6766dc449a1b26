// Pieces of the kernels that look at all pairs of a large state: tiles of squared distances, and the middle of them.
#pragma once

#include "numbers.cuh"
#include "pairs.hpp"
#include "select.cuh"

namespace vgf::cuda {

// [dims][kPairTile] of 64 consecutive particles, zero past the last.
using PairSide = float[kPairDims][kPairTilePitch];

__device__ inline void load_side(const float* x, int n, int dims, int first, int from_dim, int count, PairSide& side) {
  for (int i = ptx::thread(); i < kPairTile * count; i += kThreads) {
    const int particle = i / count, a = i % count;
    side[a][particle] = first + particle < n ? x[std::int64_t{first + particle} * dims + from_dim + a] : 0;
  }
}

// d2 of a thread's pairs: 4 particles i by 4 particles j of a tile.
struct PairBlock {
  static constexpr int kRows = 4, kColumns = 4;
  float d2[kRows][kColumns];
  static __device__ int row(int i) { return ptx::thread() / 16 * kRows + i; }
  static __device__ int column(int j) { return ptx::thread() % 16 + 16 * j; }

  // x [n][dims]; rows and columns are overwritten. In the order of operations of squared_distance.
  __device__ void fill(const float* x, int n, int dims, int first_row, int first_column, PairSide& rows,
                       PairSide& columns) {
#pragma unroll
    for (int i = 0; i < kRows; i++)
#pragma unroll
      for (int j = 0; j < kColumns; j++) d2[i][j] = 0;
    for (int from = 0; from < dims; from += kPairDims) {
      const int count = min_int(kPairDims, dims - from);
      ptx::sync_block();  // all have left the sides
      load_side(x, n, dims, first_row, from, count, rows);
      load_side(x, n, dims, first_column, from, count, columns);
      ptx::sync_block();
      for (int a = 0; a < count; a++) {
        const Four own = *reinterpret_cast<const Four*>(&rows[a][row(0)]);
#pragma unroll
        for (int j = 0; j < kColumns; j++) {
          const float other = columns[a][column(j)];
#pragma unroll
          for (int i = 0; i < kRows; i++) {
            const float d = own.x[i] - other;
            d2[i][j] = math::fma(d, d, d2[i][j]);
          }
        }
      }
    }
  }
};

// What a block shares while it looks for a digit.
struct Search {
  Count of_warp[kWarps];
  Count rank;
  unsigned bin, below;
};

// Finds the bin of [kDigitBins] where a running count passes `rank`, which becomes what is left of it.
__device__ inline void find_digit(const Count* counts, Count& rank, unsigned& bin, Search& search) {
  constexpr int each = kDigitBins / kThreads;
  const int lane = ptx::thread() % kLanes, warp = ptx::thread() / kLanes;
  Count mine[each], sum = 0;
#pragma unroll
  for (int i = 0; i < each; i++) sum += mine[i] = counts[ptx::thread() * each + i];
  const Count upto = sum_upto(sum);
  if (lane == kLanes - 1) search.of_warp[warp] = upto;
  ptx::sync_block();
  Count before = upto - sum;
  for (int w = 0; w < warp; w++) before += search.of_warp[w];
  if (rank >= before && rank - before < sum) {
#pragma unroll
    for (int i = 0; i < each; i++) {
      if (rank >= before && rank - before < mine[i]) search.bin = ptx::thread() * each + i, search.rank = rank - before;
      before += mine[i];
    }
  }
  ptx::sync_block();
  bin = search.bin;
  rank = search.rank;
  ptx::sync_block();
}

// The bits that the first `digits` digits of the upper middle value come to, and the rank that is left among its equals.
__device__ inline unsigned known_digits(const Pairs& p, std::int64_t state, int digits, Count& rank, Search& search) {
  unsigned bits = 0;
  rank = middle_ranks(p.N).pair;
  for (int d = 0; d < digits; d++) {
    unsigned bin;
    find_digit(p.counts + (state * kDigits + d) * kDigitBins, rank, bin, search);
    bits |= bin << digit_shift(d);
  }
  return bits;
}

struct MiddleValues {
  unsigned low, high;  // bits
  Count rank;          // of the upper one among the pairs that equal it
  bool finite;         // all particles are
};

// All threads get them, once all digits are counted.
__device__ inline MiddleValues middle_values(const Pairs& p, std::int64_t state, Search& search) {
  MiddleValues m;
  m.high = known_digits(p, state, kDigits, m.rank, search);
  m.low = m.high;
  m.finite = p.notes[2 * state] == 0;
  if (!middle_ranks(p.N).apart || m.rank > 0) return m;
  const Count* counts = p.counts + (state * kDigits + kDigits - 1) * kDigitBins;
  const unsigned last = digit_of(m.high, kDigits - 1);
  if (ptx::thread() == 0) search.below = 0;
  ptx::sync_block();
  for (unsigned bin = ptx::thread(); bin < last; bin += kThreads)
    if (counts[bin] > 0) ptx::atomic_max(&search.below, bin + 1);
  ptx::sync_block();
  m.low = search.below > 0 ? m.high - last + search.below - 1 : p.notes[2 * state + 1];
  return m;
}

__device__ inline double bandwidth_of(const MiddleValues& m, const PairwiseRule& rule) {
  return bandwidth_of(ptx::as_float(m.low), ptx::as_float(m.high), rule);
}

}  // namespace vgf::cuda
