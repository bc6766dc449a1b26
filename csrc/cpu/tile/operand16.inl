// What bfloat16 products take of a tile's activations or gradients.
//
// Cost model, of pairs: two loads, a conversion and a store for 32 units of a row; where a list leaves units out, a load,
// a compression and a store for 16 of them before. 2 to 3% of the product.
#pragma once

namespace vgf::cpu::VGF_ISA {

#if defined(VGF_HAS_COMPRESS)
// The listed units side by side, in pairs of neighbours; the second of the last pair is zero where their number is odd.
[[maybe_unused]] static void paired16(const float* a, int begin, int end, const Active& k, float* work, float* out) {
  for (int r = begin; r < end; r++) {
    const float* row = a + r * kPanel;
    const auto panel = [&](int unit) { return V::load(row + blocked(unit)); };
    if (k.on) {
      for (int unit = 0, count = 0; count < k.count; unit += kPanel)
        count += compress(panel(unit), k.on[unit / kPanel], work + count);
    } else {
      for (int unit = 0; unit < k.count; unit += kPanel) panel(unit).store(work + unit);
    }
    for (int i = 0; i < 2; i++) V(0.0f).store(work + k.count + i * kPanel);
    for (int unit = 0; unit < k.count; unit += 2 * kPanel)
      neighbours(V::load(work + unit), V::load(work + unit + kPanel)).store(out + r * kPanel + blocked(unit / 2));
  }
}
#endif

// Rounded where they stand; the others in the same panels too.
[[maybe_unused]] static void rounded16(const float* a, int begin, int end, const Active& k, float*, float* out) {
  const int units = !k.on ? k.count : k.count > 0 ? k.unit[k.count - 1] + 1 : 0;
  for (int unit = 0; unit < units; unit += kPanel)
    for (int at = begin * kPanel; at < end * kPanel; at += V::kWidth) {
      const V x = V::load(a + blocked(unit) + at);
      low_half(pair(x, x)).store(out + blocked(unit) + at);
    }
}

}  // namespace vgf::cpu::VGF_ISA
