// The few AMX instructions the products need, or their meaning in plain C++ (VGF_EMULATE_AMX), to test without the machine.
//
// instruction     latency  per cycle (Sapphire Rapids, by its optimisation manual)
// tdpbf16ps       52       1 in 16: 16 x 16 x 32 multiply-adds, 16 times what fp32 fma does
// tileloadd       45       1 in 8
// tilestored      -        1 in 16
#pragma once

#include <cstdint>
#include <cstring>

namespace vgf::cpu::avx512amx {

// Rows and bytes a row of the eight tiles, in the layout of ldtilecfg.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

#if defined(VGF_EMULATE_AMX)
inline thread_local TileConfig tile_shapes;
inline thread_local unsigned char tile_data[8][16][64];

inline void configure(const TileConfig& c) { tile_shapes = c; }
inline void release() {}
template <int T>
void tile_zero() {
  std::memset(tile_data[T], 0, sizeof tile_data[T]);
}
template <int T>
void tile_load(const float* from, long stride) {
  tile_zero<T>();
  for (int r = 0; r < tile_shapes.rows[T]; r++) std::memcpy(tile_data[T][r], from + r * stride, tile_shapes.row_bytes[T]);
}
template <int T>
void tile_store(float* to, long stride) {
  for (int r = 0; r < tile_shapes.rows[T]; r++) std::memcpy(to + r * stride, tile_data[T][r], tile_shapes.row_bytes[T]);
}
// C[m][n] += sum over pairs of A[m][pair] * B[pair][n]
template <int C, int A, int B>
void tile_dot() {
  const auto half = [](const unsigned char* at) {
    std::uint16_t bits;
    std::memcpy(&bits, at, sizeof bits);
    const std::uint32_t wide = std::uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  };
  for (int m = 0; m < tile_shapes.rows[C]; m++)
    for (int n = 0; n < tile_shapes.row_bytes[C] / 4; n++) {
      float sum;
      std::memcpy(&sum, tile_data[C][m] + 4 * n, sizeof sum);
      for (int k = 0; k < tile_shapes.rows[B]; k++)
        for (int odd = 0; odd < 2; odd++)
          sum += half(tile_data[A][m] + 4 * k + 2 * odd) * half(tile_data[B][k] + 4 * n + 2 * odd);
      std::memcpy(tile_data[C][m] + 4 * n, &sum, sizeof sum);
    }
}
#else
// Assembly, since the compilers' own intrinsics are macros that take a literal where a tile is named.
#define VGF_TILE inline __attribute__((always_inline))
VGF_TILE void configure(const TileConfig& c) { asm volatile("ldtilecfg %0" ::"m"(c)); }
VGF_TILE void release() { asm volatile("tilerelease"); }
template <int T>
VGF_TILE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
VGF_TILE void tile_load(const float* from, long stride) {
  asm volatile("tileloadd (%0,%1,4), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
VGF_TILE void tile_store(float* to, long stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,4)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
template <int C, int A, int B>
VGF_TILE void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
#endif

}  // namespace vgf::cpu::avx512amx
