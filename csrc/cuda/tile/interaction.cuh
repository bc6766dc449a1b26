// From the gradient dq to the direction phi, for whole states: bandwidth, RBF kernel, its two sums.
//
// x, dq, phi, attraction, repulsion: [rows][A] floats, in shared memory or the block's scratch. kernel: [rows][kPairPitch] floats in
// shared memory, 32 particles j at a time; where a state has no more, its distances first. A team does it (teams.cuh): the block,
// for all states of a tile, or a warp, for one of few particles. Cost model: rows N (6 A + 20) instructions a step for all threads
// of the team, and 500 to 4,000 of a warp for the median of a state of up to 11 to 32 particles.
#pragma once

#include "median.cuh"
#include "teams.cuh"

namespace vgf::cuda {

// A function, since it takes more registers than anything else, and what surrounds it would have to do without them.
__device__ __noinline__ inline Middle middle_of_most(const StoredDistances distance) { return middle_of_few<32>(distance); }

template <class Team>
struct Interaction {
  const float *x, *dq;
  float *phi, *attraction, *repulsion;
  int rows, n, dims;
  Bandwidth* bandwidths;  // [states], shared
  float* kernel;          // shared; also the counts of the median

  __device__ void run(const PairwiseRule& rule) const {
    if (!rule.kernel) {
      const float factor = rule.inverse_alpha * rule.inverse_n;
      for (int i = Team::rank(); i < rows * dims; i += Team::kSize) phi[i] = factor * dq[i];
      Team::sync();
      return;
    }
    const bool at_once = n <= kPairColumns;
    if (at_once) for_pairs(0, n, [](float d2, int) { return d2; });
    find_bandwidths(rule, at_once);
    for (int first = 0; first < n; first += kPairColumns) {
      const int columns = min_int(kPairColumns, n - first);
      const auto value = [&](float d2, int s) { return math::exp(-bandwidths[s].gamma * d2); };
      if (at_once)
        for_entries(n, [&](float& entry, int row, int) { entry = value(entry, row / n); });
      else
        for_pairs(first, columns, value);
      add_up(first, columns);
    }
#pragma unroll 1
    for (int i = Team::rank(); i < rows * dims; i += Team::kSize) {
      const int row = i / dims, a = i % dims, s = row / n;
      const Bandwidth& b = bandwidths[s];
      float away = 2 * b.gamma * repulsion[i];
      for (int m = 0; m < 2; m++)
        if (b.row[m] == row - s * n) away -= b.pull * (x[i] - x[(s * n + b.column[m]) * dims + a]);
      phi[i] = rule.inverse_n * (rule.inverse_alpha * attraction[i] + away);
    }
    Team::sync();
  }

  // f(entry of `kernel`, its row, its column)
  template <class F>
  __device__ void for_entries(int columns, F f) const {
#pragma unroll 1
    for (int i = Team::rank(); i < rows * columns; i += Team::kSize) {
      const int row = i / columns, j = i % columns;
      f(kernel[row * kPairPitch + j], row, j);
    }
    Team::sync();
  }
  // kernel = value(squared distance, state), of all particles to some of their state.
  template <class F>
  __device__ void for_pairs(int first, int columns, F value) const {
    for_entries(columns, [&](float& entry, int row, int j) {
      const int s = row / n;
      entry = value(squared_distance(x + row * dims, x + (s * n + first + j) * dims, dims), s);
    });
  }

  __device__ Middle middle_of(const StoredDistances& distance) const {
    if constexpr (Team::kIsWarp) return n <= 11 ? middle_of_few<4>(distance) : middle_of_few<12>(distance);
    return middle_of_most(distance);
  }
  // stored: `kernel` holds the distances
  __device__ void find_bandwidths(const PairwiseRule& rule, bool stored) const {
    const int states = rows / n;
    if (!rule.median) {
      for (int s = Team::rank(); s < states; s += Team::kSize) bandwidths[s] = {rule.fixed_gamma, 0, {-1, -1}, {0, 0}};
    } else if (stored) {
      for (int s = Team::warp(); s < states; s += Team::kSize / kLanes) {
        const StoredDistances distance{kernel + s * n * kPairPitch, n};
        put_bandwidth(distance, middle_of(distance), rule, bandwidths + s);
      }
    } else if constexpr (!Team::kIsWarp) {
      for (int s = 0; s < states; s++) {
        const ComputedDistances distance{x + s * n * dims, n, dims};
        const Middle middle = middle_of_many(distance, reinterpret_cast<unsigned*>(kernel));
        if (Team::warp() == 0) put_bandwidth(distance, middle, rule, bandwidths + s);
      }
    }
    Team::sync();
  }

  // The two sums over particles j of some columns, onto those of the columns before.
  __device__ void add_up(int first, int columns) const {
#pragma unroll 1
    for (int i = Team::rank(); i < rows * dims; i += Team::kSize) {
      const int row = i / dims, a = i % dims;
      const float* k = kernel + row * kPairPitch;
      const float own = x[i];
      const std::int64_t other = std::int64_t{row / n * n + first} * dims + a;
      float towards = first > 0 ? attraction[i] : 0, away = first > 0 ? repulsion[i] : 0;
#pragma unroll 4
      for (int j = 0; j < columns; j++) {
        towards = math::fma(k[j], dq[other + j * dims], towards);
        away = math::fma(k[j], own - x[other + j * dims], away);
      }
      attraction[i] = towards;
      repulsion[i] = away;
    }
    Team::sync();
  }
};

}  // namespace vgf::cuda
