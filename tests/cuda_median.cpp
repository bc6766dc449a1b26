// The middle of a large state's squared distances from counts that no small problem reaches, against a sorted list. Runs
// the device code of csrc/cuda/pairs.cuh on the emulator. Exits with 1 and says what failed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include <ptx/launch.hpp>

#include "pairs.cuh"

using namespace vgf::cuda;

namespace {

struct Question {
  Pairs pairs;
  MiddleValues* answer;
};
void middle_kernel(Question q) {
  const MiddleValues m = middle_values(q.pairs, 0, *reinterpret_cast<Search*>(ptx::shared_memory()));
  if (ptx::thread() == 0) *q.answer = m;
}

using Distances = std::vector<std::pair<float, Count>>;  // values, ascending, and how many pairs i < j have them

unsigned bits_of(float x) { return ptx::as_bits(x); }

// The counts that count_kernel leaves, for digits of the upper middle value `upper`.
MiddleValues found(int n, const Distances& distances, unsigned upper) {
  std::vector<Count> counts(kDigits * kDigitBins);
  unsigned notes[2] = {0, 0};
  for (const auto& [value, pairs] : distances)
    for (int d = 0; d < kDigits; d++) {
      const unsigned bits = bits_of(value), above = d > 0 ? ~0u << digit_shift(d - 1) : 0;
      if ((bits & above) == (upper & above))
        counts[d * kDigitBins + digit_of(bits, d)] += pairs;
      else if (d == kDigits - 1 && bits < (upper & above))
        notes[1] = std::max(notes[1], bits);
    }
  MiddleValues answer{};
  Question question{};
  question.pairs.N = n;
  question.pairs.counts = counts.data();
  question.pairs.notes = notes;
  question.answer = &answer;
  launch("middle_kernel", middle_kernel, {1, 1, kThreads, sizeof(Search)}, question, nullptr);
  return answer;
}

// The entry of a rank among the n zeros of the diagonal and every pair twice, and its rank among the equal pairs.
std::pair<unsigned, Count> entry(int n, const Distances& distances, Count rank) {
  Count before = n;
  for (const auto& [value, pairs] : distances) {
    if (rank < before + 2 * pairs) return {bits_of(value), (rank - before) / 2};
    before += 2 * pairs;
  }
  std::printf("no entry of rank %llu\n", rank);
  std::exit(1);
}

void check(int n, const std::vector<double>& shares, const std::vector<float>& values) {
  const Count all = Count(n) * (n - 1) / 2, total = Count(n) * n;
  Distances distances;
  Count left = all;
  for (std::size_t i = 0; i < values.size(); i++) {
    const Count pairs = i + 1 < values.size() ? std::min(left, Count(shares[i] * all)) : left;
    distances.push_back({values[i], pairs});
    left -= pairs;
  }
  const auto [low, unused] = entry(n, distances, (total - 1) / 2);
  const auto [high, rank] = entry(n, distances, total / 2);
  const MiddleValues m = found(n, distances, high);
  if (m.low != low || m.high != high || m.rank != rank || !m.finite) {
    std::printf("%d particles: got %x %x, rank %llu; expected %x %x, rank %llu\n", n, m.low, m.high, m.rank, low, high, rank);
    std::exit(1);
  }
}

}  // namespace

int main() {
  for (const int n : {66, 67, 1000, 65535, 65536, 65537, 100001, 1000000, kMostCounted - 1, kMostCounted}) {
    check(n, {1}, {0.25f});
    check(n, {0.3, 0.4, 0.3}, {0.25f, 0.5f, 4});
    check(n, {0.2, 0.2, 0.3, 0.3}, {0.5f, 0.50000006f, 0.5000001f, 0.6f});  // they differ in the last digit
    check(n, {0.5, 0.5}, {1, 1.5f});                                          // near the middle
    const double all = 0.5 * n * (n - 1), half = 0.5 * (0.5 * n * n - n);     // pairs below the middle
    if (n % 2 == 0 && n < 1000000) check(n, {half / all, 1}, {1, 3});         // the middle lies between the two
  }
  return 0;
}
