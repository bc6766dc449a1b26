// 4 floats in a q register of 64-bit Arm.
//
// instruction           latency  per cycle (Neoverse N1 and Cortex-A78; Neoverse V1 and V2 in brackets)
// fmla v.4s, by element 4        2 (4)
// ldr q, ldr s          load     2 (3)
// tbl of two registers  2-4      1 (2)
// fcmgt, bsl            2        2 (4)
// fdiv v.4s             7-10     1 in 5 to 7
//
// By LLVM's models (llvm-mca 19) of GCC's code, 5 rows by 16 columns take 10.1 cycles a k on Neoverse N1 and 5.1 on V1 and V2,
// where the multiplications alone take 10 and 5; with permuted weights 12.1, 8.1 and 7.1. The compiler's own vectors take twice
// that. No machine has timed it.
#pragma once

#include <arm_neon.h>

#include "../../math/scalar.hpp"

namespace vgf::cpu::neon {

struct V {
  static constexpr int kWidth = 4;
  float32x4_t v;
  V() = default;
  VGF_INLINE V(float32x4_t x) : v(x) {}
  VGF_INLINE explicit V(float x) : v(vdupq_n_f32(x)) {}
  static VGF_INLINE V load(const float* p) { return vld1q_f32(p); }
  using Select = uint8x16_t;  // the bytes of two vectors, side by side, that make up the bytes of one
  static VGF_INLINE Select selection(const int* lanes) {
    const uint32x4_t lane = vreinterpretq_u32_s32(vld1q_s32(lanes));
    return vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x03020100), lane, 0x04040404));
  }
  VGF_INLINE void store(float* p) const { vst1q_f32(p, v); }
};

VGF_INLINE V operator+(V a, V b) { return vaddq_f32(a.v, b.v); }
VGF_INLINE V operator-(V a, V b) { return vsubq_f32(a.v, b.v); }
VGF_INLINE V operator*(V a, V b) { return vmulq_f32(a.v, b.v); }
VGF_INLINE V operator/(V a, V b) { return vdivq_f32(a.v, b.v); }
VGF_INLINE V fma(V a, V b, V c) { return vfmaq_f32(c.v, a.v, b.v); }
// NaN passes through fmax and fmin.
VGF_INLINE V max(V a, V x) { return vmaxq_f32(a.v, x.v); }
VGF_INLINE V min(V a, V x) { return vminq_f32(a.v, x.v); }
VGF_INLINE V abs(V x) { return vabsq_f32(x.v); }
VGF_INLINE V sqrt(V x) { return vsqrtq_f32(x.v); }
VGF_INLINE V if_greater(V a, V b, V yes, V no) { return vbslq_f32(vcgtq_f32(a.v, b.v), yes.v, no.v); }
// To a number of bfloat16, the nearest or of two the even one; NaN stays NaN.
VGF_INLINE V rounded(V x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x.v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t number = vandq_u32(up, vdupq_n_u32(0xffff0000));
  return vreinterpretq_f32_u32(vbslq_u32(vceqq_f32(x.v, x.v), number, vdupq_n_u32(0x7fc00000)));
}
// Lane i of the result is lane lanes[i] of a and b side by side.
VGF_INLINE V permute(V a, V b, V::Select s) {
  return vreinterpretq_f32_u8(vqtbl2q_u8({vreinterpretq_u8_f32(a.v), vreinterpretq_u8_f32(b.v)}, s));
}
VGF_INLINE V pow2(V n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127)), 23));
}

// in[row * stride + column] -> out[column * 16 + row], 4 x 4 at a time: two rounds of interleaving.
VGF_INLINE void transpose16(const float* in, long stride, float* out) {
  const auto halves = [](float32x4_t x) { return vreinterpretq_f64_f32(x); };
  for (int row = 0; row < 16; row += 4)
    for (int column = 0; column < 16; column += 4) {
      const float* from = in + row * stride + column;
      float* to = out + column * 16 + row;
      const float32x4x2_t first = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + stride));
      const float32x4x2_t second = vtrnq_f32(vld1q_f32(from + 2 * stride), vld1q_f32(from + 3 * stride));
      for (int i = 0; i < 2; i++) {
        const float64x2_t a = halves(first.val[i]), b = halves(second.val[i]);
        vst1q_f32(to + 16 * i, vreinterpretq_f32_f64(vzip1q_f64(a, b)));
        vst1q_f32(to + 16 * (i + 2), vreinterpretq_f32_f64(vzip2q_f64(a, b)));
      }
    }
}

// 5 rows x 4 vectors of accumulators, 4 weights, a few broadcasts ahead. A sixth row would fit 32 registers, but both GCC
// and Clang spill then where weights are permuted.
constexpr int kGemmRows = 5;
constexpr int gemm_panels(int) { return 1; }
constexpr int packed_width(int) { return 4; }
#define VGF_PACKS_COLUMNS
constexpr double kPackingPays = 0.65;  // of a layer's column vectors: about the ratio above

}  // namespace vgf::cpu::neon

#include "lanes.hpp"
