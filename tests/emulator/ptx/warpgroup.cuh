// csrc/cuda/ptx/warpgroup.cuh on the emulator: operands are found by their descriptors as the PTX ISA has it ("Matrix
// Descriptor Format", "Swizzling Modes", fragments of m64nNk16 and m64nNk8), written independently of the kernels' index
// maps. Sums: see add_products. A product is done when it is issued, or when it is waited for.
#pragma once

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "matrix.cuh"
#include "sm90_layout.hpp"

namespace vgf::cuda::ptx {

constexpr std::uint32_t kSharedBase = 1024;  // address of a block's shared memory in its own window

inline std::uint32_t shared_address(const void* shared) {
  return kSharedBase +
         static_cast<std::uint32_t>(static_cast<const unsigned char*>(shared) - emulator::current->block->shared);
}

// Of rows of a K-major operand, f(row, unit, address) of both 16-byte units.
template <class F>
void for_units(std::uint64_t descriptor, int first_row, int rows, F f) {
  const auto field = [&](int from, int bits) { return descriptor >> from & ((std::uint64_t{1} << bits) - 1); };
  const std::uint64_t start = field(0, 14) << 4, stride = field(32, 14) << 4;
  if (field(49, 3) != 0) throw std::runtime_error("emulator: a descriptor with a base offset");
  const int mode = static_cast<int>(field(62, 2));
  if (mode == 0) throw std::runtime_error("emulator: operands without swizzle are not emulated");
  const int width = mode == 1 ? 128 : mode == 2 ? 64 : 32;  // bytes of a row
  for (int row = first_row; row < first_row + rows; row++)
    for (int unit = 0; unit < 2; unit++) {
      std::uint64_t address = start + row / 8 * stride + row % 8 * width + unit * 16;
      // unit number ^ number of the 128-byte line, as many bits as a row has units for
      address ^= (address >> 7 & (width / 16 - 1)) << 4;
      f(row - first_row, unit, emulator::current->block->shared + (address - kSharedBase));
    }
}

// f(row, k, x) of numbers x of an operand's rows: 16 a row of bfloat16, or 8 of tf32.
template <int Depth, class F>
void for_numbers(std::uint64_t descriptor, int first_row, int rows, F f) {
  constexpr int bytes = 32 / Depth, per_unit = Depth / 2;
  for_units(descriptor, first_row, rows, [&](int row, int unit, const unsigned char* numbers) {
    for (int i = 0; i < per_unit; i++) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, numbers + i * bytes, bytes);
      f(row, unit * per_unit + i, double{as_float(bytes == 2 ? bits << 16 : bits & ~0x1fffu)});
    }
  });
}

// A number that tells an operand from others.
inline std::uint64_t digest(std::uint64_t descriptor, int rows) {
  std::uint64_t seen = descriptor;
  for_units(descriptor, 0, rows, [&](int, int, const unsigned char* numbers) {
    std::uint64_t words[2];
    std::memcpy(words, numbers, sizeof words);
    for (const std::uint64_t word : words) seen = (seen ^ word) * 0x100000001b3;
  });
  return seen;
}

// For races.hpp: what a warp reads, by what each of its lanes knew.
inline void note_reads(emulator::Product* const (&of)[32]) {
  if (!emulator::races::kFind) return;
  const emulator::Product& first = *of[0];
  const std::uint32_t reads = emulator::races::begin_product();
  for (int lane = 0; lane < 32; lane++) {
    emulator::Product* const product = of[lane];
    product->reads = reads;
    if (lane > 0 && product->view == of[lane - 1]->view) continue;
    const auto note = [&](int, int, const unsigned char* numbers) {
      emulator::races::read_by_product(numbers, 16, reads, product->view);
    };
    if (!first.rows) for_units(first.a, 0, 64, note);
    for_units(first.b, 0, first.columns, note);
  }
}

// A warp's 16 rows of a product. Every warp must find the operands as the first one did: which of their rows a warp reads is
// not said anywhere, so none may change before all four are done.
template <int Depth, int Columns>
inline void multiply_now(emulator::Product* const (&of)[32]) {
  const emulator::Product& first = *of[0];
  for (const emulator::Product* mine : of)
    if (mine->a != first.a || mine->b != first.b || mine->columns != first.columns || mine->half != first.half ||
        mine->rows.has_value() != first.rows.has_value())
      throw std::runtime_error("emulator: a warp disagrees about a product");
  const std::uint64_t seen = (first.rows ? 0 : digest(first.a, 64)) * 31 + digest(first.b, Columns);
  std::vector<std::uint64_t>& operands = emulator::current->block->operands[emulator::current->index / 128];
  const std::size_t which = emulator::current->products_done;
  if (which == operands.size()) operands.push_back(seen);
  if (operands.at(which) != seen) throw std::runtime_error("emulator: a product's operands differ between warps");
  double a[16][Depth], b[Depth][Columns];
  float d[16][Columns];
  const int warp = emulator::current->index / 32 % 4;
  if (first.rows)
    for (int row = 0; row < 16; row++)
      for (int k = 0; k < Depth; k++)
        a[row][k] = as_float(of[row % 8 * 4 + k % 4]->rows->at(k / 4 * 2 + row / 8) & ~0x1fffu);
  else
    for_numbers<Depth>(first.a, warp * 16, 16, [&](int row, int k, double x) { a[row][k] = x; });
  for_numbers<Depth>(first.b, 0, Columns, [&](int column, int k, double x) { b[k][column] = x; });
  const auto for_sums = [&](auto f) {
    for (unsigned lane = 0; lane < 32; lane++)
      for (unsigned i = 0; i < Columns / 2; i++)
        f(*of[lane], i, d[lane / 4 + i % 4 / 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2]);
  };
  for_sums([](const emulator::Product& mine, int i, float& sum) { sum = mine.first ? 0 : mine.d[i]; });
  emulator::add_products(Depth, Columns, a[0], b[0], d[0]);
  for_sums([](const emulator::Product& mine, int i, float sum) { mine.d[i] = sum; });
}

// The lanes of a warp bring theirs.
inline void multiply_together(emulator::Product& mine) {
  emulator::meet(&mine, [](void* const* all) {
    emulator::Product* each[32];
    for (int lane = 0; lane < 32; lane++) each[lane] = static_cast<emulator::Product*>(all[lane]);
    note_reads(each);
    const emulator::Product& first = *each[0];
    first.half ? multiply_now<16, 128>(each) : first.columns == 128 ? multiply_now<8, 128>(each) : multiply_now<8, 32>(each);
  });
  mine.done = true;
  emulator::current->products_done++;
}

inline std::uint32_t operand(const void* shared) { return wgmma_descriptor_low(shared_address(shared)); }
inline void begin_products() {}
template <class T, int Count>
inline void hold(T (&)[Count]) {}
inline void show_to_products() { emulator::races::show(emulator::races::Space::shared); }
inline void show_to_copies() { emulator::races::show(emulator::races::Space::global); }
inline void commit_products() { emulator::current->products.emplace_back(); }
template <int Pending>
inline void wait_products() {
  auto& groups = emulator::current->products;  // the last one is open
  while (groups.size() > Pending + 1) {
    if (!groups.front().empty()) emulator::pause();
    for (emulator::Product& product : groups.front()) {
      if (!product.done) multiply_together(product);
      emulator::races::end_product(product.reads);
    }
    groups.erase(groups.begin());
  }
}

template <int Count>
inline void take_registers() {}
template <int Count>
inline void give_registers() {}

// At once or when it is waited for.
inline void issue(emulator::Product mine) {
  mine.view = emulator::races::view();
  if (!emulator::products_are_late) multiply_together(mine);
  emulator::current->products.back().push_back(mine);
}
inline std::uint64_t whole(std::uint64_t low) { return std::uint64_t{kDescriptorHigh} << 32 | low; }

template <Precision P>
inline void multiply_group(float (&d)[64], std::uint32_t a, std::uint32_t b) {
  issue({d, whole(a), whole(b), 128, P == Precision::bf16});
}
template <bool First>
inline void multiply_rows(float (&d)[16], const std::uint32_t (&a)[4], std::uint32_t b) {
  if (First) std::fill_n(d, 16, std::numeric_limits<float>::quiet_NaN());  // nobody may look before it is done
  issue({d, 0, whole(b), 32, false, First, {{a[0], a[1], a[2], a[3]}}});
}

}  // namespace vgf::cuda::ptx
