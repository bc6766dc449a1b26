// csrc/cuda/ptx/access.cuh on the emulator. Addresses must be multiples of what is moved.
#pragma once

#include "warpgroup.cuh"

namespace vgf::cuda::ptx {

template <class T>
inline T* in_global(T* pointer) {
  return pointer;
}
template <class T>
inline T* in_shared(T* pointer) {
  return pointer;
}

inline unsigned char* at_shared_address(std::uint32_t address, unsigned bytes = 16) {
  if (address % bytes) throw std::runtime_error("emulator: an access to shared memory is not aligned");
  return emulator::current->block->shared + (address - kSharedBase);
}
template <class T>
inline T* aligned(T* global) {
  if (reinterpret_cast<std::uintptr_t>(global) % 16) throw std::runtime_error("emulator: an access is not aligned");
  return global;
}

inline void load_shared(std::uint32_t (&word)[4], std::uint32_t address) {
  std::memcpy(word, at_shared_address(address), sizeof word);
}
inline void load_shared(std::uint32_t (&word)[2], std::uint32_t address) {
  std::memcpy(word, at_shared_address(address, 8), sizeof word);
}
inline void load_shared(std::uint32_t (&word)[1], std::uint32_t address) {
  std::memcpy(word, at_shared_address(address, 4), sizeof word);
}
inline void load_shared(float (&x)[4], std::uint32_t address) { std::memcpy(x, at_shared_address(address), sizeof x); }
inline void load_shared(float (&x)[2], std::uint32_t address) {
  std::memcpy(x, at_shared_address(address, 8), sizeof x);
}
inline void store_shared(std::uint32_t address, const std::uint32_t (&word)[4]) {
  std::memcpy(at_shared_address(address), word, sizeof word);
}
inline void store_shared(std::uint32_t address, float x) { std::memcpy(at_shared_address(address, 4), &x, 4); }
inline void store_global(void* global, const std::uint32_t (&word)[4]) { std::memcpy(aligned(global), word, sizeof word); }
inline void prefetch(const void*) {}

}  // namespace vgf::cuda::ptx
