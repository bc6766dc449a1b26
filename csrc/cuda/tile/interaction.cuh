// From the gradient dq to the direction phi, for the whole states of a tile: bandwidth, RBF kernel, its two sums.
//
// x, dq, phi (until the end the sum that attracts), repulsion: [rows][A] floats in the block's scratch (L1). kernel:
// [rows][kPairPitch] floats in shared memory, 32 particles j at a time; where a state has no more, its distances first. Cost
// model: rows N (6 A + 20) instructions a step on 256 threads, and 4,000 of a warp for the median of a state of up to 32
// particles. A step of a state of up to kFewParticles with up to kFewDims numbers each is a warp's: warp_step.cuh.
#pragma once

#include "median.cuh"

namespace vgf::cuda {

struct Interaction {
  const float *x, *dq;
  float *phi, *repulsion;
  int rows, n, dims;
  Bandwidth* bandwidths;  // [states], shared
  float* kernel;          // shared; also the counts of the median

  __device__ void run(const PairwiseRule& rule) const {
    if (!rule.kernel) {
      const float factor = rule.inverse_alpha * rule.inverse_n;
      for (int i = ptx::thread(); i < rows * dims; i += kThreads) phi[i] = factor * dq[i];
      ptx::sync_block();
      return;
    }
    const bool at_once = n <= kPairColumns;
    if (at_once) for_pairs(0, n, [](float d2, int) { return d2; });
    find_bandwidths(rule, at_once);
    for (int first = 0; first < n; first += kPairColumns) {
      const int columns = min_int(kPairColumns, n - first);
      const auto value = [&](float d2, int s) { return math::rbf(bandwidths[s].gamma * d2); };
      if (at_once)
        for_entries(n, [&](float& entry, int row, int) { entry = value(entry, row / n); });
      else
        for_pairs(first, columns, value);
      add_up(first, columns);
    }
#pragma unroll 1
    for (int i = ptx::thread(); i < rows * dims; i += kThreads) {
      const int row = i / dims, a = i % dims, s = row / n;
      const Bandwidth& b = bandwidths[s];
      float away = 2 * b.gamma * repulsion[i];
      for (int m = 0; m < 2; m++)
        if (b.row[m] == row - s * n) away -= b.pull * (x[i] - x[(s * n + b.column[m]) * dims + a]);
      phi[i] = rule.inverse_n * (rule.inverse_alpha * phi[i] + away);
    }
    ptx::sync_block();
  }

  // f(entry of `kernel`, its row, its column)
  template <class F>
  __device__ void for_entries(int columns, F f) const {
#pragma unroll 1
    for (int i = ptx::thread(); i < rows * columns; i += kThreads) {
      const int row = i / columns, j = i % columns;
      f(kernel[row * kPairPitch + j], row, j);
    }
    ptx::sync_block();
  }
  // kernel = value(squared distance, state), of all particles to some of their state.
  template <class F>
  __device__ void for_pairs(int first, int columns, F value) const {
    for_entries(columns, [&](float& entry, int row, int j) {
      const int s = row / n;
      entry = value(squared_distance(x + row * dims, x + (s * n + first + j) * dims, dims), s);
    });
  }

  // stored: `kernel` holds the distances
  __device__ void find_bandwidths(const PairwiseRule& rule, bool stored) const {
    const int states = rows / n, warp = ptx::thread() / kLanes;
    if (!rule.median) {
      for (int s = ptx::thread(); s < states; s += kThreads) bandwidths[s] = {rule.fixed_gamma, 0, {-1, -1}, {0, 0}};
    } else if (stored) {
      for (int s = warp; s < states; s += kWarps) {
        const StoredDistances distance{kernel + s * n * kPairPitch, n};
        put_bandwidth(distance, middle_of_few(distance), rule, bandwidths + s);
      }
    } else {
      for (int s = 0; s < states; s++) {
        const ComputedDistances distance{x + s * n * dims, n, dims};
        const Middle middle = middle_of_many(distance, reinterpret_cast<unsigned*>(kernel));
        if (warp == 0) put_bandwidth(distance, middle, rule, bandwidths + s);
      }
    }
    ptx::sync_block();
  }

  // The two sums over particles j of some columns, onto those of the columns before.
  __device__ void add_up(int first, int columns) const {
#pragma unroll 1
    for (int i = ptx::thread(); i < rows * dims; i += kThreads) {
      const int row = i / dims, a = i % dims;
      const float* k = kernel + row * kPairPitch;
      const float own = x[i];
      const std::int64_t other = std::int64_t{row / n * n + first} * dims + a;
      float towards = first > 0 ? phi[i] : 0, away = first > 0 ? repulsion[i] : 0;
#pragma unroll 4
      for (int j = 0; j < columns; j++) {
        towards = math::fma(k[j], dq[other + j * dims], towards);
        away = math::fma(k[j], own - x[other + j * dims], away);
      }
      phi[i] = towards;
      repulsion[i] = away;
    }
    ptx::sync_block();
  }
};

}  // namespace vgf::cuda
