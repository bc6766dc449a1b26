// csrc/cuda/ptx/warpgroup.cuh on the emulator: operands are found by their descriptors as the PTX ISA has it ("Matrix
// Descriptor Format", "Swizzling Modes", fragments of m64nNk16 and m64nNk8), written independently of the kernels' index
// maps. Sums as in matrix.cuh. A product is done when it is issued, or when it is waited for.
#pragma once

#include <stdexcept>

#include "matrix.cuh"
#include "sm90_layout.hpp"

namespace vgf::cuda::ptx {

constexpr std::uint32_t kSharedBase = 1024;  // address of a block's shared memory in its own window

inline std::uint32_t shared_address(const void* shared) {
  return kSharedBase +
         static_cast<std::uint32_t>(static_cast<const unsigned char*>(shared) - emulator::current->block->shared);
}

// Number `k` of row `row` of a K-major operand: of bfloat16, k < 16, or of tf32, k < 8.
inline double element(std::uint64_t descriptor, int row, int k, bool half) {
  const auto field = [&](int from, int bits) { return descriptor >> from & ((std::uint64_t{1} << bits) - 1); };
  const std::uint64_t start = field(0, 14) << 4, stride = field(32, 14) << 4;
  if (field(49, 3) != 0) throw std::runtime_error("emulator: a descriptor with a base offset");
  const int mode = static_cast<int>(field(62, 2));
  if (mode == 0) throw std::runtime_error("emulator: operands without swizzle are not emulated");
  const int width = mode == 1 ? 128 : mode == 2 ? 64 : 32;  // bytes of a row
  std::uint64_t address = start + row / 8 * stride + row % 8 * width + k * (half ? 2 : 4);
  // rows of 16-byte units: unit number ^ number of the 128-byte line, as many bits as a row has units for
  address ^= (address >> 7 & (width / 16 - 1)) << 4;
  const unsigned char* byte = emulator::current->block->shared + (address - kSharedBase);
  std::uint32_t bits = 0;
  std::memcpy(&bits, byte, half ? 2 : 4);
  return as_float(half ? bits << 16 : bits & ~0x1fffu);
}

// A warp's 16 rows of a product. Every warp must find the operands as the first one did: which of their rows a warp reads is
// not said anywhere, so none may change before all four are done.
inline void multiply_now(const emulator::Product* const (&of)[32]) {
  const emulator::Product& first = *of[0];
  const int columns = first.columns, depth = first.half ? 16 : 8, warp = emulator::current->index / 32 % 4;
  std::vector<double> a(64 * depth), b(columns * depth);
  for (int row = 0; row < 64; row++)
    for (int k = 0; k < depth; k++) a[row * depth + k] = element(first.a, row, k, first.half);
  for (int column = 0; column < columns; column++)
    for (int k = 0; k < depth; k++) b[column * depth + k] = element(first.b, column, k, first.half);
  std::uint64_t seen = first.a * 31 + first.b;
  for (const std::vector<double>* numbers : {&a, &b})
    for (const double x : *numbers) {
      std::uint64_t bits;
      std::memcpy(&bits, &x, 8);
      seen = (seen ^ bits >> 32) * 0x100000001b3;
    }
  std::vector<std::uint64_t>& operands = emulator::current->block->operands[emulator::current->index / 128];
  const std::size_t which = emulator::current->products_done;
  if (which == operands.size()) operands.push_back(seen);
  if (operands.at(which) != seen) throw std::runtime_error("emulator: a product's operands differ between warps");
  for (int lane = 0; lane < 32; lane++) {
    const emulator::Product& mine = *of[lane];
    if (mine.a != first.a || mine.b != first.b || mine.columns != columns || mine.half != first.half)
      throw std::runtime_error("emulator: a warp disagrees about a product");
    for (int i = 0; i < columns / 2; i++) {
      const int row = warp * 16 + lane / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = mine.d[i];
      for (int k = 0; k < depth; k++) sum += a[row * depth + k] * b[column * depth + k];
      mine.d[i] = truncated(sum);
    }
  }
}

// The lanes of a warp bring theirs.
inline void multiply_together(const emulator::Product& mine) {
  emulator::Product product = mine;
  emulator::meet(&product, [](void* const* all) {
    const emulator::Product* each[32];
    for (int lane = 0; lane < 32; lane++) each[lane] = static_cast<const emulator::Product*>(all[lane]);
    multiply_now(each);
  });
  emulator::current->products_done++;
}

inline std::uint32_t operand(const void* shared) { return wgmma_descriptor_low(shared_address(shared)); }
inline void begin_products() {}
inline void hold(float (&)[64]) {}
inline void show_to_products() {}
inline void show_to_copies() {}
inline void commit_products() { emulator::current->products.emplace_back(); }
template <int Pending>
inline void wait_products() {
  auto& groups = emulator::current->products;  // the last one is open
  while (groups.size() > Pending + 1) {
    if (!groups.front().empty()) emulator::pause();
    for (const emulator::Product& product : groups.front()) multiply_together(product);
    groups.erase(groups.begin());
  }
}

template <int Count>
inline void take_registers() {}
template <int Count>
inline void give_registers() {}

template <Precision P>
inline void multiply_group(float (&d)[64], std::uint32_t a, std::uint32_t b) {
  const auto whole = [](std::uint64_t low) { return std::uint64_t{kDescriptorHigh} << 32 | low; };
  const emulator::Product mine{d, whole(a), whole(b), 128, P == Precision::bf16};
  if (emulator::products_are_late)
    emulator::current->products.back().push_back(mine);
  else
    multiply_together(mine);
}

}  // namespace vgf::cuda::ptx
