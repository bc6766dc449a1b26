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

static bool pack_panel(const PackPanel& p) {
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
    if (!to) continue;
    for (int r = 0; r < rows; r += step, to += kPanel)
#pragma GCC unroll 4
      for (int v = 0; v < kPanel; v += V::kWidth) {
        const float* at = block[0] + r * kPanel + v;
        if (p.layout == PanelLayout::single)
          V::load(at).store(to + v);
        else if (p.layout == PanelLayout::pairs)
          pair(V::load(at), V::load(at + kPanel)).store(to + v);
        else
          narrow(V::load(at), V::load(block[1] + r * kPanel + v)).store(to + v);
      }
  }
  wrong.store(block[0]);
  bool finite = true;
  for (int i = 0; i < V::kWidth; i++) finite = finite && block[0][i] == 0;
  return finite;
}

}  // namespace vgf::cpu::VGF_ISA
