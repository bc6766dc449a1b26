// The gradient of a tile at the inputs of a layer, by the weights that the forward product reads: sums along their rows.
//
// Cost model, a pass of M rows x J columns: per vector of k, J loads of weights and M of the tile feed M * J multiply-adds.
// AVX2, M = 5, J = 2: 7 loads and 10 fma, 5 cycles, and once a pass M * J sums over lanes, 4% of 512 k. What is not wanted
// costs nothing, and weights are read once for both directions, so half as many must stay in L3. On Zen 3 a product of 66%
// of 512 columns takes 0.70 of the time of all of them with transposed weights, where packing them side by side takes 1.8.
#pragma once

namespace vgf::cpu::VGF_ISA {

constexpr int kPullColumns = 2;

// Columns are rows of the weights, which lie panels apart: so those of the columns `next` are fetched meanwhile.
template <int M, int J>
static VGF_ALONE void pull_pass(const Pull& p, int row, const int* columns, const int* next) {
  const float *w[J], *fetch[J];
  for (int j = 0; j < J; j++) {
    w[j] = p.w + columns[j] * p.column_stride;
    fetch[j] = p.w + next[j] * p.column_stride;
  }
  V sum[M][J];
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) sum[m][j] = V(0.0f);
  const float* a = p.a + row * kPanel;
  for (int panel = 0; panel < p.panels; panel++) {
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) __builtin_prefetch(fetch[j], 0, 3);
#pragma GCC unroll 4
    for (int v = 0; v < kPanel; v += V::kWidth) {
      V b[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) b[j] = V::load(w[j] + v);
#pragma GCC unroll 16
      for (int m = 0; m < M; m++) {
        const V x = V::load(a + m * kPanel + v);
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) sum[m][j] = fma(x, b[j], sum[m][j]);
      }
    }
    a += kBlockRows * kPanel;
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) {
      w[j] += p.panel_stride;
      fetch[j] += p.panel_stride;
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) p.c[(row + m) * p.c_stride + columns[j]] = sum_lanes(sum[m][j]);
}

template <int J>
static void pull_columns(const Pull& p, const int* columns, const int* next) {
  const int passes = (p.rows + kGemmRows - 1) / kGemmRows;
  for (int pass = 0; pass < passes; pass++) {
    const int row = p.rows * pass / passes, rows = p.rows * (pass + 1) / passes - row;
    with_rows<kGemmRows>(rows, [&](auto height) { pull_pass<height.value, J>(p, row, columns, next); });
  }
}

static void pull(const Pull& p) {
  const int first = p.begin * kPanel, past = p.end * kPanel;
  for (int r = 0; r < p.rows; r++)
    for (int c = first; c < past; c += V::kWidth) V(0.0f).store(p.c + r * p.c_stride + c);
  const int *at = p.wanted.unit, *end = at + p.wanted.count;
  while (at < end && *at < first) at++;
  while (at < end && end[-1] >= past) end--;
  for (; at + kPullColumns <= end; at += kPullColumns)
    pull_columns<kPullColumns>(p, at, at + 2 * kPullColumns <= end ? at + kPullColumns : at);
  for (; at < end; at++) pull_columns<1>(p, at, at);
}

}  // namespace vgf::cpu::VGF_ISA
