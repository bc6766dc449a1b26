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

  static __device__ int thread_bytes() { return ptx::thread() * kPartBytes; }
  // The k-blocks of a product in their order, in which they lie one behind the other, whatever chunk they are of.
  struct Walk {
    const unsigned char* w;  // this thread's first part
    int block = 0, left;  // number in its chunk; columns from this chunk on
    unsigned slot = 0;    // of the stages

    __device__ explicit Walk(const Product& p) : w(p.w + thread_bytes()), left(p.blocks > 0 ? p.columns : 0) {}
    __device__ int bytes() const { return min_int(left, kChunk) * kBlockBytes; }
    __device__ void step(int blocks) {
      w += bytes();
      slot = (slot + 1) % kStages;
      if (++block < blocks) return;
      block = 0;
      left -= kChunk;
    }
  };
  // Starts this thread's copies of `Most` bytes or fewer, its first to `to`.
  template <int Most>
  static __device__ void copy(unsigned char* to, const unsigned char* from, int bytes) {
    const int left = bytes - thread_bytes();
#pragma unroll
    for (int at = 0; at < Most; at += kThreads * kPartBytes)
      if (at < left) ptx::copy16(to + at, from + at);
  }
  // Starts the copies of a k-block, if there is one left. stages: this thread's first part
  static __device__ void load_stage(const Product& p, unsigned char* stages, int stage_bytes, bool staged, const Walk& at) {
    if (at.left > 0) {
      unsigned char* stage = stages + at.slot * stage_bytes;
      copy<kChunk * kBlockBytes>(stage, at.w, at.bytes());
      if (staged)
        copy<M * kBlockBytes>(stage + p.stage_a, p.a + std::int64_t{at.block} * M * kBlockBytes + thread_bytes(),
                              M * kBlockBytes);
    }
    ptx::commit_copies();
  }

  // Starts the first copies; `run` of the same product must follow. No thread may still be reading the stages.
  static __device__ void start(const Product& p) {
    Walk ahead(p);
    for (int i = 0; i < kStages - 1; i++, ahead.step(p.blocks))
      load_stage(p, p.stages + thread_bytes(), p.stage_bytes, p.staged, ahead);
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
      // The product of the small parts is below float32's last bit. Sums of the tensor cores are truncated, so only 8 terms are
      // left to them and the rest is added in float32.
      std::uint32_t large[4], small[4], large_b[2] = {large_of(b0), large_of(b1)};
      const std::uint32_t small_b[2] = {small_of(b0, large_b[0]), small_of(b1, large_b[1])};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        large[i] = large_of(a[i]);
        small[i] = small_of(a[i], large[i]);
      }
      float term[4] = {};
      ptx::multiply_tf32(term, small, large_b[0], large_b[1]);
      ptx::multiply_tf32(term, large, small_b[0], small_b[1]);
      ptx::multiply_tf32(term, large, large_b[0], large_b[1]);
#pragma unroll
      for (int i = 0; i < 4; i++) sum[i] += term[i];
    }
  }

  static __device__ void store(const Product& p, int chunk, const Sums& sum) {
    const int lane = ptx::thread() % kLanes, warp = ptx::thread() / kLanes;
    const int warp_m = warp / kWarpsN, warp_n = warp % kWarpsN;
    // in registers: every store to C could be one to p, for all the compiler knows
    const int rows = p.rows, columns = p.columns;
    const std::int64_t pitch = p.pitch;
    const bool as_float = p.as_float;
    void* const c = p.c;
#pragma unroll
    for (int m = 0; m < kRowTiles; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = warp_m * (M / kWarpsM) + 16 * m + c_row(lane, half);
        if (row >= rows) continue;
        const float* init = p.init;
        if (p.states_of > 0) init += (row + p.row_offset) / p.states_of * p.init_pitch;
#pragma unroll
        for (int group = 0; group < kGroups; group++) {
          const int column = chunk * kChunk + (warp_n * kGroups + group) * kGroup + c_unit(lane) * kUnit;
          if (column >= columns) continue;
          float x[kUnit] = {};
          if (init) load_unit(init + column, x);
#pragma unroll
          for (int i = 0; i < kUnit; i++) x[i] += sum[m][group * 4 + i / 2][2 * half + i % 2];
          const std::int64_t at = row * pitch + column;
          if (as_float)
            store_unit(static_cast<float*>(c) + at, x);
          else
            store_unit(static_cast<typename Numbers<P>::Stored*>(c) + at, x);
        }
      }
  }

  // The product, whose copies have been started. Ends with all threads past their reads of A and the stages, and C
  // visible to all.
  static __device__ __noinline__ void run(const Product& p) {
    const int warp = ptx::thread() / kLanes, warp_m = warp / kWarpsN, warp_n = warp % kWarpsN;
    const int a_offset = warp_m * (M / kWarpsM) * kBlockBytes, w_offset = warp_n * kGroups * kGroup * kBlockBytes;
    // what the loop needs, in registers: p is in the caller's memory
    unsigned char* const stages = ptx::shared_memory() + (p.stages - ptx::shared_memory());
    const bool staged = p.staged;
    const unsigned char* const a = staged ? stages + p.stage_a : ptx::shared_memory() + (p.a - ptx::shared_memory());
    const int blocks = p.blocks, stage_bytes = p.stage_bytes, chunks = chunks_of(p.columns);
    Walk ahead(p);
    for (int i = 0; i < kStages - 1; i++) ahead.step(blocks);
    Sums sum;
    for (int chunk = 0; chunk < chunks; chunk++) {
#pragma unroll
      for (int m = 0; m < kRowTiles; m++)
#pragma unroll
        for (int n = 0; n < kGroups * 4; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) sum[m][n][i] = 0;
      const int live = chunk_columns(p.columns, chunk) / kGroup - warp_n * kGroups;
      for (int block = 0; block < blocks; block++) {
        ptx::wait_copies<kStages - 2>();
        ptx::sync_block();  // this k-block is here for all, and all have left the one before
        load_stage(p, stages + thread_bytes(), stage_bytes, staged, ahead);
        ahead.step(blocks);
        const int stage = static_cast<int>(ahead.slot) * stage_bytes;  // where what comes next will take its place
        if (live > 0)
          accumulate(a + (staged ? stage : block * M * kBlockBytes) + a_offset, stages + stage + w_offset, live, sum);
      }
      if (live > 0) store(p, chunk, sum);
    }
    ptx::wait_copies<0>();
    ptx::sync_block();
  }
};

}  // namespace vgf::cuda
