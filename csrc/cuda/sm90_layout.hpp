// What the Hopper kernel adds to layout.hpp: its tiles, its ring of weights, its shared memory, and how the tensor cores
// find an operand. Shared by host and device.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

constexpr int kHopperRows = 64;     // of a tile
constexpr int kGroupThreads = 128;  // of a warpgroup
// The third warpgroup fetches weights, with one thread; setmaxnreg leaves its registers to the other two. What it hands out
// is what the block started with, 168 a thread.
constexpr int kHopperThreads = kThreads + kGroupThreads;
constexpr int kStartRegisters = 65536 / kHopperThreads / 8 * 8;
constexpr int kWorkRegisters = 224, kFetchRegisters = 56;
static_assert(kWorkRegisters * kThreads + kFetchRegisters * kGroupThreads <= kStartRegisters * kHopperThreads);

// A layer's groups of 32 columns are divided between the two that work. Two chunks of weights are a warpgroup's each; of one,
// each has half.
constexpr int kChunkGroups = kChunk / kGroup;
constexpr int kWidestHopper = 2 * kChunk;
VGF_HD constexpr int groups_of_the_first(int groups) { return groups > kChunkGroups ? kChunkGroups : (groups + 1) / 2; }

constexpr int kCluster = 4;  // blocks; those that evaluate the same members share what each of them fetches
constexpr int kMostAtOnce = 2;  // members that blocks of a cluster evaluate side by side, on the same tiles
constexpr int kRing = 4;        // k-blocks of weights in shared memory
constexpr int kSlotBytes = kWidestHopper * kBlockBytes;
constexpr int kProductSlots = 2;  // products that are told of, with the vectors of their layers: bias, scale, shift, head
constexpr int kVectorBytes = kWidestHopper * static_cast<int>(sizeof(float)), kVectors = 4;
constexpr int kRowSums = 5;  // what the warpgroups tell each other of a row: two sums up, two down, one of the head

// Shared memory: the barriers, what is known of the tile, what is told of products, where the fetching thread is, the sums of
// rows, the ring's slots, the vectors, then the activations or, between networks, the bandwidths of the tile's states and the
// work of the pairwise part.
constexpr int kTileAt = 128, kProductsAt = 512, kFetchingAt = 768, kRowSumsAt = 1024;
constexpr int kRowSumFloats = kThreads / kGroupThreads * kHopperRows;  // of one: each warpgroup its own
constexpr int kHopperHeadBytes = kRowSumsAt + kRowSums * kRowSumFloats * static_cast<int>(sizeof(float));
static_assert((2 * (kRing + kProductSlots) + 1) * 8 <= kTileAt);
VGF_HD constexpr int hopper_shared_bytes(int k_blocks) {
  const int activations = k_blocks * kHopperRows * kBlockBytes, pairs = bandwidth_bytes(kHopperRows) + pair_bytes(kHopperRows);
  const int weights = kRing * kSlotBytes + kProductSlots * kVectors * kVectorBytes;
  return kHopperHeadBytes + weights + (activations > pairs ? activations : pairs);
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
static_assert(kHopperRows * kBlockBytes % kPatternBytes == 0);

}  // namespace vgf::cuda
