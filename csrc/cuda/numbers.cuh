// The storage formats of a precision: what a 16-byte part of an operand and a unit of 8 numbers are made of.
#pragma once

#include <ptx/matrix.cuh>
#include <ptx/thread.cuh>

#include "layout.hpp"
#include "quick.cuh"

namespace vgf::cuda {

struct alignas(16) Part {
  std::uint32_t word[4];
};
struct alignas(16) Four {
  float x[4];
};
struct alignas(8) Two {
  float x[2];
};

template <Precision P>
struct Numbers {
  static constexpr int kPerPart = kPartBytes / element_bytes(P);
  static constexpr int kPerBlock = block_elements(P);
  static constexpr bool kHalf = P == Precision::bf16;
  using Stored = typename std::conditional<kHalf, std::uint16_t, float>::type;
  using Real = typename std::conditional<P == Precision::fp32, float, Quick>::type;  // what activations are computed in

  // Numbers as the tensor cores take them.
  static __device__ Part part(const float* x) {
    Part p;
    if constexpr (kHalf) {
      for (int i = 0; i < 4; i++) p.word[i] = ptx::to_bf16_pair(x[2 * i], x[2 * i + 1]);
    } else {
      for (int i = 0; i < 4; i++) p.word[i] = P == Precision::tf32 ? ptx::to_tf32(x[i]) : ptx::as_bits(x[i]);
    }
    return p;
  }
};

// x = large + small, each as tf32 has it: what to_tf32 gives, in two instructions for four, and the rest. NaN may become 0 there:
// the rest of it is NaN.
__device__ inline std::uint32_t large_of(std::uint32_t x) { return (x + 0x1000) & ~std::uint32_t{0x1fff}; }
__device__ inline std::uint32_t small_of(std::uint32_t x, std::uint32_t large) {
  return ptx::to_tf32(ptx::as_float(x) - ptx::as_float(large));
}

// A unit of 8 numbers as bfloat16, and back.
__device__ inline Part rounded(const float (&x)[kUnit]) { return Numbers<Precision::bf16>::part(x); }
__device__ inline float low_of(std::uint32_t pair) { return ptx::as_float(pair << 16); }
__device__ inline float high_of(std::uint32_t pair) { return ptx::as_float(pair & 0xffff0000u); }
__device__ inline float number(const Part& part, int i) {
  return i % 2 ? high_of(part.word[i / 2]) : low_of(part.word[i / 2]);
}
__device__ inline void widen(const Part& part, float (&x)[kUnit]) {
#pragma unroll
  for (int i = 0; i < kUnit; i++) x[i] = number(part, i);
}

// A unit of 8 numbers in memory, as float or as bfloat16.
__device__ inline void load_unit(const float* from, float (&x)[kUnit]) {
  const Four low = *reinterpret_cast<const Four*>(from), high = *reinterpret_cast<const Four*>(from + 4);
  for (int i = 0; i < 4; i++) x[i] = low.x[i], x[4 + i] = high.x[i];
}
__device__ inline void load_unit(const std::uint16_t* from, float (&x)[kUnit]) {
  widen(*reinterpret_cast<const Part*>(from), x);
}
__device__ inline void store_unit(float* to, const float (&x)[kUnit]) {
  *reinterpret_cast<Four*>(to) = {{x[0], x[1], x[2], x[3]}};
  *reinterpret_cast<Four*>(to + 4) = {{x[4], x[5], x[6], x[7]}};
}
__device__ inline void store_unit(std::uint16_t* to, const float (&x)[kUnit]) {
  *reinterpret_cast<Part*>(to) = rounded(x);
}

}  // namespace vgf::cuda
