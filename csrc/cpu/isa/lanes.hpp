// What instruction sets without an instruction for it do lane by lane, by way of memory. Included where V is.
#pragma once

namespace vgf::cpu::VGF_ISA {

#if !defined(VGF_HAS_SUM_LANES)
VGF_INLINE float sum_lanes(V x) {
  float lane[V::kWidth];
  x.store(lane);
#pragma GCC unroll 16
  for (int half = V::kWidth / 2; half > 0; half /= 2)
#pragma GCC unroll 16
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  return lane[0];
}
#endif
// Lanes from `count` on become zero.
VGF_INLINE V first_lanes(V x, int count) {
  float lanes[V::kWidth];
  x.store(lanes);
  for (int lane = count; lane < V::kWidth; lane++) lanes[lane] = 0;
  return V::load(lanes);
}
#if !defined(VGF_HAS_LIST_BITS)
// Writes first + i for every lane i that is not zero (NaN is not); room for a whole vector. Returns the lanes' bits.
VGF_INLINE unsigned list_nonzero(V x, int first, int* out) {
  float lanes[V::kWidth];
  x.store(lanes);
  unsigned bits = 0;
  for (int i = 0, count = 0; i < V::kWidth; i++) {
    const bool nonzero = !(lanes[i] == 0.0f);
    out[count] = first + i;
    count += nonzero;
    bits |= static_cast<unsigned>(nonzero) << i;
  }
  return bits;
}
#endif
// out[i] = how many of the bits below i are set where bit i is, else the vector's width.
VGF_INLINE void ranks(unsigned bits, int* out) {
  for (int i = 0, rank = 0; i < V::kWidth; i++, bits >>= 1) {
    out[i] = bits & 1 ? rank : V::kWidth;
    rank += bits & 1;
  }
}

}  // namespace vgf::cpu::VGF_ISA
