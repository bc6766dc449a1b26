// One optimizer step of one number, and the clip. Adam after arXiv 1412.6980, algorithm 1.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

// NaN stays.
VGF_INLINE float clipped(float x, const Clip& clip) {
  return clip.on ? math::min(clip.high, math::max(clip.low, x)) : x;
}

VGF_INLINE double power(double base, int exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base)
    if (exponent % 2) result *= base;
  return result;
}

// The bias corrections of a step, numbered from 1.
struct Corrections {
  float first, second;
  VGF_INLINE static Corrections of(int step) {
    return {1.0f / static_cast<float>(1 - power(0.9, step)), 1.0f / static_cast<float>(1 - power(0.999, step))};
  }
};

// phi -> x; the moments are updated in place.
VGF_INLINE float moved(float x, float phi, float& first, float& second, const UpdateRule& rule, const Corrections& c) {
  float step = phi;
  if (rule.adam) {
    first = math::fma(0.9f, first, -0.1f * phi);
    second = math::fma(0.999f, second, 0.001f * (phi * phi));
    step = -c.first * first / (math::sqrt(c.second * second) + 1e-8f);
  }
  return clipped(math::fma(rule.learning_rate, step, x), rule.clip);
}

}  // namespace vgf::cuda
