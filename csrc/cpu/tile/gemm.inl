// The product of a tile with packed weights.
//
// Cost model, a pass of M rows x P panels: per k one load a weight vector and one broadcast a row feed M * P *
// (16 / width) multiply-adds. AVX-512, M = 10, P = 2: 12 loads and 20 fma, so the two fma ports are the limit
// (10 cycles); weights stream at 128 bytes per 10 cycles, which L2 and a fast L3 sustain.
#pragma once

namespace vgf::cpu::VGF_ISA {

template <int M, int P>
static void gemm_pass(const Gemm& g, int row, int panel) {
  constexpr int kPer = kPanel / V::kWidth, N = P * kPer;
  const float* w[P];
  for (int p = 0; p < P; p++) w[p] = g.w + (panel + p) * g.panel_stride;
  float* c = g.c + row * g.c_stride + panel * kPanel;
  V sum[M][N];
  if (g.init) {
    const float* init = g.init + row * g.init_stride + panel * kPanel;
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) sum[m][n] = V::load(init + m * g.init_stride + n * V::kWidth);
  } else {
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) sum[m][n] = V(0.0f);
  }
  const float* a = g.a + row;
  for (long k = 0; k < g.depth; k++, a += g.a_stride) {
    V b[N];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 16
      for (int n = 0; n < kPer; n++) b[p * kPer + n] = V::load(w[p] + k * kPanel + n * V::kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      V x(a[m]);
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) sum[m][n] = fma(x, b[n], sum[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) sum[m][n].store(c + m * g.c_stride + n * V::kWidth);
}

template <int M>
static void gemm_rows(const Gemm& g, int rows, int row, int panel, int panels) {
  if constexpr (M > 1) {
    if (rows < M) return gemm_rows<M - 1>(g, rows, row, panel, panels);
  }
  constexpr int P = gemm_panels(M);
  int p = 0;
  for (; p + P <= panels; p += P) gemm_pass<M, P>(g, row, panel + p);
  if constexpr (P > 2) {
    for (; p + 2 <= panels; p += 2) gemm_pass<M, 2>(g, row, panel + p);
  }
  if constexpr (P > 1) {
    for (; p < panels; p++) gemm_pass<M, 1>(g, row, panel + p);
  }
}

static void gemm(const Gemm& g) {
  // Rows in passes of near-equal height; panels outside, so that a panel stays in L1 for all passes.
  const int passes = (g.rows + kGemmRows - 1) / kGemmRows;
  const int step = passes == 1 ? g.panels : 1;
  for (int panel = 0; panel < g.panels; panel += step)
    for (int pass = 0; pass < passes; pass++) {
      const int row = g.rows * pass / passes, end = g.rows * (pass + 1) / passes;
      gemm_rows<kGemmRows>(g, end - row, row, panel, step);
    }
}

}  // namespace vgf::cpu::VGF_ISA
