// The product of a part of a tile with packed weights, over units that are switched on, whose numbers stand side by side.
//
// Cost model, M rows: per k two loads of weights, a broadcast a row and, to find the weights, two instructions feed 2 M
// multiply-adds. AVX2, M = 5: 19 instructions in 5 cycles of two multiply-adds, where a core begins 6 a cycle, or half as
// many beside another thread. A list followed through blocked numbers takes 30, and was the limit: on Zen 3 a core reached
// 37 GFLOP/s in the median over 65% of 512 units, gathered 58, torch's product of all units 64 to 79.
//
// Tried for a single tile: fetching, with every row, that row of the next panel. 7 to 20% less of an action where others used much
// of L3, 7% more where nobody did.
#pragma once

namespace vgf::cpu::VGF_ISA {

template <int M>
static VGF_ALONE void gathered_pass(const Gemm& g, int panel) {
  const float* w = g.w + panel * g.panel_stride;
  const float* a = g.a;
  const long k_stride = g.k_stride;
  V sum[M][kPer];
  start(g, 0, panel * kPer, sum);
  const auto step = [&](const int* unit, int i) __attribute__((always_inline)) {
    const float* row = w + static_cast<long>(static_cast<unsigned>(unit[i])) * k_stride;
    V b[kPer];
#pragma GCC unroll 4
    for (int n = 0; n < kPer; n++) b[n] = V::load(row + n * V::kWidth);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const V x(a[i * M + m]);
#pragma GCC unroll 4
      for (int n = 0; n < kPer; n++) sum[m][n] = fma(x, b[n], sum[m][n]);
    }
  };
  Fetch fetch(g);
  const int *unit = g.k.unit, *end = unit + g.k.count;
  for (; unit + 4 <= end; unit += 4, a += 4 * M) {
    fetch.line();
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) step(unit, i);
  }
  for (; unit < end; unit++, a += M) step(unit, 0);
  fetch.finish();
  finish(g, 0, panel * kPer, sum);
}

static void gathered(const Gemm& g) {
  in_spans(g, [](Gemm span, int first) {
    span.a += static_cast<long>(first) * span.rows;
    with_rows<kPartRows>(span.rows, [&](auto height) {
      for (int panel = span.begin; panel < span.end; panel++) gathered_pass<height.value>(span, panel);
    });
  });
}

}  // namespace vgf::cpu::VGF_ISA
