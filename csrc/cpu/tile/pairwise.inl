// The interaction of a state's particles and their update. Lanes run over particles j; particles i one at a time.
//
// Cost model per (i, 16 j): 2 A + 20 instructions for distance and exp, 5 A for the two sums. At N = 10, A = 8 about
// 2,000 cycles a state and step, against 600,000 for the critics.
#pragma once

#include "../../math/elementary.hpp"

namespace vgf::cpu::VGF_ISA {

static VGF_INLINE V squared_distance(const float* x, long stride, int dims, int i, int j) {
  V sum(0.0f);
  for (int a = 0; a < dims; a++) {
    V d = V(x[a * stride + i]) - V::load(x + a * stride + j);
    sum = fma(d, d, sum);
  }
  return sum;
}

static void distances(const float* x, long stride, int dims, int i, int begin, int end, float* out) {
  for (int j = begin; j < end; j += V::kWidth) squared_distance(x, stride, dims, i, j).store(out + j - begin);
}

static int bracket(Bracket& b) {
  int inside = 0, i = 0;
#ifdef VGF_HAS_BRACKET
  V largest(b.largest_below);
  for (; i + V::kWidth <= b.count; i += V::kWidth)
    inside += bracket_vector(V::load(b.values + i), b.low, b.high, b.inside + inside, &b.below, &largest);
  float lanes[V::kWidth];
  largest.store(lanes);
  for (float lane : lanes) b.largest_below = lane > b.largest_below ? lane : b.largest_below;
#endif
  for (; i < b.count; i++) {
    const float value = b.values[i];
    const bool less = value < b.low;
    b.below += less;
    b.largest_below = less && value > b.largest_below ? value : b.largest_below;
    b.inside[inside] = value;
    inside += !less && value <= b.high;
  }
  return inside;
}

static void pairwise(const Pairwise& p) {
  const float inverse_n = 1.0f / p.n;
  if (p.d2k) *p.d2k = 0;
  for (int i = p.begin; i < p.end; i++) {
    V d2k(0.0f);
    for (int j = 0; j < p.n; j += V::kWidth) {
      V d2 = squared_distance(p.x, p.stride, p.dims, i, j);
      V k = math::rbf(V(p.gamma) * d2);
      const int left = p.n - j;
      if (left < V::kWidth) {  // what stands past N has no weight, nor a distance, which may be infinite
        k = first_lanes(k, left);
        d2 = first_lanes(d2, left);
      }
      k.store(p.k + j);
      d2k = fma(d2, k, d2k);
    }
    if (p.d2k) *p.d2k += sum_lanes(d2k);
    for (int a = 0; a < p.dims; a++) {
      const float *x = p.x + a * p.stride, *dq = p.dq + a * p.stride;
      V attraction(0.0f), repulsion(0.0f), xi(x[i]);
      for (int j = 0; j < p.n; j += V::kWidth) {
        V k = V::load(p.k + j);
        attraction = fma(k, V::load(dq + j), attraction);
        repulsion = fma(k, xi - V::load(x + j), repulsion);
      }
      p.phi[a * p.stride + i] =
          inverse_n * (p.inverse_alpha * sum_lanes(attraction) + 2 * p.gamma * sum_lanes(repulsion));
    }
  }
}

static void adam(const Adam& s) {
  for (int i = 0; i < s.count; i += V::kWidth) {
    V x = V::load(s.x + i), step = V::load(s.phi + i);
    if (s.adam) {
      V g = V(0.0f) - step;
      V first = fma(V(0.9f), V::load(s.first + i), V(0.1f) * g);
      V second = fma(V(0.999f), V::load(s.second + i), V(0.001f) * (g * g));
      first.store(s.first + i);
      second.store(s.second + i);
      step = V(0.0f) - V(s.first_correction) * first / (sqrt(V(s.second_correction) * second) + V(1e-8f));
    }
    x = fma(V(s.learning_rate), step, x);
    if (s.clip.on) x = min(V(s.clip.high), max(V(s.clip.low), x));
    x.store(s.x + i);
  }
}

}  // namespace vgf::cpu::VGF_ISA
