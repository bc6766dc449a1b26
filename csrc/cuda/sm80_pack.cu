// Packing: weights in the caller's memory to the operands and vectors of a packed network, and its table of layers.
//
// Every thread makes 16-byte parts of an operand: reads as the caller's strides have it, writes straight on.
// Cost model: 4 bytes read and 2, 4 or, in float32, 12 written a weight, twice with the gradient; bound by memory, some 10 us
// for two critics of 4 x 512, 20 in float32.
#include "numbers.cuh"
#include "runtime.hpp"

namespace vgf::cuda {

// 16 bytes of a split operand: the large parts of four numbers, or what is left of them.
__device__ inline Part split_part(const float (&x)[4], bool left) {
  Part part;
  for (int i = 0; i < 4; i++) {
    const std::uint32_t large = ptx::to_tf32(x[i]);
    part.word[i] = left ? small_of(ptx::as_bits(x[i]), large) : large;
  }
  return part;
}

template <Precision P>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ PackJobs jobs) {
  using Format = Numbers<P>;
  const PackJob& job = jobs.job[ptx::block_y()];
  if (ptx::block_x() == 0 && ptx::block_y() == 0 && ptx::thread() < jobs.layers)
    reinterpret_cast<PackedLayer*>(jobs.packed)[jobs.first_layer + ptx::thread()] = jobs.layer[ptx::thread()];
  unsigned char* to = jobs.packed + job.to;
  const std::int64_t first = ptx::block_x() * kThreads + ptx::thread(), stride = ptx::blocks_x() * kThreads;
  if (job.vector) {
    for (std::int64_t n = first; n < padded(job.N); n += stride) {
      const float given = n >= job.N ? 0 : job.from ? job.from[n * job.stride_n] : job.fill;
      reinterpret_cast<float*>(to)[n] = given;
    }
    return;
  }
  const int columns = padded(job.N), plain_blocks = k_blocks(job.depth, P);
  const std::int64_t plain = operand_bytes(plain_blocks, columns) / kPartBytes;
  const std::int64_t parts = operand_bytes(packed_blocks(job.depth, P), columns) / kPartBytes;
  for (std::int64_t i = first; i < parts; i += stride) {
    const bool split = i >= plain;
    const int blocks = split ? split_blocks(plain_blocks) : plain_blocks;
    const std::int64_t own = split ? i - plain : i, whole = std::int64_t{kChunk} * blocks * kParts;
    const int chunk = static_cast<int>(own / whole), within = static_cast<int>(own % whole);
    const int wide = chunk_columns(columns, chunk), block = within / (wide * kParts);
    const int row = within / kParts % wide, part = within % kParts;
    const int n = chunk * kChunk + row / kGroup * kGroup + column_of(row % kGroup);
    const int first_k = split ? block * kSplitElements + part % 2 * Format::kPerPart
                              : block * Format::kPerBlock + part * Format::kPerPart;
    float x[Format::kPerPart];
    for (int j = 0; j < Format::kPerPart; j++) {
      const int k = first_k + j;
      x[j] = k < job.K && n < job.N ? job.from[k * job.stride_k + n * job.stride_n] : 0;
    }
    Part& packed = *reinterpret_cast<Part*>(to + (split ? plain * kPartBytes : 0) + tile_offset(blocks, columns, chunk, block) +
                                            part_offset(row, part));
    if constexpr (P == Precision::fp32)
      packed = split ? split_part(x, part >= 2) : Format::part(x);
    else
      packed = Format::part(x);
  }
}

Kernel<PackJobs> pack_kernel_in(Precision precision) {
  switch (precision) {
    case Precision::fp32: return pack_kernel<Precision::fp32>;
    case Precision::tf32: return pack_kernel<Precision::tf32>;
    default: return pack_kernel<Precision::bf16>;
  }
}

}  // namespace vgf::cuda
