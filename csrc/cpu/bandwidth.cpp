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
constexpr int kBins = 2048;
constexpr int kKept = 4096;       // distances kept to select among
constexpr int kSampledRows = 32, kSampled = 4096;
constexpr double kSampledSpread = 0.05;  // of ranks: six standard deviations of the sample's middle

float as_float(Bits bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

Bits as_bits(float value) {
  Bits bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// What the members of a team find together.
struct Shared {
  std::int64_t below;
  Bits largest_below;
  int kept_count;
  std::int64_t histogram[kBins];
  float kept[kKept];
  int in_row[1];  // n of them

  void reset() {
    below = 0, largest_below = 0, kept_count = 0;
    std::fill(histogram, histogram + kBins, 0);
  }
  void raise_largest(Bits value) {
    Bits old = __atomic_load_n(&largest_below, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(&largest_below, &old, value, true, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED)) {
    }
  }
};

// A member's own memory.
struct Scratch {
  float* row;     // [padded n]
  float* inside;  // [padded n + a panel], or the stored distances of a small state
  std::int64_t* histogram;
  float* sample;  // [kSampled]
};

// The squared distances of one state.
struct Distances {
  const float* x;
  long stride;
  int dims, n;
  float* row;

  // d2(i, j) for j in [begin, n)
  const float* from(int i, int begin) const {
    const int start = begin / kPanel * kPanel;
    kernels().distances(x, stride, dims, i, start, n, row);
    return row + begin - start;
  }
};

// Two neighbours in the order of all pairs i < j: of rank `rank - 1` and `rank`.
struct Neighbours {
  float below, at;
};

Neighbours select_stored(const Distances& d, std::int64_t rank, float* stored) {
  float* end = stored;
  for (int i = 0; i + 1 < d.n; i++) end = std::copy_n(d.from(i, i + 1), d.n - i - 1, end);
  std::nth_element(stored, stored + rank, end);
  return {rank > 0 ? *std::max_element(stored, stored + rank) : 0, stored[rank]};
}

// The same in two or three passes over all pairs, by a team: a sample tells between which values the rank lies but for
// bad luck, a histogram of what lies between narrows them, and the few left are kept and selected among.
class Search {
 public:
  Search(const Member& team, const Distances& d, Shared& shared, const Scratch& own)
      : team_(team), d_(d), shared_(shared), own_(own) {}

  Neighbours select(std::int64_t rank) {
    const std::int64_t pairs = static_cast<std::int64_t>(d_.n) * (d_.n - 1) / 2;
    const Bits last = as_bits(std::numeric_limits<float>::infinity());
    auto [low, high] = sampled(static_cast<double>(rank) / static_cast<double>(pairs));
    std::int64_t count;
    do {
      int shift = 0;
      while ((high - low) >> shift >= kBins) shift++;
      count_bins(low, high, shift);
      std::int64_t left = rank - shared_.below;
      int bin = 0;
      while (bin < kBins && left >= 0 && left >= shared_.histogram[bin]) left -= shared_.histogram[bin++];
      if (left < 0 || bin == kBins) {  // the sample misled
        low = 0, high = last, count = pairs;
        continue;
      }
      count = shared_.histogram[bin];
      low += static_cast<Bits>(bin) << shift;
      high = std::min(high, low + ((Bits{1} << shift) - 1));
    } while (count > kKept && low < high);
    keep(low, high, count <= kKept);
    const std::int64_t left = rank - shared_.below;
    const float largest_below = as_float(shared_.largest_below);
    if (count > kKept) return {left > 0 ? as_float(low) : largest_below, as_float(low)};
    // Members may keep in any order: each selects in a copy of its own.
    float* kept = own_.sample;
    float* end = std::copy_n(shared_.kept, shared_.kept_count, kept);
    std::nth_element(kept, kept + left, end);
    return {left > 0 ? *std::max_element(kept, kept + left) : largest_below, kept[left]};
  }

  // Where the entry of rank `rank`, whose value is known, stands in the row-major matrix.
  void locate(std::int64_t rank, float value, int* row, int* column) {
    start();
    Bracket b = bracket(value, value);
    for (int i = team_.rank; i < d_.n; i += team_.size) shared_.in_row[i] = look(b, d_.from(i, 0), d_.n);
    finish(b);
    std::int64_t left = rank - shared_.below;
    *row = 0;
    while (left >= shared_.in_row[*row]) left -= shared_.in_row[(*row)++];
    const float* values = d_.from(*row, 0);
    for (*column = 0; values[*column] != value || left-- > 0;) ++*column;
  }

 private:
  struct Range {
    Bits low, high;
  };

  // Between which values the pair of this quantile should lie. Every member draws the same sample.
  Range sampled(double quantile) {
    constexpr int kEach = kSampled / kSampledRows;
    float* end = own_.sample;
    for (int r = 0; r < kSampledRows; r++) {
      const int i = static_cast<int>(static_cast<std::int64_t>(d_.n) * r / kSampledRows);
      const int begin = static_cast<int>(static_cast<std::int64_t>(d_.n - kEach) * ((r * 13) % kSampledRows) / kSampledRows);
      const float* values = d_.from(i, begin);
      for (int j = 0; j < kEach; j++)
        if (begin + j != i) *end++ = values[j];
    }
    const auto at = [&](double q) {
      const long place = std::clamp<long>(std::lround(q * (end - own_.sample)), 0, end - own_.sample - 1);
      std::nth_element(own_.sample, own_.sample + place, end);
      return as_bits(own_.sample[place]);
    };
    return {at(quantile - kSampledSpread), at(quantile + kSampledSpread)};
  }

  void start() {
    team_.sync();  // all have read what the last pass found
    if (team_.rank == 0) shared_.reset();
    team_.sync();
  }
  Bracket bracket(float low, float high) const { return {nullptr, 0, low, high, own_.inside, 0, 0}; }
  int look(Bracket& b, const float* values, int count) const {
    b.values = values;
    b.count = count;
    return kernels().bracket(b);
  }
  void finish(const Bracket& b) {
    __atomic_fetch_add(&shared_.below, b.below, __ATOMIC_RELAXED);
    shared_.raise_largest(as_bits(b.largest_below));
    team_.sync();
  }
  // use(values, count) for what lies in the bracket, a row at a time
  template <class F>
  void pass(Bracket& b, F use) {
    for (int i = team_.rank; i + 1 < d_.n; i += team_.size)
      if (const int count = look(b, d_.from(i, i + 1), d_.n - i - 1)) use(b.inside, count);
  }

  void count_bins(Bits low, Bits high, int shift) {
    start();
    Bracket b = bracket(as_float(low), as_float(high));
    std::fill(own_.histogram, own_.histogram + kBins, 0);
    pass(b, [&](const float* values, int count) {
      for (int i = 0; i < count; i++) own_.histogram[(as_bits(values[i]) - low) >> shift]++;
    });
    for (int i = 0; i < kBins; i++)
      if (own_.histogram[i]) __atomic_fetch_add(&shared_.histogram[i], own_.histogram[i], __ATOMIC_RELAXED);
    finish(b);
  }

  void keep(Bits low, Bits high, bool values_too) {
    start();
    Bracket b = bracket(as_float(low), as_float(high));
    pass(b, [&](const float* values, int count) {
      if (!values_too) return;
      std::copy_n(values, count, shared_.kept + __atomic_fetch_add(&shared_.kept_count, count, __ATOMIC_RELAXED));
    });
    finish(b);
  }

  const Member& team_;
  const Distances& d_;
  Shared& shared_;
  const Scratch& own_;
};

}  // namespace

std::size_t bandwidth_shared(int n) { return (sizeof(Shared) + n * sizeof(int)) / sizeof(float); }

std::size_t bandwidth_scratch(int n) {
  const std::size_t row = padded(n) + kPanel, stored = static_cast<std::size_t>(n) * (n - 1) / 2;
  if (n <= kStoredUpTo) return row + std::max(row, stored);
  return 2 * row + kBins * sizeof(std::int64_t) / sizeof(float) + kSampled;
}

Bandwidth fixed_bandwidth(double sigma) { return {static_cast<float>(1 / (1e-6 + 2 * sigma * sigma)), true, {}}; }

Bandwidth median_bandwidth(const Member& team, const float* x, long stride, int dims, int n, bool want_middle,
                           float* shared, float* scratch) {
  const long row = padded(n) + kPanel;
  const Scratch own{scratch, scratch + row, reinterpret_cast<std::int64_t*>(scratch + 2 * row),
                    scratch + 2 * row + kBins * sizeof(std::int64_t) / sizeof(float)};
  const Distances d{x, stride, dims, n, own.row};
  bool finite = true;
  for (int a = 0; a < dims; a++)
    for (int i = 0; i < n; i++) finite = finite && std::isfinite(x[a * stride + i]);
  if (!finite) return {std::numeric_limits<float>::quiet_NaN(), true, {}};

  // Ranks among all N^2 entries: N zeros of the diagonal first, then every pair twice.
  Search search(team, d, *reinterpret_cast<Shared*>(shared), own);
  const std::int64_t count = static_cast<std::int64_t>(n) * n, lower = (count - 1) / 2, upper = count / 2;
  float low = 0, high = 0;
  if (upper >= n) {
    const std::int64_t pair = (upper - n) / 2;
    const Neighbours found = n <= kStoredUpTo ? select_stored(d, pair, own.inside) : search.select(pair);
    high = found.at;
    // The lower middle is the pair below only where the two ranks fall on different pairs.
    low = lower < n ? 0 : (lower - n) / 2 == pair ? high : found.below;
  }
  const double scale = 2 * std::log(n + 1.0), h = 0.5 * (double{low} + high) / scale;
  Bandwidth result;
  result.floored = !(h > 1e-12);
  result.gamma = static_cast<float>(1 / (1e-6 + 2 * std::max(h, 1e-12)));
  if (want_middle) {
    result.middle.entries = lower == upper ? 1 : 2;
    search.locate(lower, low, &result.middle.row[0], &result.middle.column[0]);
    if (lower != upper) search.locate(upper, high, &result.middle.row[1], &result.middle.column[1]);
  }
  return result;
}

}  // namespace vgf::cpu
