// What the Hopper kernel adds to layout.hpp: its tiles, its ring of weights, its shared memory, and how the tensor cores
// find an operand. Shared by host and device.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

constexpr int kGroupRows = 64;      // of a tile, for a warpgroup: tiles have 64 or 128
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kLargestHopperTile = kThreads / kGroupThreads * kGroupRows;
// The third warpgroup fetches weights, with one thread; setmaxnreg leaves its registers to the other two. What it hands out
// is what the block started with, 168 a thread.
constexpr int kHopperThreads = kThreads + kGroupThreads;
constexpr int kStartRegisters = 65536 / kHopperThreads / 8 * 8;
constexpr int kWorkRegisters = 232, kFetchRegisters = 40;
static_assert(kWorkRegisters * kThreads + kFetchRegisters * kGroupThreads <= kStartRegisters * kHopperThreads);

constexpr int kWidestHopper = 2 * kChunk;  // one chunk waits in registers while the other is multiplied

constexpr int kCluster = 2;  // blocks that share what each of them fetches
constexpr int kRing = 5;     // k-blocks of weights in shared memory
constexpr int kSlotBytes = kChunk * kBlockBytes;
constexpr int kProductSlots = 2;  // products that are told of, with the vectors of their layers: bias, scale, shift, head
constexpr int kVectorBytes = 4 * kWidestHopper * static_cast<int>(sizeof(float));

// Shared memory: the barriers, what is known of the tile, what is told of products, the ring's slots, the vectors, then the activations or, between
// networks, the bandwidths of the tile's states and the work of the pairwise part.
constexpr int kHopperHeadBytes = 1024, kTileAt = 128, kProductsAt = 640;
static_assert(2 * (kRing + kProductSlots) * 8 <= kTileAt);
VGF_HD constexpr int hopper_shared_bytes(int rows, int k_blocks) {
  const int activations = k_blocks * rows * kBlockBytes, pairs = bandwidth_bytes(rows) + pair_bytes(rows);
  return kHopperHeadBytes + kRing * kSlotBytes + kProductSlots * kVectorBytes + (activations > pairs ? activations : pairs);
}

// How wgmma is told of an operand: PTX ISA, "Matrix Descriptor Format". K-major, swizzled by 64 bytes, which is
// part_offset; eight rows are a pattern of 512 bytes, and patterns follow each other. The address is that of the first
// row's first byte, a multiple of 512, plus the bytes of k that are skipped.
constexpr int kPatternBytes = 8 * kBlockBytes;
constexpr std::uint64_t kSliceStep = 32 >> 4;  // to the next 16 numbers of k
VGF_HD constexpr std::uint64_t wgmma_descriptor(std::uint32_t shared_address) {
  constexpr std::uint64_t swizzle_64 = 2, leading = 1;  // the leading dimension's offset is not used here
  return (shared_address & 0x3ffff) >> 4 | leading << 16 | std::uint64_t{kPatternBytes >> 4} << 32 | swizzle_64 << 62;
}
static_assert(kHopperHeadBytes % kPatternBytes == 0 && kSlotBytes % kPatternBytes == 0);
static_assert(kGroupRows * kBlockBytes % kPatternBytes == 0);

}  // namespace vgf::cuda
