// The product of a tile of activations and a packed operand, C[M, columns] = A[M, k] W: where the time goes.
//
// A     activations, k-blocks of [M][64 bytes]: in shared memory, or in scratch, from where they are staged
// W     weights, k-blocks of [columns of the chunk][64 bytes] in global memory, staged in shared memory
// C     row-major, float or the precision's own format, in global memory
//
// 8 warps share a chunk of 256 columns: 32 (64 at M = 128) columns and all (half the) rows a warp, the sums in registers.
// Cost model, chunk and k-block: 2 M 256 (64 / bytes) FLOP of mma against 16 KB of weights from L2, so 64 M / 4 FLOP a
// byte in bf16: with L2 at about 5.5 TB/s and mma.sync at about 600 TFLOP/s (H200, both from the literature, not
// measured here) M = 128 is where the two floors meet. Shared memory reads a k-block: 8 (M / kWarpsM + 32 kGroups) 64
// bytes.
#pragma once

#include "../numbers.cuh"

namespace vgf::cuda {

struct Product {
  const unsigned char* a;
  bool staged;            // A lies in global memory
  unsigned char* stages;  // kStages x (W, then A where it is staged)
  int stage_bytes, stage_a;
  const unsigned char* w;
  int blocks, columns;
  // C begins as init[column] or, with `states_of` > 0, as init[(row + row_offset) / states_of * init_pitch + column]
  const float* init;
  std::int64_t init_pitch;
  int states_of, row_offset;
  void* c;
  std::int64_t pitch;  // of C, in elements
  bool as_float;
  int rows;  // rows of C to store
};

template <Precision P, int M>
struct Gemm {
  static constexpr int kWarpsM = M >= 128 ? 2 : 1, kWarpsN = kWarps / kWarpsM;
  static constexpr int kRowTiles = M / kWarpsM / 16;
  static constexpr int kGroups = kChunk / kWarpsN / kGroup;  // of a warp
  static constexpr int kSlices = kBlockBytes / 32;           // of k, one mma deep
  static_assert(M % (16 * kWarpsM) == 0 && kWarpsN * kGroups * kGroup == kChunk);
  using Sums = float[kRowTiles][kGroups * 4][4];

  // Starts the copies of k-block `it`, counted over all chunks.
  static __device__ void load_stage(const Product& p, int it) {
    unsigned char* stage = p.stages + it % kStages * p.stage_bytes;
    const int chunk = it / p.blocks, block = it % p.blocks;
    const unsigned char* w = p.w + tile_offset(p.blocks, p.columns, chunk, block);
    const int bytes = chunk_columns(p.columns, chunk) * kBlockBytes;
    for (int i = ptx::thread() * kPartBytes; i < bytes; i += kThreads * kPartBytes) ptx::copy16(stage + i, w + i);
    if (!p.staged) return;
    const unsigned char* a = p.a + std::int64_t{block} * M * kBlockBytes;
    for (int i = ptx::thread() * kPartBytes; i < M * kBlockBytes; i += kThreads * kPartBytes)
      ptx::copy16(stage + p.stage_a + i, a + i);
  }

  // Starts the first copies; `multiply` of the same product must follow. No thread may still be reading the stages.
  static __device__ void start(const Product& p) {
    const int total = chunks_of(p.columns) * p.blocks;
    for (int it = 0; it < kStages - 1; it++) {
      if (it < total) load_stage(p, it);
      ptx::commit_copies();
    }
  }

  // One k-block. a, w: its tiles in shared memory; live: how many of this warp's groups the chunk has.
  static __device__ void accumulate(const unsigned char* a, const unsigned char* w, int live, Sums& sum) {
    const int lane = ptx::thread() % kLanes;
    // three products for one leave enough to overlap in a slice, and no registers for two
    [[maybe_unused]] constexpr int at_once = P == Precision::fp32 ? 1 : kSlices;
#pragma unroll at_once
    for (int slice = 0; slice < kSlices; slice++) {
      std::uint32_t rows[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; m++)
        ptx::load_matrices(rows[m], a + part_offset(16 * m + a_row(lane), 2 * slice + a_part(lane)));
#pragma unroll
      for (int group = 0; group < kGroups; group++) {
        if (group >= live) break;
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
          std::uint32_t b[4];
          ptx::load_matrices(b, w + part_offset(group * kGroup + 16 * pair + b_row(lane), 2 * slice + b_part(lane)));
#pragma unroll
          for (int m = 0; m < kRowTiles; m++) {
            multiply(sum[m][group * 4 + 2 * pair], rows[m], b[0], b[1]);
            multiply(sum[m][group * 4 + 2 * pair + 1], rows[m], b[2], b[3]);
          }
        }
      }
    }
  }

  static __device__ void multiply(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    if constexpr (P == Precision::bf16) {
      ptx::multiply_bf16(sum, a, b0, b1);
    } else if constexpr (P == Precision::tf32) {
      ptx::multiply_tf32(sum, a, b0, b1);
    } else {
      // x = big + small, each in tf32; the product of the small parts is below float32's last bit. Sums of the tensor
      // cores are truncated, so only 8 terms are left to them and the rest is added in float32.
      std::uint32_t big[4], small[4], big_b[2] = {ptx::to_tf32(ptx::as_float(b0)), ptx::to_tf32(ptx::as_float(b1))};
      const std::uint32_t small_b[2] = {rest(b0, big_b[0]), rest(b1, big_b[1])};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        big[i] = ptx::to_tf32(ptx::as_float(a[i]));
        small[i] = rest(a[i], big[i]);
      }
      float term[4] = {};
      ptx::multiply_tf32(term, small, big_b[0], big_b[1]);
      ptx::multiply_tf32(term, big, small_b[0], small_b[1]);
      ptx::multiply_tf32(term, big, big_b[0], big_b[1]);
#pragma unroll
      for (int i = 0; i < 4; i++) sum[i] += term[i];
    }
  }
  static __device__ std::uint32_t rest(std::uint32_t x, std::uint32_t big) {
    return ptx::to_tf32(ptx::as_float(x) - ptx::as_float(big));
  }

  static __device__ void store(const Product& p, int chunk, const Sums& sum) {
    const int lane = ptx::thread() % kLanes, warp = ptx::thread() / kLanes;
    const int warp_m = warp / kWarpsN, warp_n = warp % kWarpsN;
#pragma unroll
    for (int m = 0; m < kRowTiles; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = warp_m * (M / kWarpsM) + 16 * m + c_row(lane, half);
        if (row >= p.rows) continue;
        const float* init = p.init;
        if (p.states_of > 0) init += (row + p.row_offset) / p.states_of * p.init_pitch;
#pragma unroll
        for (int group = 0; group < kGroups; group++) {
          const int column = chunk * kChunk + (warp_n * kGroups + group) * kGroup + c_unit(lane) * kUnit;
          if (column >= p.columns) continue;
          float x[kUnit] = {};
          if (p.init) load_unit(init + column, x);
#pragma unroll
          for (int i = 0; i < kUnit; i++) x[i] += sum[m][group * 4 + i / 2][2 * half + i % 2];
          const std::int64_t at = row * p.pitch + column;
          if (p.as_float)
            store_unit(static_cast<float*>(p.c) + at, x);
          else
            store_unit(static_cast<typename Numbers<P>::Stored*>(p.c) + at, x);
        }
      }
  }

  // The product, whose copies have been started. Ends with all threads past their reads of A and the stages, and C
  // visible to all.
  static __device__ __noinline__ void run(const Product& p) {
    const int warp = ptx::thread() / kLanes, warp_m = warp / kWarpsN, warp_n = warp % kWarpsN;
    const int a_offset = warp_m * (M / kWarpsM) * kBlockBytes, w_offset = warp_n * kGroups * kGroup * kBlockBytes;
    const int chunks = chunks_of(p.columns), total = chunks * p.blocks;
    Sums sum;
    for (int chunk = 0, it = 0; chunk < chunks; chunk++) {
#pragma unroll
      for (int m = 0; m < kRowTiles; m++)
#pragma unroll
        for (int n = 0; n < kGroups * 4; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) sum[m][n][i] = 0;
      const int live = chunk_columns(p.columns, chunk) / kGroup - warp_n * kGroups;
      for (int block = 0; block < p.blocks; block++, it++) {
        ptx::wait_copies<kStages - 2>();
        ptx::sync_block();  // k-block `it` is here for all, and all have left k-block `it - 1`
        if (it + kStages - 1 < total) load_stage(p, it + kStages - 1);
        ptx::commit_copies();
        if (live <= 0) continue;
        const unsigned char* stage = p.stages + it % kStages * p.stage_bytes;
        const unsigned char* a = p.staged ? stage + p.stage_a : p.a + std::int64_t{block} * M * kBlockBytes;
        accumulate(a + a_offset, stage + w_offset, live, sum);
      }
      if (live > 0) store(p, chunk, sum);
    }
    ptx::wait_copies<0>();
    ptx::sync_block();
  }
};

}  // namespace vgf::cuda
