// Who a thread is, and how threads meet: barriers, shuffles, votes, atomics; and the functions
// that a multiprocessor has. CUDA C++ names for what a kernel needs, so that an emulator can offer the same ones.
#pragma once

#include <cstdint>

namespace vgf::cuda::ptx {

__device__ inline int thread() { return threadIdx.x; }
// The same, read anew: what follows from it is not kept over what comes in between, where registers are short.
__device__ inline int thread_anew() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  __builtin_assume(index >= 0);
  return index;
}
// The same number, of which the compiler knows nothing: what it has made of it is not kept either.
__device__ inline unsigned anew(unsigned x) {
  asm volatile("" : "+r"(x));
  return x;
}
__device__ inline unsigned block_x() { return blockIdx.x; }
__device__ inline unsigned block_y() { return blockIdx.y; }
__device__ inline unsigned blocks_x() { return gridDim.x; }

// The block's dynamic shared memory, aligned to 1024 bytes.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return memory;
}

// The 256 threads that work in every kernel here; those that only fetch (sm_90) are not among them.
__device__ inline void sync_block() { asm volatile("bar.sync 0, 256;" ::: "memory"); }
// The 512 threads that take a tile through networks on Hopper: those, and as many more.
__device__ inline void sync_warpgroups() { asm volatile("bar.sync 1, 512;" ::: "memory"); }
__device__ inline void sync_warp() { __syncwarp(); }
template <class T>
__device__ inline T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(~0u, x, mask);
}
template <class T>
__device__ inline T shuffle(T x, int lane) {
  return __shfl_sync(~0u, x, lane);
}
template <class T>
__device__ inline T shuffle_up(T x, int by) {
  return __shfl_up_sync(~0u, x, by);
}
__device__ inline unsigned ballot(bool vote) { return __ballot_sync(~0u, vote); }
__device__ inline int count_bits(unsigned x) { return __popc(x); }
__device__ inline int leading_zeros(unsigned x) { return __clz(x); }
__device__ inline int first_bit(unsigned x) { return __ffs(x) - 1; }
template <class T>
__device__ inline void atomic_add(T* at, T x) {
  atomicAdd(at, x);
}
__device__ inline void atomic_max(unsigned* at, unsigned x) { atomicMax(at, x); }

// 2^x, 1 / x and 1 / sqrt(x), right to 22 bits. PTX ISA, "Floating Point Instructions: ex2, rcp, rsqrt".
__device__ inline float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline float reciprocal_root(float x) {
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline unsigned as_bits(float x) { return __float_as_uint(x); }
__device__ inline float as_float(unsigned x) { return __uint_as_float(x); }

}  // namespace vgf::cuda::ptx
