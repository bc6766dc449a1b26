// What differentiating through the median adds to phi, in states larger than a tile: the two particles in the rows of its
// middle entries are pulled.
//
// A block takes a state: its threads find the middle values, its first warp the entries, by the rows' counts of equal
// distances that sm80_interact.cu has left, and then changes phi. Rarely used: cost 2 N reads and one walk over a row.
#include "pairs.cuh"
#include "runtime.hpp"

namespace vgf::cuda {
namespace {

// Row and column of the `left`-th of the entries that equal a middle value, in row-major order. One warp.
__device__ void locate(const Pairs& p, std::int64_t state, int which, unsigned value, Count rest, int& row, int& column) {
  const int lane = ptx::thread() % kLanes;
  const float* x = p.x + state * p.N * p.A;
  row = -1;
  for (int first = 0; first < p.N && row < 0; first += kLanes) {
    const unsigned count = first + lane < p.N ? p.equals[(state * p.N + first + lane) * 2 + which] : 0;
    const Count upto = sum_upto(Count{count});
    const unsigned found = ptx::ballot(upto > rest);
    if (found) {
      const int at = ptx::first_bit(found);
      row = first + at;
      rest -= ptx::shuffle(upto - count, at);
    } else {
      rest -= ptx::shuffle(upto, kLanes - 1);
    }
  }
  column = -1;
  for (int first = 0; first < p.N && column < 0; first += kLanes) {
    const int j = min_int(first + lane, p.N - 1);
    const bool equal = first + lane < p.N &&
                       ptx::as_bits(squared_distance(x + std::int64_t{row} * p.A, x + std::int64_t{j} * p.A, p.A)) == value;
    const unsigned found = ptx::ballot(equal), count = ptx::count_bits(found);
    if (rest < count)
      column = first + ptx::first_bit(ptx::ballot(equal && ptx::count_bits(found & ((1u << lane) - 1)) == static_cast<int>(rest)));
    else
      rest -= count;
  }
}

}  // namespace

__global__ void __launch_bounds__(kThreads) through_kernel(const __grid_constant__ Pairs p) {
  Search& search = *reinterpret_cast<Search*>(ptx::shared_memory());
  const std::int64_t state = ptx::block_x();
  const MiddleValues m = middle_values(p, state, search);
  const double h = bandwidth_of(m, p.rule);
  if (ptx::thread() >= kLanes || !m.finite || !(h > kLeastBandwidth)) return;
  const int lane = ptx::thread();
  double sum = 0;
  Count lows = 0;  // entries that equal the lower one
  for (int i = lane; i < p.N; i += kLanes) {
    sum += p.weighted[state * p.N + i];
    lows += p.equals[(state * p.N + i) * 2];
  }
  for (int mask = 1; mask < kLanes; mask *= 2) {
    sum += ptx::shuffle_xor(sum, mask);
    lows += ptx::shuffle_xor(lows, mask);
  }
  const MiddleRanks ranks = middle_ranks(p.N);
  const int entries = ranks.lower == ranks.upper ? 1 : 2;
  const float pull = pull_of(h, gamma_of(h), sum, entries, p.rule);
  // how many entries are smaller than the upper one: the diagonal, and pairs twice
  const Count smaller = m.high == 0 ? 0 : p.N + 2 * (ranks.pair - m.rank);
  const float* x = p.x + state * p.N * p.A;
  for (int e = 0; e < entries; e++) {
    const bool last_low = e == 0 && m.low != m.high;  // the last of its equals; the upper one is then the first of its
    int row, column;
    locate(p, state, e, e == 0 ? m.low : m.high, last_low ? lows - 1 : (e == 0 ? ranks.lower : ranks.upper) - smaller, row,
           column);
    float* phi = p.phi + (state * p.N + row) * p.A;
    for (int a = lane; a < p.A; a += kLanes)
      phi[a] -= p.rule.inverse_n * pull * (x[std::int64_t{row} * p.A + a] - x[std::int64_t{column} * p.A + a]);
    ptx::sync_warp();
  }
}

Kernel<Pairs> through_kernel_of(int& shared_bytes) {
  shared_bytes = sizeof(Search);
  return through_kernel;
}

}  // namespace vgf::cuda
