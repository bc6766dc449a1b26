// add_products, which most of the emulator's time would go to: loops over columns that compilers make vectors of.
#pragma GCC optimize("O3")
#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulator.hpp"

namespace emulator {

namespace {

constexpr int kColumns = 32;  // at once
constexpr double kLess = 0x1p-300;  // than a product of floats, or 0

std::uint64_t bits_of(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return bits;
}
double with_bits(std::uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}

// Of a row of a, and `count` columns of the others, which have `columns`. No branches inside of loops.
void add_row(int depth, int columns, int count, const double* a, const double* b, float* c) {
  double largest[kColumns], sums[kColumns] = {}, scale[kColumns], last_bit[kColumns], finite = 0;
  std::int32_t bits[kColumns];
  for (int j = 0; j < count; j++) largest[j] = std::max(kLess, std::fabs(double{c[j]}));
  for (int k = 0; k < depth; k++)
    for (int j = 0; j < count; j++) {
      const double term = a[k] * b[k * columns + j];
      largest[j] = std::max(largest[j], std::fabs(term));
      sums[j] += term;
    }
  for (int j = 0; j < count; j++) finite += (sums[j] += c[j]) * 0;
  if (finite != 0) {  // NaN
    for (int j = 0; j < count && count > 1; j++) add_row(depth, columns, 1, a, b + j, c + j);
    if (count == 1) c[0] = static_cast<float>(sums[0]);
    return;
  }
  for (int j = 0; j < count; j++) {
    const double power = with_bits(bits_of(largest[j]) >> 52 << 52);  // of two
    scale[j] = 0x1p23 / power;
    last_bit[j] = power * 0x1p-23;
    bits[j] = static_cast<std::int32_t>(c[j] * scale[j]);
  }
  for (int k = 0; k < depth; k++)
    for (int j = 0; j < count; j++) bits[j] += static_cast<std::int32_t>(a[k] * b[k * columns + j] * scale[j]);
  for (int j = 0; j < count; j++) {
    // Without the 29 bits that a double has more than a float. (Below the least normal float the cast rounds.)
    const double cut = with_bits(bits_of(bits[j] * last_bit[j]) >> 29 << 29);
    c[j] = static_cast<float>(largest[j] == kLess ? sums[j] : cut);  // 0 has a sign
  }
}

}  // namespace

void add_products(int depth, int columns, const double* a, const double* b, float* c) {
  for (int row = 0; row < 16; row++)
    for (int from = 0; from < columns; from += kColumns)
      add_row(depth, columns, std::min(kColumns, columns - from), a + row * depth, b + from, c + row * columns + from);
}

}  // namespace emulator
