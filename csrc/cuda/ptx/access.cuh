// Which memory a pointer points to: of a generic address the hardware would have to find out, at several instructions and a
// longer wait each. And loads and stores that say so themselves. PTX ISA, "Data Movement and Conversion
// Instructions: ld, st, prefetch".
#pragma once

#include "async.cuh"

namespace vgf::cuda::ptx {

template <class T>
__device__ inline T* in_global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}
template <class T>
__device__ inline T* in_shared(T* pointer) {
  __builtin_assume(__isShared(pointer));
  return pointer;
}

__device__ inline std::uint64_t global_address(const void* global) { return __cvta_generic_to_global(global); }

__device__ inline void load_shared(std::uint32_t (&word)[4], std::uint32_t address) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_shared(std::uint32_t (&word)[2], std::uint32_t address) {
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(word[0]), "=r"(word[1]) : "r"(address) : "memory");
}
__device__ inline void load_shared(std::uint32_t (&word)[1], std::uint32_t address) {
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word[0]) : "r"(address) : "memory");
}
__device__ inline void load_shared(float (&x)[4], std::uint32_t address) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_shared(float (&x)[2], std::uint32_t address) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(address) : "memory");
}
__device__ inline void store_shared(std::uint32_t address, const std::uint32_t (&word)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(word[0]), "r"(word[1]), "r"(word[2]),
               "r"(word[3])
               : "memory");
}
__device__ inline void store_shared(std::uint32_t address, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}

// Past L1, which has better to keep.
__device__ inline void store_global(void* global, const std::uint32_t (&word)[4]) {
  asm volatile("st.global.cg.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(global_address(global)), "r"(word[0]), "r"(word[1]),
               "r"(word[2]), "r"(word[3])
               : "memory");
}

// Brings a line into L1.
__device__ inline void prefetch(const void* global) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(global_address(global)));
}

}  // namespace vgf::cuda::ptx
