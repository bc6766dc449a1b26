// The products on AMX tiles (csrc/cpu/isa/avx512amx.cpp), their instructions in plain C++, against sums of integers, which
// bfloat16 and float32 hold exactly. What no product may read is NaN, what none may write is looked at.
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "cpu/kernels.hpp"

namespace vgf::cpu::avx512amx {
extern const Bf16Products kProducts;
}

namespace {

using namespace vgf::cpu;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kUntouched = 12345;

// A pair of small integers in bfloat16, as one lane holds it.
float pair_of(int first, int second) {
  const auto half = [](int i) {
    const float value = static_cast<float>(i);
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits >> 16;
  };
  const std::uint32_t bits = half(first) | half(second) << 16;
  float lane;
  std::memcpy(&lane, &bits, sizeof lane);
  return lane;
}

// init_stride < 0: no init
void check(void (*product)(const Gemm&), int rows, int pairs, int begin, int end, int all, long init_stride) {
  std::mt19937 random(rows + 100 * pairs);
  const auto number = [&] { return static_cast<int>(random() % 17) - 8; };
  const long columns = long{all} * kPanel, c_stride = columns + kPanel;
  std::vector<int> a(rows * 2 * pairs), w(2 * pairs * columns), init(rows * columns);
  for (auto* numbers : {&a, &w, &init})
    for (int& i : *numbers) i = number();

  std::vector<float> a_lanes(blocked((pairs / kPanel + 1) * kPanel), kNaN), w_lanes(all * (pairs + 1L) * kPanel, kNaN);
  for (int row = 0; row < rows; row++)
    for (int p = 0; p < pairs; p++)
      a_lanes[blocked(p) + row * kPanel] = pair_of(a[row * 2 * pairs + 2 * p], a[row * 2 * pairs + 2 * p + 1]);
  for (long c = begin * kPanel; c < end * kPanel; c++)
    for (int p = 0; p < pairs; p++)
      w_lanes[c / kPanel * (pairs + 1) * kPanel + p * kPanel + c % kPanel] =
          pair_of(w[2 * p * columns + c], w[(2 * p + 1) * columns + c]);
  const std::vector<float> init_numbers(init.begin(), init.end());
  std::vector<float> result(rows * c_stride, kUntouched);

  Gemm g{};
  g.a = a_lanes.data();
  g.rows = rows;
  g.k.count = pairs;
  g.w = w_lanes.data();
  g.panel_stride = (pairs + 1L) * kPanel;
  g.k_stride = kPanel;
  g.begin = begin;
  g.end = end;
  g.init = init_stride < 0 ? nullptr : init_numbers.data();
  g.init_stride = init_stride;
  g.c = result.data();
  g.c_stride = c_stride;
  product(g);

  for (int row = 0; row < rows; row++)
    for (long c = 0; c < c_stride; c++) {
      float wanted = kUntouched;
      if (c >= begin * kPanel && c < end * kPanel) {
        int sum = init_stride < 0 ? 0 : init[row * init_stride + c];
        for (int k = 0; k < 2 * pairs; k++) sum += a[row * 2 * pairs + k] * w[k * columns + c];
        wanted = static_cast<float>(sum);
      }
      CHECK(result[row * c_stride + c] == wanted, "%d rows, %d pairs, row %d, column %ld: %g, not %g", rows, pairs, row, c,
            result[row * c_stride + c], wanted);
    }
}

}  // namespace

int main() {
  for (const auto product : {avx512amx::kProducts.forward, avx512amx::kProducts.backward})
    for (int rows = 1; rows <= kTileRows; rows++)
      for (int pairs : {1, 15, 16, 17, 40}) {
        check(product, rows, pairs, 0, 1, 1, -1);
        check(product, rows, pairs, 0, 4, 4, 0);
        check(product, rows, pairs, 1, 7, 8, 8L * kPanel);
      }
}
