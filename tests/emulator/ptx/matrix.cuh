// csrc/cuda/ptx/matrix.cuh on the emulator, after the fragment tables of the PTX ISA, which the kernels' own index maps
// are held against. Sums: see add_products.
#pragma once

#include <stdexcept>

#include "async.cuh"
#include "thread.cuh"

namespace vgf::cuda::ptx {

struct Rows {
  const unsigned char* row;
  std::uint32_t r[4];
};

inline void load_matrices(std::uint32_t (&r)[4], const void* shared_row) {
  if (reinterpret_cast<std::uintptr_t>(shared_row) % 16) throw std::runtime_error("emulator: ldmatrix is not aligned");
  emulator::races::read(shared_row, 16);
  Rows mine{static_cast<const unsigned char*>(shared_row), {}};
  emulator::meet(&mine, [](void* const* all) {
    const auto lane = [&](int i) { return static_cast<Rows*>(all[i]); };
    for (int l = 0; l < 32; l++)
      for (int matrix = 0; matrix < 4; matrix++)
        std::memcpy(&lane(l)->r[matrix], lane(8 * matrix + l / 4)->row + l % 4 * 4, 4);
  });
  std::memcpy(r, mine.r, sizeof r);
}

// Number n of the rows of a matrix becomes row n.
inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* shared_row) {
  if (reinterpret_cast<std::uintptr_t>(shared_row) % 16) throw std::runtime_error("emulator: ldmatrix is not aligned");
  emulator::races::read(shared_row, 16);
  Rows mine{static_cast<const unsigned char*>(shared_row), {}};
  emulator::meet(&mine, [](void* const* all) {
    const auto lane = [&](int i) { return static_cast<Rows*>(all[i]); };
    const auto number = [&](int matrix, int row, int n) {
      std::uint16_t bits;
      std::memcpy(&bits, lane(8 * matrix + row)->row + 2 * n, 2);
      return std::uint32_t{bits};
    };
    for (int l = 0; l < 32; l++)
      for (int matrix = 0; matrix < 4; matrix++)
        lane(l)->r[matrix] = number(matrix, l % 4 * 2, l / 4) | number(matrix, l % 4 * 2 + 1, l / 4) << 16;
  });
  std::memcpy(r, mine.r, sizeof r);
}

struct Fragments {
  float* c;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

// D = A B + C with K numbers of k, `per_word` of them in a word; number(word, which) reads one.
template <int K, class Number>
inline void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, Number number) {
  Fragments mine{c, a, {b0, b1}};
  emulator::meet(&mine, [&](void* const* all) {
    constexpr int per_word = K / 8;
    double A[16][K], B[K][8];
    float C[16][8];
    for (int l = 0; l < 32; l++) {
      const Fragments& f = *static_cast<Fragments*>(all[l]);
      const int group = l / 4, place = l % 4;
      for (int w = 0; w < per_word; w++) {
        const int low = place * per_word + w, high = low + K / 2;
        A[group][low] = number(f.a[0], w), A[group + 8][low] = number(f.a[1], w);
        A[group][high] = number(f.a[2], w), A[group + 8][high] = number(f.a[3], w);
        B[low][group] = number(f.b[0], w), B[high][group] = number(f.b[1], w);
      }
    }
    const auto for_sums = [&](auto f) {
      for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) f(static_cast<Fragments*>(all[l])->c[i], C[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2]);
    };
    for_sums([](float own, float& sum) { sum = own; });
    emulator::add_products(K, 8, A[0], B[0], C[0]);
    for_sums([](float& own, float sum) { own = sum; });
  });
}

inline void multiply_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  multiply<16>(c, a, b0, b1, [](std::uint32_t word, int which) {
    return double{as_float(which ? word & 0xffff0000u : word << 16)};
  });
}
inline void multiply_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  multiply<8>(c, a, b0, b1, [](std::uint32_t word, int) { return double{as_float(word & 0xffffe000u)}; });
}

inline std::uint32_t to_tf32(float x) {
  if (!std::isfinite(x)) return as_bits(x);
  return (as_bits(x) + 0x1000u) & 0xffffe000u;
}
inline std::uint32_t to_bf16(float x) {
  if (x != x) return 0x7fff;
  const std::uint32_t bits = as_bits(x);
  return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
inline std::uint32_t to_bf16_pair(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }
inline std::uint32_t to_positive_bf16_pair(float low, float high) {
  return to_bf16_pair(low < 0 ? 0 : low, high < 0 ? 0 : high);
}

}  // namespace vgf::cuda::ptx
