// The forward product in bfloat16: rows of weights gathered by the list of active units, two at a time.
//
// A panel is [k][32] bfloat16, one cache line a row, its columns ordered so that interleaving two rows gives the pairs of
// columns 0..15 and of 16..31 in order: place 8 q + i holds column 4 q + i, place 8 q + 4 + i column 16 + 4 q + i.
//
// Cost model: per pair of rows 2 loads, 2 interleavings and a broadcast a row of the tile feed 2 M pair products; where
// the machine multiplies pairs, that is the fp32 cost for two k at once.
#pragma once

namespace vgf::cpu::VGF_ISA {

// a[i][row], i counting pairs of listed units, becomes out[i * kRowStride + row] as pairs of bfloat16.
[[maybe_unused]] static void to_pairs(const float* a, const Active& k, float* out) {
  for (int i = 0; i < k.count; i += 2) {
    const float* first = a + static_cast<long>(k.unit[i]) * kRowStride;
    const float* second = i + 1 < k.count ? a + static_cast<long>(k.unit[i + 1]) * kRowStride : nullptr;
    for (int r = 0; r < kRowStride; r += V::kWidth)
      pair(V::load(first + r), second ? V::load(second + r) : V(0.0f)).store(out + i / 2 * kRowStride + r);
  }
}

// One chunk of a panel: the column vectors `chunk` and `chunk` + 16 columns on.
template <int M>
static void rows16_pass(const Gemm& g, int row, int panel, int chunk) {
  const float* w = g.w + panel * g.panel_stride + chunk * V::kWidth;
  const int column = panel * 2 * kPanel + chunk * V::kWidth;
  const float* init = g.init + row * g.init_stride + column;
  float* c = g.c + row * g.c_stride + column;
  V sum[M][2];
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
    sum[m][0] = V::load(init + m * g.init_stride);
    sum[m][1] = V::load(init + m * g.init_stride + kPanel);
  }
  const auto step = [&](int i, int first, int second) __attribute__((always_inline)) {
    const V r = V::load(w + static_cast<long>(first) * kPanel), s = V::load(w + static_cast<long>(second) * kPanel);
    const V b[2] = {interleave_low(r, s), interleave_high(r, s)};
    accumulate<Pair>(g.a + static_cast<long>(i) * kRowStride + row, b, sum);
  };
  int i = 0;
  for (; i + 2 <= g.k.count; i += 2) step(i / 2, g.k.unit[i], g.k.unit[i + 1]);
  if (i < g.k.count) step(i / 2, g.k.unit[i], g.k.unit[i]);  // the second of the last pair of `a` is zero
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
    sum[m][0].store(c + m * g.c_stride);
    sum[m][1].store(c + m * g.c_stride + kPanel);
  }
}

static void gemm_rows16(const Gemm& g) {
  const int passes = (g.rows + kGemmRows - 1) / kGemmRows;
  for (int panel = 0; panel < g.panels; panel++)
    for (int pass = 0; pass < passes; pass++) {
      const int row = g.rows * pass / passes, end = g.rows * (pass + 1) / passes;
      with_rows<kGemmRows>(end - row, [&](auto height) {
        for (int chunk = 0; chunk < kPer; chunk++) rows16_pass<height.value>(g, row, panel, chunk);
      });
    }
}

}  // namespace vgf::cpu::VGF_ISA
