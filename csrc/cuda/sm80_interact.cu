// From the gradient dq to the direction phi in states larger than a tile.
//
// x, dq, phi [B, N, A], counts, notes, weighted, equals: see Pairs. A block takes 64 particles i of a state and walks over
// all particles j, 64 at a time: first the kernel values of 64 x 64 pairs, into shared memory, then the two sums over j,
// of 2 or 4 particles i and some dimensions a thread, in registers. The sums of 64 are added up as such, so that round-off
// grows with N / 64.
// Shared memory: two sides of 64 particles by 32 dimensions (17 KB), kernel values (17 KB), the search.
// Floors: 6 A + 20 instructions a pair; 12 A bytes a particle j from L2 for every 64 particles i. No N x N array.
#include "../math/elementary.hpp"
#include "pairs.cuh"
#include "runtime.hpp"

namespace vgf::cuda {
namespace {

struct Shared {
  PairSide rows, columns;
  float kernel[kPairTile][kPairTilePitch];  // [j][i]
  Search search;
};
static_assert(sizeof(Shared) <= 48 * 1024);
static_assert(sizeof(PairSide) % 16 == 0 && kPairTilePitch % 4 == 0);

}  // namespace

// Lanes: threads side by side along the dimensions.
template <int Lanes>
__global__ void __launch_bounds__(kThreads) interact_kernel(const __grid_constant__ Pairs p) {
  constexpr int own = kPairTile * Lanes / kThreads;  // particles i of a thread
  constexpr int slices = kPairDims / Lanes;
  Shared& shared = *reinterpret_cast<Shared*>(ptx::shared_memory());
  const std::int64_t state = ptx::block_x() / p.tiles();
  const int first = ptx::block_x() % p.tiles() * kPairTile;
  const std::int64_t numbers = state * p.N * p.A;
  const float *x = p.x + numbers, *dq = p.dq + numbers;
  MiddleValues middle{};
  float gamma = p.rule.fixed_gamma;
  if (p.rule.median) {
    middle = middle_values(p, state, shared.search);
    gamma = middle.finite ? gamma_of(bandwidth_of(middle, p.rule)) : ptx::as_float(0x7fc00000u);
  }
  const int lane = ptx::thread() % Lanes, mine = ptx::thread() / Lanes * own;
  float weighted[PairBlock::kRows] = {};
  unsigned equals[PairBlock::kRows][2] = {};
  for (int from = 0; from < p.A; from += kPairDims) {
    const int count = min_int(kPairDims, p.A - from);
    float towards[slices][own] = {}, away[slices][own] = {}, self[slices][own] = {};
#pragma unroll
    for (int s = 0; s < slices; s++)
#pragma unroll
      for (int i = 0; i < own; i++)
        if (s * Lanes + lane < count && first + mine + i < p.N)
          self[s][i] = x[std::int64_t{first + mine + i} * p.A + from + s * Lanes + lane];
    for (int other = 0; other < p.N; other += kPairTile) {
      PairBlock block;
      block.fill(x, p.N, p.A, first, other, shared.rows, shared.columns);
#pragma unroll
      for (int j = 0; j < PairBlock::kColumns; j++) {
        Four k;
#pragma unroll
        for (int i = 0; i < PairBlock::kRows; i++) {
          const float d2 = block.d2[i][j];
          k.x[i] = math::rbf(gamma * d2);
          if (other + block.column(j) >= p.N) {
            k.x[i] = 0;
          } else if (p.weighted && from == 0) {
            weighted[i] = math::fma(d2, k.x[i], weighted[i]);
            equals[i][0] += ptx::as_bits(d2) == middle.low;
            equals[i][1] += ptx::as_bits(d2) == middle.high;
          }
        }
        *reinterpret_cast<Four*>(&shared.kernel[block.column(j)][block.row(0)]) = k;
      }
      ptx::sync_block();  // the kernel is there, and the sides are free
      load_side(x, p.N, p.A, other, from, count, shared.columns);
      load_side(dq, p.N, p.A, other, from, count, shared.rows);
      ptx::sync_block();
      float towards_these[slices][own] = {}, away_these[slices][own] = {};
      for (int j = 0; j < kPairTile; j += 4) {
        float k[4][own];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int m = 0; m < own; m++) k[i][m] = shared.kernel[j + i][mine + m];
#pragma unroll
        for (int s = 0; s < slices; s++) {
          if (s * Lanes >= count) break;
          const int a = min_int(s * Lanes + lane, count - 1);  // a thread past the last dimension repeats it
          const Four value = *reinterpret_cast<const Four*>(&shared.rows[a][j]);
          const Four place = *reinterpret_cast<const Four*>(&shared.columns[a][j]);
#pragma unroll
          for (int i = 0; i < 4; i++)
#pragma unroll
            for (int m = 0; m < own; m++) {
              towards_these[s][m] = math::fma(k[i][m], value.x[i], towards_these[s][m]);
              away_these[s][m] = math::fma(k[i][m], self[s][m] - place.x[i], away_these[s][m]);
            }
        }
      }
#pragma unroll
      for (int s = 0; s < slices; s++)
#pragma unroll
        for (int m = 0; m < own; m++) towards[s][m] += towards_these[s][m], away[s][m] += away_these[s][m];
    }
#pragma unroll
    for (int s = 0; s < slices; s++)
#pragma unroll
      for (int i = 0; i < own; i++)
        if (s * Lanes + lane < count && first + mine + i < p.N)
          p.phi[numbers + std::int64_t{first + mine + i} * p.A + from + s * Lanes + lane] =
              p.rule.inverse_n * (p.rule.inverse_alpha * towards[s][i] + 2 * gamma * away[s][i]);
  }
  if (!p.weighted) return;
#pragma unroll
  for (int i = 0; i < PairBlock::kRows; i++) {
    for (int mask = 1; mask < 16; mask *= 2) {
      weighted[i] += ptx::shuffle_xor(weighted[i], mask);
      for (int m = 0; m < 2; m++) equals[i][m] += ptx::shuffle_xor(equals[i][m], mask);
    }
    const int row = first + PairBlock::row(i);
    if (ptx::thread() % 16 != 0 || row >= p.N) continue;
    p.weighted[state * p.N + row] = weighted[i];
    for (int m = 0; m < 2; m++) p.equals[(state * p.N + row) * 2 + m] = equals[i][m];
  }
}

Kernel<Pairs> interact_kernel_of(int dims, int& shared_bytes) {
  shared_bytes = sizeof(Shared);
  return dims <= 8 ? interact_kernel<8> : interact_kernel<16>;
}

}  // namespace vgf::cuda
