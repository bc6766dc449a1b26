// What the inner loops of all products are made of: sums in registers, for M rows and N vectors of columns.
#pragma once

// Inlined into its callers, an inner loop would share their general registers and spill its own.
#define VGF_ALONE __attribute__((noinline))

namespace vgf::cpu::VGF_ISA {

constexpr int kPer = kPanel / V::kWidth;

template <int M, int N>
static VGF_INLINE void start(const Gemm& g, int row, int vector, V (&sum)[M][N]) {
  const float* init = g.init ? g.init + row * g.init_stride + vector * V::kWidth : nullptr;
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) sum[m][n] = init ? V::load(init + m * g.init_stride + n * V::kWidth) : V(0.0f);
}

template <int M, int N>
static VGF_INLINE void finish(const Gemm& g, int row, int vector, const V (&sum)[M][N]) {
  float* c = g.c + row * g.c_stride + vector * V::kWidth;
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) {
      float* to = c + m * g.c_stride + n * V::kWidth;
      (g.adds ? V::load(to) + sum[m][n] : sum[m][n]).store(to);
    }
}

template <auto Value>
struct Constant {
  static constexpr auto value = Value;
};

// What one lane holds: a float32; a pair of bfloat16 multiplied and summed at once; or a pair of bfloat16 widened and
// multiplied one after the other, with two units of `a`.
enum class Lane { single, pair, widened };

// Where in `a` the numbers of k stand.
template <Lane lane>
static VGF_INLINE long place(unsigned k) {
  return blocked(lane == Lane::widened ? 2 * k : k);
}

// How a number of `a` reaches its multiply-adds: by a register, or as an operand of every one of them, which takes more
// loads but none of the ports that permute.
enum class Broadcast { by_register, as_operand };

// f(constant) for what suits permuted weights on this machine.
template <class F>
static VGF_INLINE void with_broadcast(F f) {
#if defined(VGF_HAS_BROADCAST_OPERANDS)
  if (broadcasts_operands()) return f(Constant<Broadcast::as_operand>{});
#endif
  f(Constant<Broadcast::by_register>{});
}

template <Lane lane, Broadcast broadcast = Broadcast::by_register, int M, int N>
static VGF_INLINE void accumulate(const float* a, const V (&b)[N], V (&sum)[M][N]) {
  if constexpr (lane == Lane::widened) {
    V half[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) half[n] = low_half(b[n]);
    accumulate<Lane::single, broadcast>(a, half, sum);
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) half[n] = high_half(b[n]);
    accumulate<Lane::single, broadcast>(a + 1, half, sum);
  } else if constexpr (broadcast == Broadcast::as_operand) {
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) {
        if constexpr (lane == Lane::pair)
          sum[m][n] = dot_with(a + m * kPanel, b[n], sum[m][n]);
        else
          sum[m][n] = fma_with(a + m * kPanel, b[n], sum[m][n]);
      }
  } else {
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      V x(a[m * kPanel]);
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) {
        if constexpr (lane == Lane::pair)
          sum[m][n] = dot(x, b[n], sum[m][n]);
        else
          sum[m][n] = fma(x, b[n], sum[m][n]);
      }
    }
  }
}

// Fetches one line of what lies ahead for every k that a pass takes: two cheap instructions. Where nothing is left, it
// touches a line that is there.
class Fetch {
 public:
  explicit VGF_INLINE Fetch(const Gemm& g)
      : ahead_(g.ahead), next_(ahead_ ? ahead_->next : g.w), end_(ahead_ ? ahead_->end : g.w) {}
  VGF_INLINE void line() {
    __builtin_prefetch(next_, 0, 2);
    next_ += next_ < end_ ? kPanel : 0;
  }
  VGF_INLINE void finish() {
    if (ahead_) ahead_->next = next_;
  }

 private:
  Ahead* ahead_;
  const float *next_, *end_;
};

// f(Constant<rows>), rows in [1, M].
template <int M, class F>
static VGF_INLINE void with_rows(int rows, F f) {
  if constexpr (M > 1) {
    if (rows < M) return with_rows<M - 1>(rows, f);
  }
  f(Constant<M>{});
}

// All rows in passes of near-equal height. Columns are outside, `step` at a time, so that their weights stay in L1 for all
// passes. f(first row, rows, first column, past the last)
template <class F>
static VGF_INLINE void in_passes(int rows, int begin, int end, int step, F f) {
  const int passes = (rows + kGemmRows - 1) / kGemmRows;
  if (passes == 1) step = end - begin;
  for (int column = begin; column < end; column += step)
    for (int pass = 0; pass < passes; pass++) {
      const int row = rows * pass / passes;
      f(row, rows * (pass + 1) / passes - row, column, column + step < end ? column + step : end);
    }
}

}  // namespace vgf::cpu::VGF_ISA
