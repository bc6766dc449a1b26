// The product of a tile with packed weights, over the units that are switched on.
//
// Cost model, a pass of M rows x P panels: per k one load a weight vector and one broadcast a row feed M * P *
// (16 / width) multiply-adds. AVX-512, M = 10, P = 2: 12 loads and 20 fma, so the two fma ports are the limit
// (10 cycles); weights stream at 128 bytes per 10 cycles, which L2 and a fast L3 sustain.
//
// Leaving out k costs nothing: the loop follows an index list. Leaving out columns packs them, where columns.inl says so.
#pragma once

namespace vgf::cpu::VGF_ISA {

template <Lane lane, int M, int P>
static VGF_ALONE void gemm_pass(const Gemm& g, int row, int panel) {
  constexpr int N = P * kPer;
  const float* w[P];
  for (int p = 0; p < P; p++) w[p] = g.w + (panel + p) * g.panel_stride;
  V sum[M][N];
  start(g, row, panel * kPer, sum);
  const float* a = g.a + row * kPanel;
  const long k_stride = g.k_stride;
  Fetch fetch(g);
  for (int i = 0; i < g.k.count; i++) {
    const unsigned k = g.k.unit[i];
    const long at = static_cast<long>(k) * k_stride;
    fetch.line();
    V b[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) b[n] = V::load(w[n / kPer] + at + n % kPer * V::kWidth);
    accumulate<lane>(a + place<lane>(k), b, sum);
  }
  fetch.finish();
  finish(g, row, panel * kPer, sum);
}

#if defined(VGF_GATHERS)
// Whether the units of a list follow one another, from the first of a panel on.
static VGF_INLINE bool dense(const Active& k) {
  return k.count > 0 && k.unit[0] % kPanel == 0 && k.unit[k.count - 1] - k.unit[0] == k.count - 1;
}

// What gemm_pass does where the list is dense, without following it.
template <int M>
static VGF_ALONE void dense_pass(const Gemm& g, int row, int panel) {
  const int first = g.k.unit[0];
  const float* w = g.w + panel * g.panel_stride + first * g.k_stride;
  const float* a = g.a + row * kPanel + blocked(first);
  V sum[M][kPer];
  start(g, row, panel * kPer, sum);
  const auto step = [&](int k) __attribute__((always_inline)) {
    V b[kPer];
#pragma GCC unroll 16
    for (int n = 0; n < kPer; n++) b[n] = V::load(w + n * V::kWidth);
    accumulate<Lane::single>(a + k, b, sum);
    w += g.k_stride;
  };
  Fetch fetch(g);
  int left = g.k.count;
  for (; left >= kPanel; left -= kPanel, a += kBlockRows * kPanel) {
#pragma GCC unroll 4
    for (int line = 0; line < 4; line++) fetch.line();
#pragma GCC unroll 16
    for (int k = 0; k < kPanel; k++) step(k);
  }
  for (int k = 0; k < left; k++) step(k);
  fetch.finish();
  finish(g, row, panel * kPer, sum);
}
#endif

template <Lane lane>
static void gemm_panels_of(const Gemm& g, int rows, int row, int panel, int end) {
  with_rows<kGemmRows>(rows, [&](auto height) {
    constexpr int M = height.value, P = gemm_panels(M);
#if defined(VGF_GATHERS)
    if constexpr (lane == Lane::single)
      if (dense(g.k))
        for (; panel < end; panel++) dense_pass<M>(g, row, panel);
#endif
    for (; panel + P <= end; panel += P) gemm_pass<lane, M, P>(g, row, panel);
    if constexpr (P > 2)
      for (; panel + 2 <= end; panel += 2) gemm_pass<lane, M, 2>(g, row, panel);
    if constexpr (P > 1)
      for (; panel < end; panel++) gemm_pass<lane, M, 1>(g, row, panel);
  });
}

template <Lane lane>
static void gemm_span(const Gemm& g) {
#if defined(VGF_PACKS_COLUMNS)
  if (g.plan && g.plan->pays)
    return in_passes(g.rows, packed_at(*g.plan, g.begin), packed_at(*g.plan, g.end), kPass,
                     [&](int row, int rows, int begin, int end) { packed_vectors<lane>(g, rows, row, begin, end); });
#endif
  in_passes(g.rows, g.begin, g.end, 1,
            [&](int row, int rows, int begin, int end) { gemm_panels_of<lane>(g, rows, row, begin, end); });
}

// A sum of thousands of terms, one after the other, rounds more than a library's, which adds up sums of fewer: so do these.
// Spans are of units, not of those that are on, so what is left out changes no bit. (Of bfloat16 the factors round more.)
// f(product over some of the list, from which place in it on)
template <class F>
static VGF_INLINE void in_spans(const Gemm& g, F f) {
  constexpr int kSpan = 512;
  const Active& k = g.k;
  if (k.count == 0 || k.unit[k.count - 1] < kSpan) return f(g, 0);
  Gemm span = g;
  for (int first = 0, bound = kSpan; first < k.count; bound += kSpan) {
    int end = first;
    while (end < k.count && k.unit[end] < bound) end++;
    span.k = {end - first, k.unit + first, nullptr};
    f(span, first);
    span.adds = true;
    span.init = nullptr;
    first = end;
  }
}

template <Lane lane>
static void gemm(const Gemm& g) {
  if (lane == Lane::single)
    in_spans(g, [](const Gemm& span, int) { gemm_span<lane>(span); });
  else
    gemm_span<lane>(g);
}

}  // namespace vgf::cpu::VGF_ISA
