// Where everything lies: the constants, index maps and packed networks that host and device share.
//
// An operand of a product is a sequence of k-blocks, each [rows][64 bytes of k]: rows of activations, or columns of
// weights. 64 bytes are four 16-byte parts, permuted within a row so that ldmatrix meets no bank twice; a packed operand
// is byte for byte what lies in shared memory, so copying it is a straight line.
#pragma once

#include <cstdint>

#include "../math/scalar.hpp"
#include "vgf/types.hpp"

namespace vgf::cuda {

constexpr int kThreads = 256;
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;
constexpr int kBlockBytes = 64;  // bytes of k in a k-block
constexpr int kPartBytes = 16;   // one cp.async, one ldmatrix row
constexpr int kParts = kBlockBytes / kPartBytes;
constexpr int kGroup = 32;   // columns of a warp's smallest tile; widths are padded to it
constexpr int kChunk = 256;  // columns that one walk over k computes
constexpr int kUnit = 8;     // columns a thread holds side by side
constexpr int kStages = 4;   // k-blocks of weights in shared memory
static_assert(kChunk == kWarps * kGroup && kGroup == 4 * kUnit);

template <class Int>
VGF_HD constexpr Int round_up(Int n, int to) {
  return (n + to - 1) / to * to;
}
VGF_HD constexpr int min_int(int a, int b) { return a < b ? a : b; }
VGF_HD constexpr int padded(int columns) { return round_up(columns, kGroup); }

VGF_HD constexpr int element_bytes(Precision precision) { return precision == Precision::bf16 ? 2 : 4; }
VGF_HD constexpr int block_elements(Precision precision) { return kBlockBytes / element_bytes(precision); }
VGF_HD constexpr int k_blocks(int k, Precision precision) {
  return (k + block_elements(precision) - 1) / block_elements(precision);
}

// Byte of a part within a k-block. Eight consecutive rows of one part cover all 32 banks, as do the four parts of rows
// 2 i and 2 i + 1.
VGF_HD constexpr int part_offset(int row, int part) {
  return row * kBlockBytes + (part ^ (row >> 1 & (kParts - 1))) * kPartBytes;
}

// Which column of its group the n-th column of a packed group is. The accumulator of an mma gives lane l the columns
// 2 (l % 4) and 2 (l % 4) + 1 of every 8; in this order the four of them are 8 consecutive columns of the matrix.
VGF_HD constexpr int column_of(int n) { return n / 2 % 4 * kUnit + n / 8 * 2 + n % 2; }
VGF_HD constexpr int place_of(int column) { return column % kUnit / 2 * 8 + column / kUnit * 2 + column % 2; }

// What a lane addresses in ldmatrix, and holds of the accumulator; see ptx/matrix.cuh.
VGF_HD constexpr int a_row(int lane) { return lane % 16; }
VGF_HD constexpr int a_part(int lane) { return lane / 16; }
VGF_HD constexpr int b_row(int lane) { return lane / 16 * 8 + lane % 8; }
VGF_HD constexpr int b_part(int lane) { return lane / 8 % 2; }
VGF_HD constexpr int c_row(int lane, int half) { return lane / 4 + 8 * half; }
VGF_HD constexpr int c_unit(int lane) { return lane % 4; }

// ---- the hidden passes: a warp takes two rows at a time, so that eight lanes store to all banks

constexpr int kRowLanes = 16;
VGF_HD constexpr int pass_row(int lane) { return lane / 4 % 2; }
VGF_HD constexpr int pass_unit(int lane) { return lane / 8 * 4 + lane % 4; }  // and every kRowLanes-th after it

// ---- a packed operand

VGF_HD constexpr std::int64_t operand_bytes(int blocks, int columns) {
  return std::int64_t{blocks} * columns * kBlockBytes;
}
// Columns of chunk c of an operand.
VGF_HD constexpr int chunk_columns(int columns, int chunk) {
  const int left = columns - chunk * kChunk;
  return left < kChunk ? left : kChunk;
}
VGF_HD constexpr int chunks_of(int columns) { return (columns + kChunk - 1) / kChunk; }
// First byte of k-block b of chunk c. The k-blocks of all chunks follow each other.
VGF_HD constexpr std::int64_t tile_offset(int blocks, int columns, int chunk, int block) {
  return (std::int64_t{chunk} * kChunk * blocks + std::int64_t{block} * chunk_columns(columns, chunk)) * kBlockBytes;
}

// A float32 operand is packed twice: as it is, and behind that, for Hopper's tile kernel, split: of 8 numbers of k the large
// parts and then what is left of them, each tf32, so twice as many k-blocks of as many columns.
constexpr int kSplitElements = block_elements(Precision::fp32) / 2;
VGF_HD constexpr int split_blocks(int blocks) { return 2 * blocks; }
VGF_HD constexpr int packed_blocks(int k, Precision precision) {
  const int blocks = k_blocks(k, precision);
  return precision == Precision::fp32 ? blocks + split_blocks(blocks) : blocks;
}

// ---- a packed network: the table of its hidden layers, which all members share, then the members

// 32 bytes, so that two loads of 16 bring it.
struct alignas(16) PackedLayer {
  std::int64_t forward, backward;  // bytes from the member's start; backward: where the gradient is packed
  std::int64_t vectors;            // bias, then norm scale, then norm bias, padded(width) floats each
  int width;
  float inverse_width;
};
static_assert(sizeof(PackedLayer) == 32);

// A network as kernels see it: by value, in their parameters, so in constant memory. So are its first layers, for which a
// kernel need not wait; all are in the packed memory, too, so any depth will do.
struct Net {
  const unsigned char* packed = nullptr;
  std::int64_t members = 0;  // bytes before the first member
  std::int64_t member_bytes = 0, bytes = 0;
  std::int64_t observe = 0;  // the first layer's observation rows; layer(0).forward holds its other rows
  std::int64_t last = 0;     // one output: padded(k) floats; else an operand
  std::int64_t last_bias = 0;
  int ensemble = 0, hidden = 0, observations = 0, inputs = 0, outputs = 0;  // inputs: besides observations
  Activation activation = Activation::relu;
  Norm norm = Norm::none;
  float norm_eps = 0;
  int first_width = 0, widest = 0;  // of the hidden layers, padded
  int narrowest = 0;                // and not padded
  bool critic = false, gradient = false;
  static constexpr int kFirstLayers = 8;
  PackedLayer first_layers[kFirstLayers] = {};

  VGF_HD bool present() const { return ensemble > 0; }
  VGF_HD const unsigned char* member(int e) const { return packed + members + e * member_bytes; }
  // Where the memory of `packed` can be read: on the device.
  VGF_HD PackedLayer layer(int l) const {
    if (l < kFirstLayers) return first_layers[l];
    return reinterpret_cast<const PackedLayer*>(packed)[l];
  }
};

}  // namespace vgf::cuda
