// Products of a warpgroup (sm_90a): four warps, the first of which has an index divisible by four, multiply 64 rows.
// PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".
//
// D[64, N] += A[64, k] B[k, N], both operands bfloat16 (k = 16) or tf32 (k = 8; bits past it are cut off) in shared memory,
// K-major, 64-byte swizzle: rows (columns of B) of 64 bytes, eight of them a block of 512 bytes on a 512-byte boundary. Thread
// t of the warpgroup holds of D, as number
// 4 j + 2 half + i, row 16 (t / 32) + t % 32 / 4 + 8 half and column 8 j + 2 (t % 4) + i.
#pragma once

#include <cstdint>

#include "../sm90_layout.hpp"
#include "async.cuh"

namespace vgf::cuda::ptx {

// The descriptor of an operand whose first row begins at a shared address, 32 or 0 bytes behind a 64-byte boundary:
// see wgmma_descriptor (sm90_layout.hpp). Its low word.
__device__ inline std::uint32_t operand(const void* shared) { return wgmma_descriptor_low(shared_address(shared)); }

// Before the first product that touches registers or shared memory which these threads have written.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes the group of products since the last one.
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `Pending` groups are under way.
template <int Pending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// The compiler takes every number for used and changed here, so that it does not reach for sums under way.
template <int Count>
__device__ inline void hold(float (&d)[Count]) {
#pragma unroll
  for (float& x : d) asm volatile("" : "+f"(x)::"memory");
}
// The same of rows that products read in registers, which must keep them until then.
template <int Count>
__device__ inline void hold(std::uint32_t (&a)[Count]) {
#pragma unroll
  for (std::uint32_t& x : a) asm volatile("" : "+r"(x)::"memory");
}
// What this thread has written to shared memory becomes visible to products and bulk copies, after a barrier, and what it has read
// there comes before what they write.
__device__ inline void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// What this thread has written to global memory becomes visible to bulk copies, after a barrier.
__device__ inline void show_to_copies() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

// How many registers the threads of this warpgroup have from here on. PTX ISA, "Miscellaneous Instructions: setmaxnreg".
template <int Count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

// N = 128; k is 32 bytes, 16 or 8 numbers.
#define VGF_MULTIPLY(INSTRUCTION, TRANSPOSED)                                                                   \
  asm volatile(                                                                                                 \
      "{\n\t.reg .b64 a, b;\n\tmov.b64 a, {%64, %66};\n\tmov.b64 b, {%65, %66};\n\t"                            \
      INSTRUCTION " {"                                                                                          \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                  \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                        \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                        \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "                       \
      "a, b, 1, 1, 1" TRANSPOSED ";\n\t}"                                                                       \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),         \
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),   \
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])  \
      : "r"(a), "r"(b), "n"(kDescriptorHigh))
template <Precision P>
__device__ inline void multiply_group(float (&d)[64], std::uint32_t a, std::uint32_t b) {
  if constexpr (P == Precision::bf16)
    VGF_MULTIPLY("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16", ", 0, 0");
  else
    VGF_MULTIPLY("wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32", "");
}
#undef VGF_MULTIPLY

// N = 32, tf32. A is in registers: thread t of the warpgroup holds, as number 2 j + half, row 16 (t / 32) + t % 32 / 4 + 8 half and
// column t % 4 + 4 j, which is what load_matrices gives. The first product of a sum does not add to what is there.
template <bool First>
__device__ inline void multiply_rows(float (&d)[16], const std::uint32_t (&a)[4], std::uint32_t b) {
  asm volatile(
      "{\n\t.reg .pred add;\n\t.reg .b64 b;\n\tsetp.eq.b32 add, %22, 0;\n\tmov.b64 b, {%20, %21};\n\t"
      "wgmma.mma_async.sync.aligned.m64n32k8.f32.tf32.tf32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, "
      "%14, %15}, {%16, %17, %18, %19}, b, add, 1, 1;\n\t}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
        "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(kDescriptorHigh), "n"(First));
}

}  // namespace vgf::cuda::ptx
