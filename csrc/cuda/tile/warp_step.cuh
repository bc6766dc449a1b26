// A step of a state of few particles, by one warp: gradient, median, kernel, direction and update. It waits for nobody, and
// states are divided among the warps of a block.
//
// A lane takes pairs of particles i < j (each distance once), or four numbers of a particle. Shared memory, a state's own, kFewPitch
// floats a particle:
//   x, dq      [n][numbers, by fours]    from scratch, where Adam's moments stay
//   kernel     [n][kFewKernelPitch]      k(x_i, x_j), both halves
//   distances  [pairs]                   squared
//   middle     [2]                       of all n^2 distances, in order
// Cost model, n = 10 with 8 numbers each, of two critics, clocks of a warp by itself, from its machine code (sm_90a) and assumed
// latencies: 1,200 for x and dq, an L2 latency among them, 700 for the distances, 2,000 for the median, 1,200 for bandwidth and
// kernel, 1,900 for sums and Adam: 7,000, of which nothing has been measured.
#pragma once

#include <ptx/access.cuh>

#include "../../math/elementary.hpp"
#include "../select.cuh"
#include "../update.cuh"
#include "gradient.cuh"

namespace vgf::cuda {

// A pair of n particles, i < j, by its number: the rows of a rectangle are those of the first particles in the triangle of
// pairs, filled up with those of the last.
struct Pair {
  int i, j;
  __device__ Pair(int n, int number, int row) {  // row: number / rectangle(n)
    const int odd = n % 2, column = number - row * rectangle(n);
    const bool of_first = column >= row + odd;
    i = of_first ? row : n - 1 - odd - row;
    j = of_first ? column + 1 - odd : n - 1 - column;
  }
  __device__ void turn() {
    const int first = i;
    i = j;
    j = first;
  }
  static __device__ int rectangle(int n) { return n - 1 + n % 2; }
};

// a / b of small numbers, given 1 / b: half an a more is never so much that it counts.
__device__ inline int quotient(int a, float inverse) { return static_cast<int>((a + 0.5f) * inverse); }

// How many entries of a row-major matrix of distances are as large as this and stand before an entry. A function, since
// there are seldom such: particles that were clipped.
__device__ __noinline__ inline int equals_before(const float* distances, int n, float d, int entry) {
  int before = 0;
#pragma unroll 1
  for (int number = 0; number < n * (n - 1) / 2; number++) {
    if (distances[number] != d) continue;
    const Pair pair(n, number, number / Pair::rectangle(n));
    before += (pair.i * n + pair.j < entry) + (pair.j * n + pair.i < entry);
  }
  return before;
}

class WarpStep {
 public:
  static __device__ bool takes(const Program& p) { return p.pairwise.kernel && p.N <= kFewParticles && p.A <= kFewDims; }

  // work: pair_bytes of the tile
  __device__ WarpStep(const Place& place, float* work, int state)
      : here(place), p(place.p), rule(place.p.pairwise), n(p.N), fours((p.A + 3) / 4), pairs(n * (n - 1) / 2), first_row(state * n),
        by_fours(ptx::reciprocal(fours)), by_rectangle(ptx::reciprocal(Pair::rectangle(n))),
        x(ptx::in_shared(reinterpret_cast<Four*>(work + first_row * kFewPitch))), dq(x + n * fours),
        kernel(reinterpret_cast<float*>(dq + n * fours)), distances(kernel + n * kFewKernelPitch),
        middle(reinterpret_cast<Entry*>(distances + round_up(pairs, 4))) {}

  __device__ void run(int round) const {
    const bool wrong = ptx::ballot(load()) != 0;
    find_distances();
    if (rule.median) find_middle();
    const Bandwidth b = fill_kernel(wrong);
    move(b, Corrections::of(counted(p.update.first_step) + round));
  }

 private:
  struct alignas(16) Entry {
    float distance;
    short row, column;
  };

  static __device__ int lane() { return ptx::thread() % kLanes; }
  // f(particle, which of its fours)
  template <class F>
  __device__ void for_fours(F f) const {
#pragma unroll 1
    for (int at = lane(); at < n * fours; at += kLanes) {
      const int i = quotient(at, by_fours);
      f(i, at - i * fours);
    }
  }
  // f(number of a pair, the pair)
  template <class F>
  __device__ void for_pairs(F f) const {
#pragma unroll 1
    for (int number = lane(); number < pairs; number += kLanes) f(number, Pair(n, number, quotient(number, by_rectangle)));
  }

  // Whether a number is not finite: its distance to itself is NaN then, and so is the median.
  __device__ bool load() const {
    bool wrong = false;
    for_fours([&](int i, int four) {
      const int row = first_row + i, at = row * p.A + 4 * four;
      Four own{}, g{};
      for (int k = 0; k < 4; k++) {
        if (4 * four + k >= p.A) break;
        own.x[k] = here.x()[at + k];
        if (p.given) g.x[k] = here.dq()[at + k];
      }
      if (!p.given) g = combined_gradient(here, row, four);
      for (int k = 0; k < 4; k++) wrong |= !(own.x[k] - own.x[k] == 0);
      x[i * fours + four] = own;
      dq[i * fours + four] = g;
    });
    if (lane() < 2) middle[lane()] = {0, -1, -1};  // where it is one of the zeros
    ptx::sync_warp();
    return wrong;
  }

  // In the order of operations of squared_distance.
  __device__ void find_distances() const {
    for_pairs([&](int number, Pair pair) {
      float sum = 0;
#pragma unroll 2
      for (int four = 0; four < fours; four++) {
        const Four own = x[pair.i * fours + four], other = x[pair.j * fours + four];
        for (int k = 0; k < 4; k++) {
          const float d = own.x[k] - other.x[k];
          sum = math::fma(d, d, sum);
        }
      }
      distances[number] = sum;
    });
    if (lane() < round_up(pairs, 4) - pairs) distances[pairs + lane()] = ptx::as_float(0x7fc00000u);  // equal to none, below none
    ptx::sync_warp();
  }

  // The middle entries of the matrix in order: n zeros of the diagonal, and every pair's distance twice.
  __device__ void find_middle() const {
    for_pairs([&](int number, Pair pair) {
      const float d = distances[number];
      int below = 0, equal = 0;
#pragma unroll 2
      for (int q = 0; q < pairs; q += 4) {
        const Four other = *reinterpret_cast<const Four*>(distances + q);
        for (int k = 0; k < 4; k++) below += other.x[k] < d, equal += other.x[k] == d;
      }
      for (int m = 0; m < 2; m++) {
        const int at = (n * n - 1 + m) / 2 - (n + 2 * below);  // among those of this distance
        if (!(d > 0) || at < 0 || at >= 2 * equal) continue;
#pragma unroll 1
        for (int turn = 0; turn < 2; turn++, pair.turn())
          if (at == (equal == 1 ? turn : equals_before(distances, n, d, pair.i * n + pair.j)))
            middle[m] = {d, static_cast<short>(pair.i), static_cast<short>(pair.j)};
      }
    });
    ptx::sync_warp();
  }

  __device__ Bandwidth fill_kernel(bool wrong) const {
    Bandwidth b{rule.fixed_gamma, 0, {-1, -1}, {0, 0}};
    double h = 0;
    if (rule.median) {
      const Entry low = middle[0], high = middle[1];
      h = bandwidth_of(low.distance, high.distance, rule);
      b = {wrong ? ptx::as_float(0x7fc00000u) : gamma_of(h), 0, {low.row, high.row}, {low.column, high.column}};
    }
    float sum = 0;  // of d2 k, over pairs
    for_pairs([&](int number, Pair pair) {
      const float d = distances[number], k = math::rbf(b.gamma * d);
      kernel[pair.i * kFewKernelPitch + pair.j] = kernel[pair.j * kFewKernelPitch + pair.i] = k;
      sum = math::fma(d, k, sum);
    });
    if (lane() < n) kernel[lane() * kFewKernelPitch + lane()] = math::fma(0.0f, b.gamma, 1.0f);
    if (rule.median && rule.through && !wrong) {
      for (int mask = 1; mask < kLanes; mask *= 2) sum += ptx::shuffle_xor(sum, mask);
      b.pull = pull_of(h, b.gamma, 2 * sum, n % 2 ? 1 : 2, rule);
    }
    ptx::sync_warp();
    return b;
  }

  // phi, and what it does to x and the moments.
  __device__ void move(const Bandwidth& b, const Corrections& corrections) const {
    float *const first = here.floats(p.at.first), *const second = here.floats(p.at.second), *const moving = here.x();
    for_fours([&](int i, int four) {
      const int at = (first_row + i) * p.A + 4 * four;
      float m[4] = {}, v[4] = {};  // asked for before the sums
      for (int k = 0; k < 4; k++)
        if (4 * four + k < p.A) m[k] = first[at + k], v[k] = second[at + k];
      const Four own = x[i * fours + four];
      Four towards{}, away{};
#pragma unroll 2
      for (int j = 0; j < n; j++) {
        const float weight = kernel[i * kFewKernelPitch + j];
        const Four g = dq[j * fours + four], other = x[j * fours + four];
        for (int k = 0; k < 4; k++) {
          towards.x[k] = math::fma(weight, g.x[k], towards.x[k]);
          away.x[k] = math::fma(weight, own.x[k] - other.x[k], away.x[k]);
        }
      }
      for (int k = 0; k < 4; k++) away.x[k] *= 2 * b.gamma;
      for (int e = 0; e < 2; e++) {
        if (b.row[e] != i || (e == 1 && n % 2)) continue;  // of an odd number there is one entry in the middle
        const Four other = x[b.column[e] * fours + four];
        for (int k = 0; k < 4; k++) away.x[k] -= b.pull * (own.x[k] - other.x[k]);
      }
      for (int k = 0; k < 4; k++) {
        if (4 * four + k >= p.A) break;
        const float phi = rule.inverse_n * (rule.inverse_alpha * towards.x[k] + away.x[k]);
        moving[at + k] = moved(own.x[k], phi, m[k], v[k], p.update, corrections);
        first[at + k] = m[k];
        second[at + k] = v[k];
      }
    });
  }

  const Place& here;
  const Program& p;
  const PairwiseRule& rule;
  const int n, fours, pairs, first_row;
  const float by_fours, by_rectangle;  // their inverses
  Four *const x, *const dq;
  float *const kernel, *const distances;
  Entry* const middle;
};

}  // namespace vgf::cuda
