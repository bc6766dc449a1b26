// The gradient of a tile at the inputs of a layer, by the weights that the forward product reads: sums along their rows.
//
// Cost model, a pass of M rows x J columns: per vector of k, J loads of weights and M of the tile feed M * J multiply-adds.
// AVX2, M = 10, J = 1: 11 loads, ten of which are operands, in 5.5 cycles of two loads and two multiply-adds; fewer rows
// take two columns, so that no sum waits for itself. What is not wanted costs nothing, and weights are read once for both
// directions, so half as many must stay in L3. On Zen 3 a core reached 68 GFLOP/s at best, 55 with blocks of 16 rows
// (kBlockRows) and 51 where a column's panels fell on the same cache sets (Panels::panel).
#pragma once

namespace vgf::cpu::VGF_ISA {

// Columns are rows of the weights, which lie panels apart: so those of the columns `next` are fetched meanwhile.
template <int M, int J>
static VGF_ALONE void pull_pass(const Pull& p, const int* columns, const int* next) {
  const float *w[J], *fetch[J];
  for (int j = 0; j < J; j++) {
    w[j] = p.w + columns[j] * p.column_stride;
    fetch[j] = p.w + next[j] * p.column_stride;
  }
  V sum[M * J];
#pragma GCC unroll 16
  for (int i = 0; i < M * J; i++) sum[i] = V(0.0f);
  const float* a = p.a;
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
        for (int j = 0; j < J; j++) sum[m * J + j] = fma(x, b[j], sum[m * J + j]);
      }
    }
    a += kBlockRows * kPanel;
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) {
      w[j] += p.panel_stride;
      fetch[j] += p.panel_stride;
    }
  }
  float total[2 * 8];
#pragma GCC unroll 2
  for (int half = 0; half * 8 < M * J; half++) {
    V eight[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) eight[i] = half * 8 + i < M * J ? sum[(half * 8 + i) % (M * J)] : V(0.0f);
    sum_lanes(eight).store(total + half * 8);
  }
#pragma GCC unroll 16
  for (int i = 0; i < M * J; i++) p.c[i / J * p.c_stride + columns[i % J]] = total[i];
}

// `J` columns a pass of all rows, at most M.
template <int M, int J>
static VGF_INLINE void pull_columns(const Pull& p, const int* at, const int* end) {
  with_rows<M>(p.rows, [&](auto height) {
    constexpr int R = height.value;
    for (; at + J <= end; at += J) pull_pass<R, J>(p, at, at + 2 * J <= end ? at + J : at);
    if constexpr (J > 1)
      for (; at < end; at++) pull_pass<R, 1>(p, at, at);
  });
}

static void pull(const Pull& p) {
  const int first = p.begin * kPanel, past = p.end * kPanel;
  for (int r = 0; r < p.rows; r++)
    for (int c = first; c < past; c += V::kWidth) V(0.0f).store(p.c + r * p.c_stride + c);
  const int *at = p.wanted.unit, *end = at + p.wanted.count;
  while (at < end && *at < first) at++;
  while (at < end && end[-1] >= past) end--;
  constexpr int kFew = 7;
  if (p.rows <= kFew)
    pull_columns<kFew, 2>(p, at, end);
  else
    pull_columns<kTileRows, 1>(p, at, end);
}

}  // namespace vgf::cpu::VGF_ISA
