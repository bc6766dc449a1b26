// A state's particles to one target or one action, from their values. A warp takes a state.
#pragma once

#include <ptx/thread.cuh>

#include "program.hpp"

namespace vgf::cuda {

struct Score {
  float value;
  int particle;
};
// Whether a is chosen over b: the larger, NaN counting as largest, the first of equals.
__device__ inline bool goes_before(const Score& a, const Score& b) {
  const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
  if (nan_a != nan_b) return nan_a;
  return a.value > b.value || ((nan_a || a.value == b.value) && a.particle < b.particle);
}

// The first of the warp's best; all lanes get it. score(i): of particle i.
template <class F>
__device__ inline Score best_of(int n, F score) {
  const int lane = ptx::thread() % kLanes;
  Score best{score(min_int(lane, n - 1)), min_int(lane, n - 1)};
  for (int i = lane + kLanes; i < n; i += kLanes) {
    const Score other{score(i), i};
    if (goes_before(other, best)) best = other;
  }
  for (int mask = 1; mask < kLanes; mask *= 2) {
    const Score other{ptx::shuffle_xor(best.value, mask), ptx::shuffle_xor(best.particle, mask)};
    if (goes_before(other, best)) best = other;
  }
  return best;
}

// The target of a state; all lanes get it. value(i): of particle i.
template <class Value>
__device__ inline float target_of(const Judgement& j, int n, std::int64_t state, Value value) {
  float reduced;
  if (j.reduce == Reduce::max) {
    reduced = best_of(n, value).value;
  } else {
    double sum = 0;
    for (int i = ptx::thread() % kLanes; i < n; i += kLanes) sum += value(i);
    for (int mask = 1; mask < kLanes; mask *= 2) sum += ptx::shuffle_xor(sum, mask);
    reduced = static_cast<float>(sum / n);
  }
  return j.reward[state] + j.discount * j.mask[state] * reduced;
}

// The chosen particle of a state; softmax by the Gumbel-max trick.
template <class Value>
__device__ inline int choose(const Judgement& j, int n, std::int64_t state, Value value) {
  const float* noise = j.select_noise + state * n;
  return best_of(n, [&](int i) {
           if (j.select == Select::uniform) return noise[i];
           if (j.select == Select::max) return value(i);
           return value(i) / j.temperature - logf(-logf(noise[i]));
         }).particle;
}

// What is asked for of a state, whose particles are [n][dims].
template <class Value>
__device__ inline void judge_state(const Judgement& j, std::int64_t state, int n, int dims, const float* particles,
                                   Value value) {
  const int lane = ptx::thread() % kLanes;
  if (j.target) {
    const float target = target_of(j, n, state, value);
    if (lane == 0) j.target[state] = target;
  }
  if (j.actions) {
    const float* chosen = particles + std::int64_t{choose(j, n, state, value)} * dims;
    for (int a = lane; a < dims; a += kLanes) j.actions[state * dims + a] = chosen[a];
  }
}

// The value of an ensemble from its members' q(e). NaN of any member is NaN of the smallest.
template <class Q>
__device__ inline float aggregated(int ensemble, Aggregate how, Q q) {
  float result = q(0);
  for (int e = 1; e < ensemble; e++) {
    const float other = q(e);
    if (how == Aggregate::mean)
      result += other;
    else if (!(result <= other) && result == result)
      result = other;
  }
  return how == Aggregate::mean ? result / ensemble : result;
}

}  // namespace vgf::cuda
