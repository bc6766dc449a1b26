// A float whose exponential and quotient are the multiprocessor's own, right to 22 bits: for what is rounded to bfloat16 or tf32
// next. The activations (csrc/math) take it in the place of float; an exponential is 2 instructions then, not 14.
#pragma once

#include <ptx/thread.cuh>

#include "../math/elementary.hpp"

namespace vgf::cuda {

struct Quick {
  float x;
  __device__ explicit Quick(float value) : x(value) {}
  __device__ explicit operator float() const { return x; }
};
__device__ inline Quick operator+(Quick a, Quick b) { return Quick(a.x + b.x); }
__device__ inline Quick operator-(Quick a, Quick b) { return Quick(a.x - b.x); }
__device__ inline Quick operator*(Quick a, Quick b) { return Quick(a.x * b.x); }
__device__ inline Quick operator/(Quick a, Quick b) { return Quick(a.x * ptx::reciprocal(b.x)); }
__device__ inline Quick fma(Quick a, Quick b, Quick c) { return Quick(math::fma(a.x, b.x, c.x)); }
__device__ inline Quick max(Quick a, Quick x) { return Quick(math::max(a.x, x.x)); }
__device__ inline Quick min(Quick a, Quick x) { return Quick(math::min(a.x, x.x)); }
__device__ inline Quick abs(Quick a) { return Quick(math::abs(a.x)); }
__device__ inline Quick if_greater(Quick a, Quick b, Quick yes, Quick no) { return a.x > b.x ? yes : no; }
__device__ inline Quick exp(Quick a) { return Quick(ptx::power_of_two(a.x * 1.44269504088896341f)); }

}  // namespace vgf::cuda
