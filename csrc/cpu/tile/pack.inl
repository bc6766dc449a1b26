// Fills a panel of packed weights from a matrix of any strides, 16 k x 16 columns at a time.
//
// Cost model: a matrix contiguous along the columns is copied, one contiguous along k goes through a 16 x 16 transposition
// of 64 shuffles a KB: 2 to 3 GB/s a core scalar, 10 and more here, where memory is the limit.
#pragma once

namespace vgf::cpu::VGF_ISA {

// block[k][column] of 16 x 16, zero past `depth` and `columns`.
static VGF_INLINE void read_block(const float* from, std::ptrdiff_t stride_k, std::ptrdiff_t stride_c, int depth,
                                  int columns, float* block) {
  const bool whole = depth >= kPanel && columns >= kPanel;
  if (whole && stride_c == 1) {
    for (int k = 0; k < kPanel; k++)
#pragma GCC unroll 4
      for (int v = 0; v < kPanel; v += V::kWidth) V::load(from + k * stride_k + v).store(block + k * kPanel + v);
  } else if (whole && stride_k == 1) {
    transpose16(from, stride_c, block);
  } else {
    for (int k = 0; k < kPanel; k++)
      for (int c = 0; c < kPanel; c++)
        block[k * kPanel + c] = k < depth && c < columns ? from[k * stride_k + c * stride_c] : 0.0f;
  }
}

static VGF_INLINE bool all_zero(V x) {
  float lane[V::kWidth];
  x.store(lane);
  bool zero = true;
  for (float v : lane) zero = zero && v == 0;
  return zero;
}

// A panel whose columns lie one after the other, each of whole vectors, is read once, without a transposition.
static bool all_finite(const PackPanel& p) {
  V wrong(0.0f);  // 0, or NaN once a number was not finite
  for (int c = 0; c < kPanel && c < p.columns; c++)
    for (int k = 0; k < p.depth; k += V::kWidth)
      wrong = fma(V::load(p.from + c * p.stride_c + k), V(0.0f), wrong);
  return all_zero(wrong);
}

static bool pack_panel(const PackPanel& p) {
  if (!p.to) return all_finite(p);
  alignas(64) float block[2][kPanel * kPanel];
  float* to = p.to;
  V wrong(0.0f);  // 0, or NaN once a number was not finite
  for (int k = 0; k < p.depth; k += kPanel) {
    const int rows = p.depth - k < kPanel ? p.depth - k : kPanel;
    const float* from = p.from + k * p.stride_k;
    read_block(from, p.stride_k, p.stride_c, rows, p.columns, block[0]);
    if (p.layout == PanelLayout::rows16)
      read_block(from + kPanel * p.stride_c, p.stride_k, p.stride_c, rows, p.columns - kPanel, block[1]);
    const int step = p.layout == PanelLayout::pairs ? 2 : 1;
    for (int i = 0; i < (p.layout == PanelLayout::rows16 ? 2 : 1) * kPanel * kPanel; i += V::kWidth)
      wrong = fma(V::load(block[0] + i), V(0.0f), wrong);
    for (int r = 0; r < rows; r += step, to += kPanel)
#pragma GCC unroll 4
      for (int v = 0; v < kPanel; v += V::kWidth) {
        const float* at = block[0] + r * kPanel + v;
        V packed = V::load(at);
        if (p.layout == PanelLayout::rounded) packed = rounded(packed);
#if defined(VGF_HAS_BF16_PRODUCTS)
        if (p.layout == PanelLayout::pairs) packed = pair(packed, V::load(at + kPanel));
        if (p.layout == PanelLayout::rows16) packed = narrow(packed, V::load(block[1] + r * kPanel + v));
#endif
        packed.store(to + v);
      }
  }
  return all_zero(wrong);
}

}  // namespace vgf::cpu::VGF_ISA
