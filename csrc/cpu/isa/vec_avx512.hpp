// 16 floats in a zmm register.
//
// instruction          latency  per cycle (Zen 5; Ice Lake and later in brackets)
// vfmadd231ps zmm      4        2 (2 server, 1 client)
// vbroadcastss m32     load     2 loads of 64 bytes (2)
// vmaxps, vcmpps       2-4      2 (1)
// vdivps               13-16    1 in 10 (1 in 16)
// vpermt2ps, vshufps   1-4      2 (1)
#pragma once

#include <immintrin.h>

#include "../../math/scalar.hpp"

namespace vgf::cpu::VGF_ISA {

struct V {
  static constexpr int kWidth = 16;
  __m512 v;
  V() = default;
  VGF_INLINE V(__m512 x) : v(x) {}
  VGF_INLINE explicit V(float x) : v(_mm512_set1_ps(x)) {}
  static VGF_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
  using Select = __m512i;
  static VGF_INLINE Select selection(const int* lanes) { return _mm512_loadu_si512(lanes); }
  VGF_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
};

VGF_INLINE V operator+(V a, V b) { return _mm512_add_ps(a.v, b.v); }
VGF_INLINE V operator-(V a, V b) { return _mm512_sub_ps(a.v, b.v); }
VGF_INLINE V operator*(V a, V b) { return _mm512_mul_ps(a.v, b.v); }
VGF_INLINE V operator/(V a, V b) { return _mm512_div_ps(a.v, b.v); }
VGF_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
// a[0] broadcast, as an operand of the instruction
VGF_INLINE V fma_with(const float* a, V w, V sum) {
  __asm__("vfmadd231ps %1%{1to16%}, %2, %0" : "+v"(sum.v) : "m"(*a), "v"(w.v));
  return sum;
}
VGF_INLINE V max(V a, V x) { return _mm512_max_ps(a.v, x.v); }
VGF_INLINE V min(V a, V x) { return _mm512_min_ps(a.v, x.v); }
VGF_INLINE V abs(V x) { return _mm512_abs_ps(x.v); }
VGF_INLINE V sqrt(V x) { return _mm512_sqrt_ps(x.v); }
VGF_INLINE float sum_lanes(V x) { return _mm512_reduce_add_ps(x.v); }
VGF_INLINE V if_greater(V a, V b, V yes, V no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v);
}
#define VGF_HAS_BF16_PRODUCTS
// A lane below may hold a pair of bfloat16, the first in its low half.
VGF_INLINE V low_half(V pair) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pair.v), 16)); }
VGF_INLINE V high_half(V pair) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pair.v), _mm512_set1_epi32(-65536)));
}
// Rounding to bfloat16 is to nearest even, and NaN stays NaN. With the instruction for it, numbers below float32's normal
// range become zero, as they do in `dot`.
//
// pair      lane i holds lane i of `first` and of `second`
// narrow    the bfloat16 of 4 lanes of `low`, then of `high`, in every 128-bit lane
#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
VGF_INLINE V dot(V x, V w, V sum) { return _mm512_dpbf16_ps(sum.v, (__m512bh)x.v, (__m512bh)w.v); }
VGF_INLINE V dot_with(const float* a, V w, V sum) {
  __asm__("vdpbf16ps %1%{1to16%}, %2, %0" : "+v"(sum.v) : "m"(*a), "v"(w.v));
  return sum;
}
// Pairs of neighbouring lanes of `low`, then of `high`.
VGF_INLINE V neighbours(V low, V high) {
  return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(high.v, low.v));
}
VGF_INLINE V pair(V first, V second) {
  const V both = neighbours(first, second);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                       18, 2, 17, 1, 16, 0),
      _mm512_castps_si512(both.v)));
}
VGF_INLINE V narrow(V low, V high) {
  return _mm512_castsi512_ps(_mm512_permutexvar_epi64(_mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0),
                                                      _mm512_castps_si512(neighbours(low, high).v)));
}
// Writes the lanes whose bits are set side by side; room for a whole vector.
VGF_INLINE void compress(V x, unsigned bits, float* out) {
  _mm512_storeu_ps(out, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), x.v));
}
#else
constexpr bool kPairs = false;
VGF_INLINE __m512i round_bits(V x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
}
VGF_INLINE V pair(V first, V second) {
  const __m512i high = _mm512_and_si512(round_bits(second), _mm512_set1_epi32(-65536));
  return _mm512_castsi512_ps(_mm512_or_si512(high, _mm512_srli_epi32(round_bits(first), 16)));
}
VGF_INLINE V narrow(V low, V high) {
  return _mm512_castsi512_ps(
      _mm512_packus_epi32(_mm512_srli_epi32(round_bits(low), 16), _mm512_srli_epi32(round_bits(high), 16)));
}
#endif
// To a number of bfloat16.
VGF_INLINE V rounded(V x) { return low_half(pair(x, x)); }
// Lanes from `count` on become zero.
VGF_INLINE V first_lanes(V x, int count) {
  const unsigned bits = count >= V::kWidth ? 0xffffu : count <= 0 ? 0u : (1u << count) - 1;
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), x.v);
}
// out[i] = how many of the bits below i are set where bit i is, else the vector's width.
VGF_INLINE void ranks(unsigned bits, int* out) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  _mm512_storeu_si512(out, _mm512_mask_expand_epi32(_mm512_set1_epi32(V::kWidth), static_cast<__mmask16>(bits), lanes));
}
// Of 16-bit numbers r[8 q + i], s[8 q + i] (q: 128-bit lane): pairs (r, s) of i = 0..3, and of i = 4..7.
VGF_INLINE V interleave_low(V r, V s) {
  return _mm512_castsi512_ps(_mm512_unpacklo_epi16(_mm512_castps_si512(r.v), _mm512_castps_si512(s.v)));
}
VGF_INLINE V interleave_high(V r, V s) {
  return _mm512_castsi512_ps(_mm512_unpackhi_epi16(_mm512_castps_si512(r.v), _mm512_castps_si512(s.v)));
}
// Lane i of the result is lane lanes[i] of a and b side by side.
VGF_INLINE V permute(V a, V b, __m512i lanes) { return _mm512_permutex2var_ps(a.v, lanes, b.v); }
// GCC 12 may write the 16 bits of a mask to memory, and then read 32, taking the others for zero.
VGF_INLINE unsigned bits_of(__mmask16 mask) {
  unsigned bits = mask;
  asm("" : "+r"(bits));
  return bits & 0xffff;
}
#define VGF_HAS_LIST_BITS
// Writes first + i for every bit i that is set; room for a whole vector. Returns their number.
VGF_INLINE int list_bits(unsigned bits, int first, int* out) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits),
                                                       _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
  return __builtin_popcount(bits);
}
// The same for every lane that is not zero (NaN is not). Returns the lanes' bits.
VGF_INLINE unsigned list_nonzero(V x, int first, int* out) {
  const __mmask16 on = _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  list_bits(on, first, out);
  return bits_of(on);
}
// Writes the lanes in [low, high] side by side and returns their number; counts those below, and raises `largest`.
VGF_INLINE int bracket_vector(V x, float low, float high, float* inside, std::int64_t* below, V* largest) {
  const __mmask16 less = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(low), _CMP_LT_OQ);
  const __mmask16 in = _mm512_mask_cmp_ps_mask(~less, x.v, _mm512_set1_ps(high), _CMP_LE_OQ);
  *below += __builtin_popcount(bits_of(less));
  largest->v = _mm512_mask_max_ps(largest->v, less, largest->v, x.v);
  _mm512_storeu_ps(inside, _mm512_maskz_compress_ps(in, x.v));
  return __builtin_popcount(bits_of(in));
}
#define VGF_HAS_BRACKET
VGF_INLINE V pow2(V n) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23));
}

// in[row * stride + column] -> out[column * 16 + row]: four rounds of pairwise interleaving.
VGF_INLINE void transpose16(const float* in, long stride, float* out) {
  __m512 r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(in + stride * i);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    _mm512_storeu_ps(out + 16 * i, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_ps(out + 16 * (i + 8), _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
    _mm512_storeu_ps(out + 16 * (i + 4), _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_storeu_ps(out + 16 * (i + 12), _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
  }
}

// Register tile of a product: rows per pass, and panels side by side for a pass of `rows`.
constexpr int kGemmRows = 14;
constexpr int gemm_panels(int rows) { return rows <= 6 ? 4 : 2; }
constexpr int packed_width(int rows) { return rows <= 6 ? 4 : rows <= 12 ? 2 : 1; }
// Zen 4 broadcasts into a register through the ports that permute, and multiplies one vector a cycle, so it has loads to
// spare: with permuted weights a core reaches 100 GFLOP/s by registers and 115 by operands, of 117 without permutation;
// bfloat16 pairs 204 and 232. (Of AMD's families with AVX-512, 19h is Zen 4.)
#define VGF_HAS_BROADCAST_OPERANDS
static inline bool broadcasts_operands() {
  static const bool zen4 = __builtin_cpu_is("amdfam19h");
  return zen4;
}
#define VGF_PACKS_COLUMNS
constexpr double kPackingPays = 0.85;  // of a layer's column vectors

}  // namespace vgf::cpu::VGF_ISA
