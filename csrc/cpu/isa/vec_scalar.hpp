// 4 floats by the compiler's vector extension: whatever the baseline of the target has (SSE2 on x86).
// Cost: a product runs at about a sixth of AVX-512; this is the path for machines without the others.
#pragma once

#include "../../math/scalar.hpp"

namespace vgf::cpu::scalar {

struct V {
  static constexpr int kWidth = 4;
  typedef float Raw __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  typedef std::int32_t Bits __attribute__((vector_size(16)));
  Raw v;
  V() = default;
  VGF_INLINE V(Raw x) : v(x) {}
  VGF_INLINE explicit V(float x) : v(Raw{x, x, x, x}) {}
  static VGF_INLINE V load(const float* p) { return Raw(*reinterpret_cast<const Unaligned*>(p)); }
  struct Select {
    const int* lanes;
  };
  static VGF_INLINE Select selection(const int* lanes) { return {lanes}; }
  VGF_INLINE void store(float* p) const { *reinterpret_cast<Unaligned*>(p) = v; }
};

VGF_INLINE V operator+(V a, V b) { return a.v + b.v; }
VGF_INLINE V operator-(V a, V b) { return a.v - b.v; }
VGF_INLINE V operator*(V a, V b) { return a.v * b.v; }
VGF_INLINE V operator/(V a, V b) { return a.v / b.v; }
VGF_INLINE V fma(V a, V b, V c) { return a.v * b.v + c.v; }
VGF_INLINE V if_greater(V a, V b, V yes, V no) { return V::Raw(a.v > b.v ? yes.v : no.v); }
VGF_INLINE V max(V a, V x) { return if_greater(a, x, a, x); }
VGF_INLINE V min(V a, V x) { return if_greater(x, a, a, x); }
VGF_INLINE V abs(V x) { return V::Raw(V::Bits(x.v) & 0x7fffffff); }
VGF_INLINE V sqrt(V x) {
  V r;
  for (int i = 0; i < V::kWidth; i++) r.v[i] = __builtin_sqrtf(x.v[i]);
  return r;
}
// To a number of bfloat16, the nearest or of two the even one; NaN stays NaN.
VGF_INLINE V rounded(V x) {
  const V::Bits bits = V::Bits(x.v), up = bits + (((bits >> 16) & 1) + 0x7fff);
  return V::Raw(x.v == x.v ? up & -65536 : V::Bits{} + 0x7fc00000);
}
VGF_INLINE V pow2(V n) { return V::Raw((__builtin_convertvector(n.v, V::Bits) + 127) << 23); }

// in[row * stride + column] -> out[column * 16 + row]
VGF_INLINE void transpose16(const float* in, long stride, float* out) {
  for (int column = 0; column < 16; column++)
    for (int row = 0; row < 16; row++) out[column * 16 + row] = in[row * stride + column];
}

// 3 rows x 4 vectors of accumulators.
constexpr int kGemmRows = 3;
constexpr int gemm_panels(int) { return 1; }

}  // namespace vgf::cpu::scalar

#include "lanes.hpp"
