#include "bandwidth.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "packed.hpp"

namespace vgf::cpu {
namespace {

// Squared distances are >= 0, so their bits order as integers do.
using Bits = std::uint32_t;
constexpr int kStoredUpTo = 128;  // particles; past that distances are recomputed for every pass over them
constexpr int kDigit = 11, kBins = 1 << kDigit;

float as_float(Bits bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Walks the distances of one state row by row.
struct Distances {
  const float* x;
  long stride;
  int dims, n;
  float* row;  // [padded n]

  // f(j, bits of d2(i, j)) for j in [begin, n)
  template <class F>
  void along(int i, int begin, F f) const {
    const int start = begin / kPanel * kPanel;
    kernels().distances(x, stride, dims, i, start, n, row);
    for (int j = begin; j < n; j++) {
      Bits bits;
      std::memcpy(&bits, row + j - start, sizeof bits);
      f(j, bits);
    }
  }
  template <class F>
  void pairs(F f) const {
    for (int i = 0; i + 1 < n; i++) along(i, i + 1, [&](int, Bits bits) { f(bits); });
  }
};

// The values of rank `rank - 1` and `rank` among the pairs i < j, by counting digits from the top: three passes find
// the upper one, a fourth its neighbour below.
void select_by_counting(const Distances& d, std::int64_t rank, Bits* below, Bits* at, std::int64_t* histogram) {
  Bits prefix = 0, known = 0;  // the upper bits found so far, and which they are
  std::int64_t left = rank;
  for (int shift = 32 - kDigit;; shift = std::max(0, shift - kDigit)) {
    std::fill(histogram, histogram + kBins, 0);
    d.pairs([&](Bits bits) {
      if ((bits & known) == (prefix & known)) histogram[bits >> shift & (kBins - 1)]++;
    });
    int bin = 0;
    while (left >= histogram[bin]) left -= histogram[bin++];
    prefix = (prefix & known) | static_cast<Bits>(bin) << shift;
    known = ~Bits{0} << shift;
    if (shift == 0) break;
  }
  *at = prefix;
  std::int64_t smaller = 0;
  Bits largest = 0;
  d.pairs([&](Bits bits) {
    if (bits < prefix) smaller++, largest = std::max(largest, bits);
  });
  *below = smaller == rank ? largest : prefix;
}

void select_stored(const Distances& d, std::int64_t rank, Bits* below, Bits* at, Bits* stored) {
  Bits* end = stored;
  d.pairs([&](Bits bits) { *end++ = bits; });
  std::nth_element(stored, stored + rank, end);
  *at = stored[rank];
  *below = rank > 0 ? *std::max_element(stored, stored + rank) : 0;
}

// Where the entry of rank `rank`, whose value is known, stands in the row-major matrix.
void locate(const Distances& d, std::int64_t rank, Bits value, int* row, int* column) {
  std::int64_t smaller = 0;
  for (int i = 0; i < d.n; i++) d.along(i, 0, [&](int, Bits bits) { smaller += bits < value; });
  std::int64_t left = rank - smaller;
  for (int i = 0; i < d.n; i++) {
    bool found = false;
    d.along(i, 0, [&](int j, Bits bits) {
      if (bits == value && left-- == 0) *row = i, *column = j, found = true;
    });
    if (found) return;
  }
}

}  // namespace

std::size_t bandwidth_scratch(int n) {
  const std::size_t stored = n <= kStoredUpTo ? n * (n - 1) / 2 : kBins * sizeof(std::int64_t) / sizeof(float);
  return padded(n) + padded(static_cast<long>(stored));
}

float fixed_bandwidth(double sigma) { return static_cast<float>(1 / (1e-6 + 2 * sigma * sigma)); }

Bandwidth median_bandwidth(const float* x, long stride, int dims, int n, bool want_middle, float* scratch) {
  const Distances d{x, stride, dims, n, scratch};
  float* more = scratch + padded(n);
  bool finite = true;
  for (int a = 0; a < dims; a++)
    for (int i = 0; i < n; i++) finite = finite && std::isfinite(x[a * stride + i]);
  if (!finite) return {std::numeric_limits<float>::quiet_NaN(), true, {}};

  // Ranks among all N^2 entries: N zeros of the diagonal first, then every pair twice.
  const std::int64_t count = static_cast<std::int64_t>(n) * n, lower = (count - 1) / 2, upper = count / 2;
  Bits low = 0, high = 0;
  if (upper >= n) {
    const std::int64_t pair = (upper - n) / 2;
    if (n <= kStoredUpTo)
      select_stored(d, pair, &low, &high, reinterpret_cast<Bits*>(more));
    else
      select_by_counting(d, pair, &low, &high, reinterpret_cast<std::int64_t*>(more));
    // The lower middle is the pair below only where the two ranks fall on different pairs.
    if (lower < n) low = 0;
    else if ((lower - n) / 2 == pair) low = high;
  }
  const double scale = 2 * std::log(n + 1.0), h = 0.5 * (double{as_float(low)} + as_float(high)) / scale;
  Bandwidth result;
  result.floored = !(h > 1e-12);
  result.gamma = static_cast<float>(1 / (1e-6 + 2 * std::max(h, 1e-12)));
  if (want_middle) {
    result.middle.entries = lower == upper ? 1 : 2;
    locate(d, lower, low, &result.middle.row[0], &result.middle.column[0]);
    if (lower != upper) locate(d, upper, high, &result.middle.row[1], &result.middle.column[1]);
  }
  return result;
}

}  // namespace vgf::cpu
