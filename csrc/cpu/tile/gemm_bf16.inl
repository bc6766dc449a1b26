// Products in bfloat16 with float32 sums.
//
// Forward, over the list of active units: a panel is [k][32] bfloat16, one cache line a row, its columns ordered so that
// interleaving two rows gives the pairs of columns 0..15 and of 16..31 in order: place 8 q + i holds column 4 q + i,
// place 8 q + 4 + i column 16 + 4 q + i. Interleaving a row with zeros widens it to float32.
// Backward: a panel is [k / 2][16] pairs of neighbouring k.
//
// Where the machine multiplies pairs (kPairs), two rows of weights are 2 loads, 2 interleavings and a broadcast a row of
// the tile for 2 M pair products: the fp32 cost for two k at once. Few rows take two panels side by side. AVX-512 without
// pairs widens weights on the way: the fp32 cost plus 2 instructions for 2 M multiply-adds, for half the bytes, which on a
// Xeon cost a flow nothing and saved a single action a seventh. Narrower vectors, of which that is a larger part, take the
// products of float32 (PackedLayer::rounded): on Zen 3 widening had cost a flow 1.2 times their time, sampling 1.4 times.
#pragma once

namespace vgf::cpu::VGF_ISA {

// One chunk of P panels: of each the column vectors `chunk` and `chunk` + 16 columns on.
template <Broadcast broadcast, int M, int P>
static VGF_ALONE void forward16_pass(const Gemm& g, int row, int panel, int chunk) {
  const float* w[P];
  for (int p = 0; p < P; p++) w[p] = g.w + (panel + p) * g.panel_stride + chunk * V::kWidth;
  const float* a = g.a + row * kPanel;
  const int column = panel * 2 * kPanel + chunk * V::kWidth;
  const float* init = g.init + row * g.init_stride + column;
  float* c = g.c + row * g.c_stride + column;
  V sum[M][2 * P];
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int n = 0; n < 2 * P; n++) sum[m][n] = V::load(init + m * g.init_stride + n * kPanel);
  Fetch fetch(g);
  const auto row_of = [&](int p, int i) __attribute__((always_inline)) {
    return V::load(w[p] + static_cast<long>(g.k.unit[i]) * kPanel);
  };
  // Rows i and j of the weights, zeros for a negative i, by what `a` has in that place.
  const auto step = [&](int i, int j, unsigned at) __attribute__((always_inline)) {
    fetch.line();
    V b[2 * P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) {
      const V r = i < 0 ? V(0.0f) : row_of(p, i), s = row_of(p, j);
      b[2 * p] = interleave_low(r, s);
      b[2 * p + 1] = interleave_high(r, s);
    }
    accumulate<kPairs ? Lane::pair : Lane::single, broadcast>(a + blocked(at), b, sum);
  };
  if constexpr (kPairs) {
    int i = 0;
    for (; i + 2 <= g.k.count; i += 2) step(i, i + 1, i / 2);
    if (i < g.k.count) step(i, i, i / 2);  // the second of the last pair of `a` is zero
  } else {
    for (int i = 0; i < g.k.count; i++) step(-1, i, g.k.unit[i]);
  }
  fetch.finish();
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int n = 0; n < 2 * P; n++) sum[m][n].store(c + m * g.c_stride + n * kPanel);
}

// Panels of 32 columns side by side for a pass of `rows`.
constexpr int wide_panels(int rows) { return gemm_panels(rows) > 1 ? gemm_panels(rows) / 2 : 1; }

static void forward16(const Gemm& g) {
  const int passes = (g.rows + kGemmRows - 1) / kGemmRows;
  for (int panel = g.begin, step; panel < g.end; panel += step) {
    step = panel + wide_panels(g.rows) <= g.end ? wide_panels(g.rows) : 1;
    for (int pass = 0; pass < passes; pass++) {
      const int row = g.rows * pass / passes, end = g.rows * (pass + 1) / passes;
      with_rows<kGemmRows>(end - row, [&](auto height) {
        with_broadcast([&](auto broadcast) {
          constexpr int M = height.value, P = wide_panels(M);
          for (int chunk = 0; chunk < kPer; chunk++)
            if (step == P)
              forward16_pass<broadcast.value, M, P>(g, row, panel, chunk);
            else
              forward16_pass<broadcast.value, M, 1>(g, row, panel, chunk);
        });
      });
    }
  }
}

static void backward16(const Gemm& g) {
  gemm<kPairs ? Lane::pair : Lane::widened>(g);
}

constexpr Bf16Products kBf16Products = {forward16, backward16, PanelLayout::rows16,
                                        kPairs ? Operand::pairs : Operand::rounded,
                                        kPairs ? Follows::pairs : Follows::list};

}  // namespace vgf::cpu::VGF_ISA
