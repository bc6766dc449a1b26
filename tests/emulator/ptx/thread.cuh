// csrc/cuda/ptx/thread.cuh on the emulator.
#pragma once

#include "../emulator.hpp"

namespace vgf::cuda::ptx {

inline int thread() { return emulator::current->index; }
inline int thread_anew() { return thread(); }
inline unsigned anew(unsigned x) { return x; }
inline unsigned block_x() { return emulator::current->block->x; }
inline unsigned block_y() { return emulator::block_y; }
inline unsigned blocks_x() { return emulator::blocks_x; }
inline unsigned char* shared_memory() { return emulator::current->block->shared; }

inline void sync_block() { emulator::sync(0, 256); }
inline void sync_warpgroups() { emulator::sync(1, 512); }
inline void sync_warp() { emulator::sync_warp(); }

// f(arguments by lane) once for the warp.
template <class T, class F>
T together(T mine, F f) {
  emulator::meet(&mine, [&](void* const* all) {
    T in[emulator::kWarp], out[emulator::kWarp];
    for (int lane = 0; lane < emulator::kWarp; lane++) in[lane] = *static_cast<T*>(all[lane]);
    f(in, out);
    for (int lane = 0; lane < emulator::kWarp; lane++) *static_cast<T*>(all[lane]) = out[lane];
  });
  return mine;
}

template <class T>
T shuffle_xor(T x, int mask) {
  return together(x, [&](const T* in, T* out) {
    for (int lane = 0; lane < emulator::kWarp; lane++) out[lane] = in[lane ^ mask];
  });
}
template <class T>
T shuffle(T x, int from) {
  return together(x, [&](const T* in, T* out) {
    for (int lane = 0; lane < emulator::kWarp; lane++) out[lane] = in[from];
  });
}
template <class T>
T shuffle_up(T x, int by) {
  return together(x, [&](const T* in, T* out) {
    for (int lane = 0; lane < emulator::kWarp; lane++) out[lane] = in[lane < by ? lane : lane - by];
  });
}
inline unsigned ballot(bool vote) {
  return together(static_cast<unsigned>(vote), [](const unsigned* in, unsigned* out) {
    unsigned votes = 0;
    for (int lane = 0; lane < emulator::kWarp; lane++) votes |= in[lane] << lane;
    for (int lane = 0; lane < emulator::kWarp; lane++) out[lane] = votes;
  });
}
inline int count_bits(unsigned x) { return __builtin_popcount(x); }
inline int first_bit(unsigned x) { return __builtin_ctz(x); }
inline int leading_zeros(unsigned x) { return __builtin_clz(x); }
template <class T>
void atomic_add(T* at, T x) {
  __atomic_fetch_add(at, x, __ATOMIC_RELAXED);
}
inline void atomic_max(unsigned* at, unsigned x) {
  unsigned before = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (before < x && !__atomic_compare_exchange_n(at, &before, x, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

inline float power_of_two(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1 / x; }
inline float reciprocal_root(float x) { return 1 / std::sqrt(x); }

inline unsigned as_bits(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float as_float(unsigned x) {
  float result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}

}  // namespace vgf::cuda::ptx
