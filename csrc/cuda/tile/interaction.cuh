// From the gradient dq to the direction phi, for the whole states of a tile: bandwidth, RBF kernel, its two sums.
//
// x, dq, phi, attraction, repulsion: [rows][A] floats in the block's scratch (L1). kernel: [rows][kPairPitch] floats in
// shared memory, 32 particles j at a time. Cost model: rows N (6 A + 20) instructions a step, and 4 rows N 3 A for the
// median, on 256 threads: under 2% of the critics at N = 10, A = 8.
#pragma once

#include "median.cuh"

namespace vgf::cuda {

constexpr int kWarpStates = 32;  // up to so many particles a warp finds the median of a state alone

struct Interaction {
  const float *x, *dq;
  float *phi, *attraction, *repulsion;
  int rows, n, dims;
  Bandwidth* bandwidths;  // [states], shared
  float* kernel;          // shared; also the counts of the median

  __device__ void find_bandwidths(const PairwiseRule& rule) const {
    const int states = rows / n, warp = ptx::thread() / kLanes;
    unsigned* counts = reinterpret_cast<unsigned*>(kernel);
    const auto state = [&](int s) { return State{x + s * n * dims, n, dims}; };
    if (!rule.median) {
      for (int s = ptx::thread(); s < states; s += kThreads) bandwidths[s] = {rule.fixed_gamma, 0, {-1, -1}, {0, 0}};
    } else if (n <= kWarpStates) {
      for (int s = warp; s < states; s += kWarps)
        find_bandwidth<false>(state(s), rule, counts + warp * kCounts, bandwidths + s);
    } else {
      for (int s = 0; s < states; s++) find_bandwidth<true>(state(s), rule, counts, bandwidths + s);
    }
    ptx::sync_block();
  }

  __device__ void run(const PairwiseRule& rule) const {
    if (!rule.kernel) {
      const float factor = rule.inverse_alpha * rule.inverse_n;
      for (int i = ptx::thread(); i < rows * dims; i += kThreads) phi[i] = factor * dq[i];
      ptx::sync_block();
      return;
    }
    find_bandwidths(rule);
    for (int first = 0; first < n; first += kPairColumns) {
      const int columns = min_int(kPairColumns, n - first);
      for (int i = ptx::thread(); i < rows * columns; i += kThreads) {
        const int row = i / columns, j = i % columns, s = row / n;
        const float d2 = squared_distance(x + row * dims, x + (s * n + first + j) * dims, dims);
        kernel[row * kPairPitch + j] = math::exp(-bandwidths[s].gamma * d2);
      }
      ptx::sync_block();
      for (int i = ptx::thread(); i < rows * dims; i += kThreads) {
        const int row = i / dims, a = i % dims;
        const float* k = kernel + row * kPairPitch;
        const std::int64_t other = std::int64_t{row / n * n + first} * dims + a;
        float towards = first > 0 ? attraction[i] : 0, away = first > 0 ? repulsion[i] : 0;
        for (int j = 0; j < columns; j++) {
          towards = math::fma(k[j], dq[other + j * dims], towards);
          away = math::fma(k[j], x[i] - x[other + j * dims], away);
        }
        attraction[i] = towards;
        repulsion[i] = away;
      }
      ptx::sync_block();
    }
    for (int i = ptx::thread(); i < rows * dims; i += kThreads) {
      const int row = i / dims, a = i % dims, s = row / n;
      const Bandwidth& b = bandwidths[s];
      float away = 2 * b.gamma * repulsion[i];
      for (int m = 0; m < 2; m++)
        if (b.row[m] == row - s * n) away -= b.pull * (x[i] - x[(s * n + b.column[m]) * dims + a]);
      phi[i] = rule.inverse_n * (rule.inverse_alpha * attraction[i] + away);
    }
    ptx::sync_block();
  }
};

}  // namespace vgf::cuda
