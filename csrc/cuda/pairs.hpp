// What the kernels of states larger than a tile are told.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

constexpr int kPairTile = 64;               // particles i, and particles j, of a tile of pairs
constexpr int kPairTilePitch = kPairTile + 4;  // of [dims][kPairTile] in shared memory; rows of 16 bytes
constexpr int kPairDims = 32;               // dimensions in shared memory at a time

// Distances are ordered by three digits of their bits: 11, 11 and 10.
constexpr int kDigits = 3, kDigitBins = 2048;
VGF_HD constexpr int digit_shift(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
VGF_HD constexpr unsigned digit_of(unsigned bits, int digit) {
  const int width = (digit == 0 ? 32 : digit_shift(digit - 1)) - digit_shift(digit);
  return bits >> digit_shift(digit) & ((1u << width) - 1);
}
static_assert(digit_of(~0u, 0) == kDigitBins - 1 && digit_of(~0u, 1) == kDigitBins - 1 && digit_of(~0u, 2) < kDigitBins);
// A block counts its 64 N pairs in 32 bits, a state's N^2 are counted in 64.
using Count = unsigned long long;
constexpr int kMostCounted = 1 << 26;
// A multiprocessor is given so many blocks in a launch; the counts of more states would only take memory.
constexpr int kPairBlocks = 32;

struct Pairs {
  const float* x;   // [B, N, A]
  const float* dq;  // [B, N, A]
  float* phi;       // [B, N, A]
  int N, A;
  PairwiseRule rule;
  Count* counts;    // [states of a launch][kDigits][kDigitBins], zero at first
  unsigned* notes;  // [states of a launch][2], zero at first: a particle is not finite; bits of the largest distance below the median's
                    // first two digits
  int digit;         // the one to count
  // where the bandwidth is differentiated too, else null
  float* weighted;   // [B, N] sum_j d2 k
  unsigned* equals;  // [B, N, 2] how many d2_ij of a row equal the lower, the upper middle value

  VGF_HD int tiles() const { return (N + kPairTile - 1) / kPairTile; }
  // The same of the states from `state` on, in a launch of their own.
  Pairs from(std::int64_t state) const {
    Pairs p = *this;
    const std::int64_t particles = state * N;
    p.x += particles * A;
    p.dq += particles * A;
    p.phi += particles * A;
    if (weighted) p.weighted += particles, p.equals += 2 * particles;
    return p;
  }
};

// Ranks of the middle values among the pairs i < j; the N^2 entries are N zeros and every pair twice. N > 2.
struct MiddleRanks {
  Count lower, upper, pair;
  bool apart;  // the two fall on different pairs, `pair - 1` and `pair`
};
VGF_HD inline MiddleRanks middle_ranks(int n) {
  const Count count = n, total = count * count, lower = (total - 1) / 2, upper = total / 2;
  return {lower, upper, (upper - count) / 2, lower != upper && (upper - count) % 2 == 0};
}

// One update of particles [count] from phi, with moments.
struct Step {
  float *x, *first, *second;
  const float* phi;
  float* path;  // where the trajectory has this step, or null
  std::int64_t count;
  UpdateRule rule;
};

// Values to targets or actions. q [E, B, N], particles [B, N, A].
struct Judging {
  const float *q, *particles;
  std::int64_t B;
  int E, N, A;
  Judgement judgement;
};

}  // namespace vgf::cuda
