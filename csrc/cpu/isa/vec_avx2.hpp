// 8 floats in a ymm register.
//
// instruction          latency  per cycle (Zen 3-5 and Skylake)
// vfmadd231ps ymm      4        2
// vbroadcastss m32     load     2 loads of 32 bytes
// vmaxps, vcmpps       1-4      2
// vdivps               10-11    1 in 5
#pragma once

#include <immintrin.h>

#include "../../math/scalar.hpp"

namespace vgf::cpu::avx2 {

struct V {
  static constexpr int kWidth = 8;
  __m256 v;
  V() = default;
  VGF_INLINE V(__m256 x) : v(x) {}
  VGF_INLINE explicit V(float x) : v(_mm256_set1_ps(x)) {}
  static VGF_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
  VGF_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
};

VGF_INLINE V operator+(V a, V b) { return _mm256_add_ps(a.v, b.v); }
VGF_INLINE V operator-(V a, V b) { return _mm256_sub_ps(a.v, b.v); }
VGF_INLINE V operator*(V a, V b) { return _mm256_mul_ps(a.v, b.v); }
VGF_INLINE V operator/(V a, V b) { return _mm256_div_ps(a.v, b.v); }
VGF_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
VGF_INLINE V max(V a, V x) { return _mm256_max_ps(a.v, x.v); }
VGF_INLINE V min(V a, V x) { return _mm256_min_ps(a.v, x.v); }
VGF_INLINE V abs(V x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v); }
VGF_INLINE V sqrt(V x) { return _mm256_sqrt_ps(x.v); }
VGF_INLINE V if_greater(V a, V b, V yes, V no) {
  return _mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ));
}
// To a number of bfloat16, the nearest or of two the even one; NaN stays NaN.
VGF_INLINE V rounded(V x) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 number = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(-65536)));
  return _mm256_blendv_ps(number, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
                          _mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
}
#define VGF_HAS_SUM_LANES
VGF_INLINE float sum_lanes(V x) {  // in the order of lanes.hpp
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
// The same of eight vectors: lane i is that of x[i].
VGF_INLINE V sum_lanes(const V (&x)[8]) {
  __m256 half[4], quarter[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    half[i] = _mm256_add_ps(_mm256_permute2f128_ps(x[i].v, x[i + 4].v, 0x20),
                            _mm256_permute2f128_ps(x[i].v, x[i + 4].v, 0x31));
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++)
    quarter[i] = _mm256_add_ps(_mm256_shuffle_ps(half[2 * i], half[2 * i + 1], 0x44),
                               _mm256_shuffle_ps(half[2 * i], half[2 * i + 1], 0xee));
  return _mm256_add_ps(_mm256_shuffle_ps(quarter[0], quarter[1], 0x88),
                       _mm256_shuffle_ps(quarter[0], quarter[1], 0xdd));
}
// For every byte the places of its bits that are set, then zeros.
struct Places {
  alignas(8) std::uint8_t of[256][8];
};
constexpr Places places() {
  Places p{};
  for (int bits = 0; bits < 256; bits++)
    for (int place = 0, count = 0; place < 8; place++)
      if (bits >> place & 1) p.of[bits][count++] = static_cast<std::uint8_t>(place);
  return p;
}
static constexpr Places kPlaces = places();
VGF_INLINE __m256i places_of(unsigned bits) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of[bits])));
}
// Writes first + i for every bit i of 8 that is set; room for a whole vector. Returns their number.
VGF_INLINE int list_byte(unsigned bits, int first, int* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_add_epi32(places_of(bits), _mm256_set1_epi32(first)));
  return __builtin_popcount(bits);
}
#define VGF_HAS_LIST_BITS
// The same of 16 bits.
VGF_INLINE int list_bits(unsigned bits, int first, int* out) {
  const int low = list_byte(bits & 255, first, out);
  return low + list_byte(bits >> 8, first + 8, out + low);
}
// The same for every lane that is not zero (NaN is not). Returns the lanes' bits.
VGF_INLINE unsigned list_nonzero(V x, int first, int* out) {
  const unsigned bits = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_NEQ_UQ)));
  list_byte(bits, first, out);
  return bits;
}
VGF_INLINE V pow2(V n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23));
}

// r[row] lane column -> r[column] lane row: three rounds of interleaving.
VGF_INLINE void transpose8(__m256 (&r)[8]) {
  __m256 t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  __m256 s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 4) {
    s[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    s[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    s[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    s[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; i++) {
    r[i] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
  }
}

// Of eight units of M rows those whose bits are set, one after the other, M numbers each; room for a vector more.
template <int M>
VGF_INLINE void gather(const V (&row)[M], unsigned bits, float* out) {
  const __m256i places = places_of(bits);
  __m256 unit[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; r++) unit[r] = _mm256_setzero_ps();
#pragma GCC unroll 8
  for (int r = 0; r < M; r++) unit[r] = _mm256_permutevar8x32_ps(row[r].v, places);
  transpose8(unit);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) _mm256_storeu_ps(out + i * M, unit[i]);
}

// in[row * stride + column] -> out[column * 16 + row], 8 x 8 at a time.
VGF_INLINE void transpose16(const float* in, long stride, float* out) {
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; quarter++) {
    const float* from = in + quarter / 2 * 8 * stride + quarter % 2 * 8;
    float* to = out + quarter % 2 * 8 * 16 + quarter / 2 * 8;
    __m256 r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * stride);
    transpose8(r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) _mm256_storeu_ps(to + 16 * i, r[i]);
  }
}

// 6 rows x 2 vectors of accumulators, 2 weights, 1 broadcast: 15 of 16 registers.
constexpr int kGemmRows = 6;
constexpr int gemm_panels(int) { return 1; }
// Packed columns would take two permutations and a blend a vector; see tile/pull.inl.
#define VGF_PULLS
// What a core can begin in a cycle is the limit of a product, so what finds its numbers counts; see tile/gathered.inl.
#define VGF_GATHERS

}  // namespace vgf::cpu::avx2

#include "lanes.hpp"
