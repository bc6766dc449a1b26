// A block's slice of a network, 64 columns of every hidden layer, and how it is multiplied with from either side.
//
// Resident in shared memory: of every layer behind the first, k-blocks of [64 columns][64 bytes], as they are packed. The
// product up needs whole columns: z[rows, 64] = x[rows, k] W. The product down needs whole rows, of which the block has 64
// numbers each: dz[rows, 64] W^T is a part of every dy of the layer below, and ldmatrix transposes on the way: so one copy of
// the weights serves both. Weights are packed in the order of column_of, so dz is kept in that order too.
//
// Cost, k = 512 and 16 rows (32): shared memory gives the weights once, 64 KB, the activations twice, 32 KB (64), and takes
// and gives four quarters of z, 32 KB (64); at 128 bytes a clock 1,024 clocks (1,536). Down: 64 + 16 (32) KB, 640 (768).
#pragma once

#include "../sm90_latency_layout.hpp"
#include "gemm.cuh"
#include "inbox.cuh"

namespace vgf::cuda {

class Slice {
 public:
  // shared: slice_pitch(widest) for every hidden layer but the first
  __device__ explicit Slice(unsigned char* shared) : weights(shared) {}

  // Member e of a net in this block, the `rank`-th of its team: starts the copies, unless it is there. No thread may be in a
  // product. arrive() must follow.
  __device__ void hold(const Net& net, int e, int rank) {
    const unsigned char* member = net.member(e);
    if (held == member) return;
    held = member;
    fetch(net, member, rank, weights);
  }
  // Until it is there for all threads of the block.
  __device__ void arrive() const {
    ptx::wait_copies<0>();
    ptx::sync_block();
  }
  __device__ const unsigned char* layer(const Net& net, int l) const {
    return weights + (l - 1) * slice_pitch(net.widest);
  }

 private:
  static __device__ __noinline__ void fetch(const Net& net, const unsigned char* member, int rank,
                                            unsigned char* weights) {
    const int first = rank * kSlice, chunk = first / kChunk;
    for (int l = 1; l < net.hidden; l++) {
      const PackedLayer layer = net.layer(l);
      const int columns = padded(layer.width), blocks = k_blocks(padded(net.layer(l - 1).width), Precision::bf16);
      const int bytes = (columns - first) * kBlockBytes, step = chunk_columns(columns, chunk) * kBlockBytes;
      const unsigned char* from =
          member + layer.forward + tile_offset(blocks, columns, chunk, 0) + first % kChunk * kBlockBytes;
      for (int i = ptx::thread() * kPartBytes; i < blocks * kSliceBytes; i += kThreads * kPartBytes) {
        unsigned char* to = weights + (l - 1) * slice_pitch(net.widest) + i;
        const int block = i / kSliceBytes, at = i % kSliceBytes;
        if (at < bytes)
          ptx::copy16(to, from + block * step + at);
        else
          *reinterpret_cast<Part*>(to) = {};  // columns that the layer does not have
      }
    }
    ptx::commit_copies();
  }

  unsigned char* weights;
  const unsigned char* held = nullptr;
};

// Rows: of a tile.
template <int Rows>
struct SliceProducts {
  using Product = Gemm<Precision::bf16, Rows>;
  static_assert(Product::kGroups == 1 && Product::kWarpsM == 1);
  static constexpr int kBlocksOfAWarp = 2 * kMostTeam / kWarps;
  static constexpr int kRowBytes = kSlice * 2;  // of a slice in bfloat16
  using Sums = typename Product::Sums;

  // ---- up: `area` holds x, k-blocks of [Rows][64 bytes], then the quarters

  static __device__ void zero(Sums& sum) {
#pragma unroll
    for (int m = 0; m < Rows / 16; m++)
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[m][n][i] = 0;
  }
  // Half of a unit in a quarter: eight threads at a time meet no bank twice, be they of one row or of two.
  static __device__ Four* quarter_at(unsigned char* area, int quarter, int row, int unit, int half) {
    return ptx::in_shared(reinterpret_cast<Four*>(area + (quarter * Rows + row) * kSlice * 4 + half * 128 + (unit ^ row % 2 * 4) * 16));
  }
  static __device__ void up(unsigned char* area, const unsigned char* w, int blocks) {
    const int lane = ptx::thread() % kLanes, warp = ptx::thread() / kLanes, group = warp % 2, quarter = warp / 2;
    Sums sum;
    zero(sum);
    for (int block = quarter; block < blocks; block += kQuarters)
      Product::accumulate(area + block * Rows * kBlockBytes, w + block * kSliceBytes + group * kGroup * kBlockBytes, 1, sum);
    ptx::sync_block();  // x is read
#pragma unroll
    for (int m = 0; m < Rows / 16; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int half = i / 2, pair = i % 2, row = 16 * m + c_row(lane, half);
        *quarter_at(area, quarter, row, group * 4 + c_unit(lane), pair) = {
            {sum[m][2 * pair][2 * half], sum[m][2 * pair][2 * half + 1], sum[m][2 * pair + 1][2 * half],
             sum[m][2 * pair + 1][2 * half + 1]}};
      }
    ptx::sync_block();
  }
  // Adds the quarters of a unit.
  static __device__ void add_quarters(unsigned char* area, int row, int unit, float (&x)[kUnit]) {
#pragma unroll
    for (int quarter = 0; quarter < kQuarters; quarter++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const Four four = *quarter_at(area, quarter, row, unit, half);
#pragma unroll
        for (int i = 0; i < 4; i++) x[4 * half + i] += four.x[i];
      }
  }

  // ---- down: `area` has a place of [Rows][128 bytes] for every block of the team, for its part of this block's dy

  template <class Byte>
  static __device__ Byte* part_of(Byte* area, int rank) {
    return area + rank * Rows * kRowBytes;
  }

  // dz of a unit in the order of the weights' columns, two k-blocks of [Rows][64 bytes].
  static __device__ void put(unsigned char* dz, int row, int unit, const Part& part) {
#pragma unroll
    for (int j = 0; j < 4; j++)
      *reinterpret_cast<std::uint32_t*>(dz + unit / 4 * Rows * kBlockBytes + part_offset(row, j) + unit % 4 * 4) =
          part.word[j];
  }
  // Rows of dz times a k-block of weights: 32 columns of the layer below.
  static __device__ void multiply(const unsigned char* dz, const unsigned char* w, Sums& sum) {
    const int lane = ptx::thread() % kLanes;
#pragma unroll
    for (int step = 0; step < kSlice / 16; step++) {
      std::uint32_t rows[Rows / 16][4];
#pragma unroll
      for (int m = 0; m < Rows / 16; m++)
        ptx::load_matrices(rows[m], dz + step / 2 * Rows * kBlockBytes +
                                        part_offset(16 * m + a_row(lane), step % 2 * 2 + a_part(lane)));
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
        std::uint32_t b[4];
        ptx::load_matrices_transposed(b, w + part_offset(16 * step + a_row(lane), 2 * pair + a_part(lane)));
#pragma unroll
        for (int m = 0; m < Rows / 16; m++) {
          ptx::multiply_bf16(sum[m][2 * pair], rows[m], b[0], b[1]);
          ptx::multiply_bf16(sum[m][2 * pair + 1], rows[m], b[2], b[3]);
        }
      }
    }
  }
  // Where 16 bytes of a row's part are; rows are turned so that neither those who write nor those who read meet often.
  static __device__ int turned(int row, int which) { return row * kRowBytes + (which ^ row % 8) * kPartBytes; }

  // This block's part of the dy of all blocks, into their areas: zero where the layer below has no columns for them. dz lies
  // at the place of this block's own part.
  static __device__ void down(unsigned char* area, const unsigned char* w, int blocks, int team, int rank,
                                           unsigned first_of_team, const Inbox& numbers) {
    const int lane = ptx::thread() % kLanes, warp = ptx::thread() / kLanes;
    unsigned char* mine = part_of(area, rank);
    Sums sum[kBlocksOfAWarp];
#pragma unroll
    for (int i = 0; i < kBlocksOfAWarp; i++) {
      zero(sum[i]);
      if (warp + i * kWarps < blocks) multiply(mine, w + (warp + i * kWarps) * kSliceBytes, sum[i]);
    }
    ptx::sync_block();  // dz is read
#pragma unroll
    for (int i = 0; i < kBlocksOfAWarp; i++) {
      const int block = warp + i * kWarps;
      if (block >= 2 * team) continue;
#pragma unroll
      for (int m = 0; m < Rows / 16; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          Part part;
#pragma unroll
          for (int j = 0; j < 4; j++) part.word[j] = ptx::to_bf16_pair(sum[i][m][j][2 * half], sum[i][m][j][2 * half + 1]);
          unsigned char* there = mine + turned(16 * m + c_row(lane, half), block % 2 * 4 + lane % 4);
          numbers.send(reinterpret_cast<Part*>(there), part, first_of_team + block / 2);
        }
    }
  }
  // The sum of all blocks' parts of a unit.
  static __device__ void add_parts(const unsigned char* area, int team, int row, int unit, float (&x)[kUnit]) {
    const unsigned char* first[4];  // words of the first block's
#pragma unroll
    for (int j = 0; j < 4; j++) first[j] = ptx::in_shared(area + turned(row, unit / 4 * 4 + j) + unit % 4 * 4);
#pragma unroll
    for (int rank = 0; rank < kMostTeam; rank++) {
      if (rank == team) break;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const std::uint32_t word = *reinterpret_cast<const std::uint32_t*>(part_of(first[j], rank));
        x[2 * j] += low_of(word);
        x[2 * j + 1] += high_of(word);
      }
    }
  }
};

}  // namespace vgf::cuda
