// What the latency kernel adds to layout.hpp: teams of blocks, each with a slice of every layer, and a block's shared
// memory. Shared by host and device.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

constexpr int kSlice = 64;       // columns of every hidden layer that are a block's own
constexpr int kMostTeam = 8;     // blocks that hold a member
constexpr int kMostPortable = 8, kMostBlocks = 16;  // of a cluster: everywhere; where a GPC has as many multiprocessors
constexpr int kSliceUnits = kSlice / kUnit;
constexpr int kSliceBytes = kSlice * kBlockBytes;  // of a k-block
constexpr int kQuarters = 4;                       // of k, which pairs of warps share among them
static_assert(kSlice == 2 * kGroup && kChunk % kSlice == 0 && kQuarters * 2 == kWarps);
static_assert(kSliceUnits == kMostTeam, "the threads of a row send what they have found to a block each");

constexpr int kSmallLatencyTile = 16, kLargestLatencyTile = 32;
static_assert(kLargestLatencyTile * kSliceUnits == kThreads, "a thread has one unit of one row");

// Two sums over the columns of a block, of a row: of z and its square on the way up, of g and g y on the way down.
struct alignas(8) RowSums {
  std::uint32_t word[2];
};

constexpr int kKeptBytes = 32;  // of a thread and layer, for its way back: see tile/cluster_network.cuh

// Shared memory: the area where activations, partial sums and the work of the pairwise part take turns; RowSums of every
// block of the team; two mbarriers; the weights.
constexpr int kInboxBytes = 128;
// What comes in from a whole team: of every block two sums, or 64 numbers in bfloat16, of every row.
VGF_HD constexpr int sums_received(int rows, int team) { return team * rows * static_cast<int>(sizeof(RowSums)); }
VGF_HD constexpr int numbers_received(int rows, int team) { return team * rows * kSlice * 2; }
VGF_HD constexpr int area_bytes(int rows, int team) {
  const int activations = numbers_received(rows, team), quarters = kQuarters * rows * kSlice * 4;
  const int pairs = bandwidth_bytes(rows) + pair_bytes(rows);
  const int most = activations > quarters ? activations : quarters;
  return most > pairs ? most : pairs;
}
VGF_HD constexpr int row_sums_bytes(int rows) { return rows * kMostTeam * static_cast<int>(sizeof(RowSums)); }
VGF_HD constexpr int slice_pitch(int widest) { return k_blocks(widest, Precision::bf16) * kSliceBytes; }  // of a layer
VGF_HD constexpr std::int64_t latency_shared_bytes(int rows, int team, std::int64_t resident) {
  return area_bytes(rows, team) + row_sums_bytes(rows) + kInboxBytes + resident;
}
static_assert(area_bytes(16, 8) % 128 == 0 && area_bytes(32, 8) % 128 == 0 && row_sums_bytes(16) % 128 == 0);
static_assert(latency_shared_bytes(16, 8, 3 * slice_pitch(512)) == 209 * 1024 + kInboxBytes, "4 x 512, 16 rows");
static_assert(latency_shared_bytes(32, 8, 3 * slice_pitch(512)) == 226 * 1024 + kInboxBytes, "4 x 512, 32 rows: of 227 KB");

}  // namespace vgf::cuda
