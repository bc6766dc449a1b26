// What Hopper's tile kernels add to layout.hpp: its tiles, its ring of weights, its shared memory, and how the tensor cores
// find an operand. Shared by host and device.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

constexpr int kHopperRows = 64;     // of a tile
constexpr int kWarpRows = 16;       // of them a warp's, in every warpgroup: it has nothing to do where a tile ends before them
constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kWarpgroups = 4;      // that take a tile through networks; what lies between networks is done by kThreads of them
constexpr int kNetworkThreads = kWarpgroups * kGroupThreads, kNetworkWarps = kNetworkThreads / kLanes;
// One more fetches weights, with one thread; setmaxnreg leaves its registers to the others. What it hands out is what the block
// started with, 96 a thread.
constexpr int kHopperThreads = kNetworkThreads + kGroupThreads;
constexpr int kStartRegisters = 65536 / kHopperThreads / 8 * 8;
constexpr int kWorkRegisters = 112, kFetchRegisters = 32;
static_assert(kWorkRegisters * kNetworkThreads + kFetchRegisters * kGroupThreads <= kStartRegisters * kHopperThreads);

// A layer's groups of 32 columns are divided among those that work, the last of which may have fewer, or none.
constexpr int kWidestHopper = 2 * kChunk;
constexpr int kMostGroups = kWidestHopper / kGroup / kWarpgroups;  // of a warpgroup
VGF_HD constexpr int groups_of_each(int groups) { return (groups + kWarpgroups - 1) / kWarpgroups; }
// The activations of a tile, and z of a layer on its way back: k-blocks of [rows][64 bytes].
constexpr int kRowsBlockBytes = kHopperRows * kBlockBytes;

constexpr int kCluster = 2;  // blocks; those that evaluate the same members share what each of them fetches
constexpr int kMostAtOnce = 2;  // members that blocks of a cluster evaluate side by side, on the same tiles
// k-blocks of weights in shared memory: activations of four bytes leave room for no more. And how many belong to a k-block of
// the activations: float32's weights are split.
VGF_HD constexpr int ring_of(Precision precision) { return precision == Precision::bf16 ? 4 : 2; }
VGF_HD constexpr int weight_blocks(Precision precision) { return precision == Precision::fp32 ? split_blocks(1) : 1; }
constexpr int kSlotBytes = kWidestHopper * kBlockBytes;
constexpr int kProductSlots = 2;  // products that are told of, with the vectors of their layers: bias, scale, shift, head
constexpr int kVectorBytes = kWidestHopper * static_cast<int>(sizeof(float)), kVectors = 4;
constexpr int kRowSums = 5;  // what the warpgroups tell each other of a row: two sums up, two down, one of the head

// Shared memory: the barriers, what is known of the tile, what is told of products, where the fetching thread is, the sums of
// rows, the ring's slots, the vectors, then the activations or, between networks, the bandwidths of the tile's states and the
// work of the pairwise part.
constexpr int kTileAt = 128, kProductsAt = 512, kFetchingAt = 768, kRowSumsAt = 1024;
constexpr int kRowSumFloats = kHopperRows * kWarpgroups;  // of one: [rows][warpgroups]
constexpr int kHopperHeadBytes = kRowSumsAt + kRowSums * kRowSumFloats * static_cast<int>(sizeof(float));
static_assert((2 * (ring_of(Precision::bf16) + kProductSlots) + 2) * 8 <= kTileAt);
VGF_HD constexpr std::int64_t hopper_shared_bytes(Precision precision, int k_blocks) {
  const std::int64_t activations = std::int64_t{k_blocks} * kRowsBlockBytes;
  const int pairs = bandwidth_bytes(kHopperRows) + pair_bytes(kHopperRows);
  const int weights = ring_of(precision) * kSlotBytes + kProductSlots * kVectors * kVectorBytes;
  return kHopperHeadBytes + weights + (activations > pairs ? activations : pairs);
}

// How wgmma is told of an operand: PTX ISA, "Matrix Descriptor Format". K-major, swizzled by 64 bytes, which is
// part_offset; eight rows are a pattern of 512 bytes, and patterns follow each other. The address is that of the first
// row's first byte, a multiple of 512, plus the bytes of k that are skipped.
constexpr int kPatternBytes = 8 * kBlockBytes;
// In two words, of which only the first says where.
constexpr std::uint32_t kSliceStep = 32 >> 4;  // to the next 32 bytes of k, which a product takes
constexpr std::uint32_t kDescriptorHigh = std::uint32_t{2} << 30 | kPatternBytes >> 4;  // swizzle by 64 bytes
VGF_HD constexpr std::uint32_t wgmma_descriptor_low(std::uint32_t shared_address) {
  constexpr std::uint32_t leading = 1;  // the leading dimension's offset, which is not used here
  return (shared_address & 0x3ffff) >> 4 | leading << 16;
}
VGF_HD constexpr std::uint64_t wgmma_descriptor(std::uint32_t shared_address) {
  return std::uint64_t{kDescriptorHigh} << 32 | wgmma_descriptor_low(shared_address);
}
static_assert(kHopperHeadBytes % kPatternBytes == 0 && kSlotBytes % kPatternBytes == 0);
static_assert(kRowsBlockBytes % kPatternBytes == 0);

}  // namespace vgf::cuda
