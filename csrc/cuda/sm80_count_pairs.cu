// One digit of the median of all squared distances of a large state: counts of the pairs i < j that match what the
// digits before came to.
//
// x [B, N, A], counts, notes: see Pairs. A block takes 64 particles i of a state and walks over the particles j behind
// them; its counts lie in shared memory and are added to the state's at the end.
// Shared memory: two sides of 64 particles by 32 dimensions (17 KB), 2048 counts (8 KB), the search.
// Floors: 3 A + 6 instructions a pair and digit; 4 A bytes a particle from L2 for every 64 particles i.
#include "pairs.cuh"
#include "runtime.hpp"

namespace vgf::cuda {
namespace {

struct Shared {
  PairSide rows, columns;
  unsigned counts[kDigitBins];
  Search search;
};
static_assert(sizeof(Shared) <= 48 * 1024);
static_assert(Count{kPairTile} * kMostCounted <= ~0u + Count{1}, "a block's counts");

}  // namespace

__global__ void __launch_bounds__(kThreads) count_kernel(const __grid_constant__ Pairs p) {
  Shared& shared = *reinterpret_cast<Shared*>(ptx::shared_memory());
  const std::int64_t state = ptx::block_x() / p.tiles();
  const int first = ptx::block_x() % p.tiles() * kPairTile;
  const float* x = p.x + state * p.N * p.A;
  for (int i = ptx::thread(); i < kDigitBins; i += kThreads) shared.counts[i] = 0;
  Count rank;
  unsigned largest_below = 0, not_finite = 0;
  const unsigned known = known_digits(p, state, p.digit, rank, shared.search);
  const unsigned above = p.digit > 0 ? ~0u << digit_shift(p.digit - 1) : 0;  // the bits of the digits before
  if (p.digit == 0)
    for (int i = ptx::thread(); i < kPairTile * p.A; i += kThreads)
      if (first + i / p.A < p.N) not_finite |= !(ptx::as_bits(x[std::int64_t{first} * p.A + i]) << 1 < 0xff000000u);
  for (int other = first; other < p.N; other += kPairTile) {
    PairBlock block;
    block.fill(x, p.N, p.A, first, other, shared.rows, shared.columns);
#pragma unroll
    for (int i = 0; i < PairBlock::kRows; i++)
#pragma unroll
      for (int j = 0; j < PairBlock::kColumns; j++) {
        const int row = first + block.row(i), column = other + block.column(j);
        if (row >= column || column >= p.N) continue;
        const unsigned bits = ptx::as_bits(block.d2[i][j]);
        if ((bits & above) == known)
          ptx::atomic_add(shared.counts + digit_of(bits, p.digit), 1u);
        else if (bits < known && bits > largest_below)
          largest_below = bits;
      }
  }
  ptx::sync_block();
  Count* counts = p.counts + (state * kDigits + p.digit) * kDigitBins;
  for (int i = ptx::thread(); i < kDigitBins; i += kThreads)
    if (shared.counts[i] > 0) ptx::atomic_add(counts + i, Count{shared.counts[i]});
  if (not_finite) ptx::atomic_max(p.notes + 2 * state, 1);
  if (p.digit == kDigits - 1 && largest_below > 0) ptx::atomic_max(p.notes + 2 * state + 1, largest_below);
}

Kernel<Pairs> count_kernel_of(int& shared_bytes) {
  shared_bytes = sizeof(Shared);
  return count_kernel;
}

}  // namespace vgf::cuda
