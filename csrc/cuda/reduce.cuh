// A state's particles to one target or one action, from their values.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

// value(i): of particle i. The largest of them is NaN where one is.
template <class Value>
__device__ inline float target_of(const Program& p, std::int64_t state, Value value) {
  double sum = 0;
  float largest = value(0);
  for (int i = 0; i < p.N; i++) {
    const float v = value(i);
    sum += v;
    if (!(v <= largest) && largest == largest) largest = v;
  }
  const float reduced = p.reduce == Reduce::max ? largest : static_cast<float>(sum / p.N);
  return p.reward[state] + p.discount * p.mask[state] * reduced;
}

// The chosen particle: the first of the largest, NaN counting as largest; softmax by the Gumbel-max trick.
template <class Value>
__device__ inline int choose(const Program& p, std::int64_t state, Value value) {
  const float* noise = p.select == Select::max ? nullptr : p.select_noise + state * p.N;
  int chosen = 0;
  float best = 0;
  for (int i = 0; i < p.N; i++) {
    float score = p.select == Select::uniform ? noise[i] : value(i);
    if (p.select == Select::softmax) score = score / p.temperature - std::log(-std::log(noise[i]));
    if (i == 0 || (!(score <= best) && best == best)) chosen = i, best = score;
  }
  return chosen;
}

}  // namespace vgf::cuda
