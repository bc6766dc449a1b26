// Products in bfloat16 with float32 sums.
//
// Forward, over the list of active units: a panel is [k][32] bfloat16, one cache line a row, its columns ordered so that
// interleaving two rows gives the pairs of columns 0..15 and of 16..31 in order: place 8 q + i holds column 4 q + i,
// place 8 q + 4 + i column 16 + 4 q + i. Interleaving a row with zeros widens it to float32.
// Backward: a panel is [k / 2][16] pairs of neighbouring k.
//
// Where the machine multiplies pairs (kPairs), two rows of weights are 2 loads, 2 interleavings and a broadcast a row of
// the tile for 2 M pair products: the fp32 cost for two k at once. Elsewhere weights are widened on the way: the fp32
// cost plus 2 instructions for 2 M multiply-adds, for half the bytes.
#pragma once

namespace vgf::cpu::VGF_ISA {

// What products take of k-major `a`: the listed units one after the other, in pairs of bfloat16 or rounded to bfloat16.
static void operand16(const float* a, const Active& k, float* out) {
  const auto unit = [&](int i, int r) {
    return i < k.count ? V::load(a + static_cast<long>(k.unit[i]) * kRowStride + r) : V(0.0f);
  };
  for (int i = 0; i < k.count; i += 2, out += kPairs ? kRowStride : 2 * kRowStride)
    for (int r = 0; r < kRowStride; r += V::kWidth) {
      const V both = pair(unit(i, r), unit(i + 1, r));
      if (kPairs) {
        both.store(out + r);
      } else {
        low_half(both).store(out + r);
        high_half(both).store(out + kRowStride + r);
      }
    }
}

// One chunk of a panel: the column vectors `chunk` and `chunk` + 16 columns on.
template <Broadcast broadcast, int M>
static VGF_ALONE void forward16_pass(const Gemm& g, int row, int panel, int chunk) {
  const float* w = g.w + panel * g.panel_stride + chunk * V::kWidth;
  const float* a = g.a + row;
  const int column = panel * 2 * kPanel + chunk * V::kWidth;
  const float* init = g.init + row * g.init_stride + column;
  float* c = g.c + row * g.c_stride + column;
  V sum[M][2];
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
    sum[m][0] = V::load(init + m * g.init_stride);
    sum[m][1] = V::load(init + m * g.init_stride + kPanel);
  }
  Fetch fetch(g);
  const auto step = [&](V r, V s) __attribute__((always_inline)) {
    fetch.line();
    const V b[2] = {interleave_low(r, s), interleave_high(r, s)};
    accumulate<kPairs ? Lane::pair : Lane::single, broadcast>(a, b, sum);
    a += kRowStride;
  };
  const auto row_of = [&](int i) __attribute__((always_inline)) {
    return V::load(w + static_cast<long>(g.k.unit[i]) * kPanel);
  };
  if constexpr (kPairs) {
    int i = 0;
    for (; i + 2 <= g.k.count; i += 2) step(row_of(i), row_of(i + 1));
    if (i < g.k.count) step(row_of(i), row_of(i));  // the second of the last pair of `a` is zero
  } else {
    for (int i = 0; i < g.k.count; i++) step(V(0.0f), row_of(i));
  }
  fetch.finish();
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
    sum[m][0].store(c + m * g.c_stride);
    sum[m][1].store(c + m * g.c_stride + kPanel);
  }
}

static void forward16(const Gemm& g) {
  const int passes = (g.rows + kGemmRows - 1) / kGemmRows;
  for (int panel = g.begin; panel < g.end; panel++)
    for (int pass = 0; pass < passes; pass++) {
      const int row = g.rows * pass / passes, end = g.rows * (pass + 1) / passes;
      with_rows<kGemmRows>(end - row, [&](auto height) {
        with_broadcast([&](auto broadcast) {
          for (int chunk = 0; chunk < kPer; chunk++) forward16_pass<broadcast.value, height.value>(g, row, panel, chunk);
        });
      });
    }
}

static void backward16(const Gemm& g) {
  gemm<kPairs ? Lane::pair : Lane::widened>(g);
}

constexpr Bf16Products kBf16Products = {forward16, backward16, operand16, PanelLayout::rows16,
                                        kPairs ? Follows::pairs : Follows::list};

}  // namespace vgf::cpu::VGF_ISA
