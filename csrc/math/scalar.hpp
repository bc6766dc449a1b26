// The few operations the shared math is written in, for plain float. A vector type offers the same names in its
// own namespace. Everything is forced inline: a weak copy compiled with AVX-512 must never be what baseline code
// links to.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define VGF_HD __host__ __device__
#define VGF_INLINE __host__ __device__ __forceinline__
#else
#define VGF_HD
#define VGF_INLINE inline __attribute__((always_inline))
#endif

namespace vgf::math {

#if defined(__CUDA_ARCH__)
VGF_INLINE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
VGF_INLINE float fma(float a, float b, float c) { return a * b + c; }
#endif
// max(a, x) and min(a, x) return x when x is NaN, so NaN passes through.
VGF_INLINE float max(float a, float x) { return a > x ? a : x; }
VGF_INLINE float min(float a, float x) { return a < x ? a : x; }
VGF_INLINE float if_greater(float a, float b, float yes, float no) { return a > b ? yes : no; }
VGF_INLINE float abs(float x) { return std::fabs(x); }
VGF_INLINE float sqrt(float x) { return std::sqrt(x); }
// 2^n for an integral n in [-126, 127]
VGF_INLINE float pow2(float n) {
  std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

}  // namespace vgf::math
