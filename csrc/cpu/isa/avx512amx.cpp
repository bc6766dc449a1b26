// AVX-512 with AMX tiles for the bfloat16 products: dense, as 16 times the rate beats leaving units out.
//
// A tile of particles is the left operand: for every 16 pairs of k a block [row][pair], as `blocked` has them. Weights
// are the right one, in panels of [k / 2][16] pairs both ways, 16 rows of which are an AMX tile as they lie.
//
// Cost model, 14 rows x 4 panels: a load of A and 4 of B (5 KB) for 4 products of 16 cycles, so the tiles are the limit
// where weights come from L2 (64 bytes a cycle at best); from L3 the bytes are.
#include "../kernels.hpp"
#include "amx_tiles.hpp"

namespace vgf::cpu::avx512amx {
namespace {

constexpr int kBlock = 16;  // pairs in a tile
constexpr int kA = 4, kB = 5, kRestA = 6, kRestB = 7;  // tiles 0 to 3 hold sums

// Sums of one panel in tile C, once A is loaded.
template <int C, int A, int B>
void add(const Gemm& g, int panel, int pair) {
  tile_load<B>(g.w + panel * g.panel_stride + static_cast<long>(pair) * kPanel, kPanel);
  tile_dot<C, A, B>();
}

template <int C>
void start(const Gemm& g, int panel) {
  if (g.init)
    tile_load<C>(g.init + panel * kPanel, g.init_stride);
  else
    tile_zero<C>();
}

template <int... C>
void panels(const Gemm& g, int first) {
  const int whole = g.k.count / kBlock * kBlock;
  (start<C>(g, first + C), ...);
  for (int pair = 0; pair < whole; pair += kBlock) {
    tile_load<kA>(g.a + blocked(pair), kBlock);
    (add<C, kA, kB>(g, first + C, pair), ...);
  }
  if (whole < g.k.count) {
    tile_load<kRestA>(g.a + blocked(whole), kBlock);
    (add<C, kRestA, kRestB>(g, first + C, whole), ...);
  }
  (tile_store<C>(g.c + (first + C) * kPanel, g.c_stride), ...);
}

// Over all k: Gemm::k counts pairs.
void product(const Gemm& g) {
  TileConfig config;
  const auto shape = [&](int tile, int rows, int pairs) {
    config.rows[tile] = static_cast<std::uint8_t>(rows);
    config.row_bytes[tile] = static_cast<std::uint16_t>(pairs * 4);
  };
  const int rest = g.k.count % kBlock ? g.k.count % kBlock : kBlock;
  for (int tile = 0; tile < 4; tile++) shape(tile, g.rows, kPanel);
  shape(kA, g.rows, kBlock);
  shape(kB, kBlock, kPanel);
  shape(kRestA, g.rows, rest);
  shape(kRestB, rest, kPanel);
  configure(config);
  int panel = g.begin;
  for (; panel + 4 <= g.end; panel += 4) panels<0, 1, 2, 3>(g, panel);
  for (; panel < g.end; panel++) panels<0>(g, panel);
  release();
}

}  // namespace

extern const Bf16Products kProducts;
const Bf16Products kProducts = {product, product, PanelLayout::pairs, Operand::pairs, Follows::none};

}  // namespace vgf::cpu::avx512amx
