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
// A lane below may hold a pair of bfloat16, the first in its low half.
VGF_INLINE V low_half(V pair) { return V::Raw(V::Bits(pair.v) << 16); }
VGF_INLINE V high_half(V pair) { return V::Raw(V::Bits(pair.v) & -65536); }
// Rounds to nearest even; NaN stays NaN.
VGF_INLINE V::Bits round_bits(V x) {
  const V::Bits bits = V::Bits(x.v);
  return x.v == x.v ? bits + (((bits >> 16) & 1) + 0x7fff) : V::Bits{} + 0x7fc00000;
}
VGF_INLINE V pair(V first, V second) {
  return V::Raw((round_bits(second) & -65536) | ((round_bits(first) >> 16) & 0xffff));
}
// The bfloat16 of the 4 lanes of `low`, then of `high`.
VGF_INLINE V narrow(V low, V high) {
  const V::Bits a = round_bits(low), b = round_bits(high);
  std::uint16_t halves[8];
  for (int i = 0; i < 4; i++) {
    halves[i] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(a[i]) >> 16);
    halves[4 + i] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(b[i]) >> 16);
  }
  V result;
  __builtin_memcpy(&result, halves, sizeof halves);
  return result;
}
// Of 16-bit numbers r[i], s[i]: pairs (r, s) of i = 0..3, and of i = 4..7.
VGF_INLINE V interleave_low(V r, V s) {
  V result;
  std::uint16_t a[8], b[8], pairs[8];
  __builtin_memcpy(a, &r, sizeof a);
  __builtin_memcpy(b, &s, sizeof b);
  for (int i = 0; i < 4; i++) pairs[2 * i] = a[i], pairs[2 * i + 1] = b[i];
  __builtin_memcpy(&result, pairs, sizeof pairs);
  return result;
}
VGF_INLINE V interleave_high(V r, V s) {
  V result;
  std::uint16_t a[8], b[8], pairs[8];
  __builtin_memcpy(a, &r, sizeof a);
  __builtin_memcpy(b, &s, sizeof b);
  for (int i = 0; i < 4; i++) pairs[2 * i] = a[4 + i], pairs[2 * i + 1] = b[4 + i];
  __builtin_memcpy(&result, pairs, sizeof pairs);
  return result;
}
// Lane i of the result is lane lanes[i] of a and b side by side.
VGF_INLINE V permute(V a, V b, V::Select s) {
  V r;
  for (int i = 0; i < V::kWidth; i++) r.v[i] = s.lanes[i] < V::kWidth ? a.v[s.lanes[i]] : b.v[s.lanes[i] - V::kWidth];
  return r;
}
VGF_INLINE V pow2(V n) { return V::Raw((__builtin_convertvector(n.v, V::Bits) + 127) << 23); }

// in[row * stride + column] -> out[column * 16 + row]
VGF_INLINE void transpose16(const float* in, long stride, float* out) {
  for (int column = 0; column < 16; column++)
    for (int row = 0; row < 16; row++) out[column * 16 + row] = in[row * stride + column];
}

// 3 rows x 4 vectors of accumulators.
constexpr bool kPairs = false;  // no product of bfloat16 pairs
constexpr int kGemmRows = 3;
constexpr int gemm_panels(int) { return 1; }
constexpr int packed_width(int) { return 2; }
constexpr double kPackingPays = 0;  // never: a permutation is four scalar moves here

}  // namespace vgf::cpu::scalar

#include "lanes.hpp"
