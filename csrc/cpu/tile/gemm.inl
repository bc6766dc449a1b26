// The product of a tile with packed weights, over the units that are switched on.
//
// Cost model, a pass of M rows x P panels: per k one load a weight vector and one broadcast a row feed M * P *
// (16 / width) multiply-adds. AVX-512, M = 10, P = 2: 12 loads and 20 fma, so the two fma ports are the limit
// (10 cycles); weights stream at 128 bytes per 10 cycles, which L2 and a fast L3 sustain.
//
// Leaving out k costs nothing: the loop follows an index list. Leaving out columns packs the wanted ones side by side:
// an output vector takes up to a vector's width of wanted columns from two neighbouring column vectors, by one
// two-source permutation a vector and k. Between 50% and 66% of columns wanted, three vectors become two. The plan is
// made once for all columns of a layer: made slice by slice, every slice would round up to whole passes.
#pragma once

// Inlined into its callers, an inner loop would share their general registers and spill its own.
#define VGF_ALONE __attribute__((noinline))

namespace vgf::cpu::VGF_ISA {

constexpr int kPer = kPanel / V::kWidth;
// Where the column vector `vector` of the weights starts.
static VGF_INLINE const float* column_vector(const Gemm& g, int vector) {
  return g.w + vector / kPer * g.panel_stride + vector % kPer * V::kWidth;
}

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

template <Lane lane, int M, int P>
static VGF_ALONE void gemm_pass(const Gemm& g, int row, int panel) {
  constexpr int N = P * kPer;
  const float* w[P];
  for (int p = 0; p < P; p++) w[p] = g.w + (panel + p) * g.panel_stride;
  V sum[M][N];
  start(g, row, panel * kPer, sum);
  const float* a = g.a + row * kPanel;
  const long k_stride = g.k_stride;
  Fetch fetch(g);
  for (int i = 0; i < g.k.count; i++) {
    const unsigned k = g.k.unit[i];
    const long at = static_cast<long>(k) * k_stride;
    fetch.line();
    V b[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) b[n] = V::load(w[n / kPer] + at + n % kPer * V::kWidth);
    accumulate<lane>(a + place<lane>(k), b, sum);
  }
  fetch.finish();
  finish(g, row, panel * kPer, sum);
}

template <Lane lane, Broadcast broadcast, int M, int N>
static VGF_ALONE void packed_pass(const Gemm& g, int row, int at) {
  const float *low[N], *high[N];
  V::Select select[N];
  for (int n = 0; n < N; n++) {
    const ColumnPlan::Draw& draw = g.plan->pack[at + n];
    low[n] = column_vector(g, draw.from);
    // the last column vector has no neighbour; nothing is taken from the second source then
    high[n] = draw.from + 1 == g.plan->all ? low[n] : column_vector(g, draw.from + 1);
    select[n] = V::selection(draw.select);
  }
  V sum[M][N];
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) sum[m][n] = V(0.0f);
  const float* a = g.a + row * kPanel;
  Fetch fetch(g);
  for (int i = 0; i < g.k.count; i++) {
    const unsigned k = g.k.unit[i];
    const long at = static_cast<long>(k) * kPanel;
    fetch.line();
    V b[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) b[n] = permute(V::load(low[n] + at), V::load(high[n] + at), select[n]);
    accumulate<lane, broadcast>(a + place<lane>(k), b, sum);
  }
  fetch.finish();
  finish(g, row, at, sum);
}

#if defined(VGF_GATHERS)
// Whether the units of a list follow one another, from the first of a panel on.
static VGF_INLINE bool dense(const Active& k) {
  return k.count > 0 && k.unit[0] % kPanel == 0 && k.unit[k.count - 1] - k.unit[0] == k.count - 1;
}

// What gemm_pass does where the list is dense, without following it.
template <int M>
static VGF_ALONE void dense_pass(const Gemm& g, int row, int panel) {
  const int first = g.k.unit[0];
  const float* w = g.w + panel * g.panel_stride + first * g.k_stride;
  const float* a = g.a + row * kPanel + blocked(first);
  V sum[M][kPer];
  start(g, row, panel * kPer, sum);
  const auto step = [&](int k) __attribute__((always_inline)) {
    V b[kPer];
#pragma GCC unroll 16
    for (int n = 0; n < kPer; n++) b[n] = V::load(w + n * V::kWidth);
    accumulate<Lane::single>(a + k, b, sum);
    w += g.k_stride;
  };
  Fetch fetch(g);
  int left = g.k.count;
  for (; left >= kPanel; left -= kPanel, a += kBlockRows * kPanel) {
#pragma GCC unroll 4
    for (int line = 0; line < 4; line++) fetch.line();
#pragma GCC unroll 16
    for (int k = 0; k < kPanel; k++) step(k);
  }
  for (int k = 0; k < left; k++) step(k);
  fetch.finish();
  finish(g, row, panel * kPer, sum);
}
#endif

// f(Constant<rows>), rows in [1, M].
template <int M, class F>
static VGF_INLINE void with_rows(int rows, F f) {
  if constexpr (M > 1) {
    if (rows < M) return with_rows<M - 1>(rows, f);
  }
  f(Constant<M>{});
}

template <Lane lane>
static void gemm_panels_of(const Gemm& g, int rows, int row, int panel, int panels) {
  with_rows<kGemmRows>(rows, [&](auto height) {
    constexpr int M = height.value, P = gemm_panels(M);
    int p = 0;
#if defined(VGF_GATHERS)
    if constexpr (lane == Lane::single)
      if (dense(g.k))
        for (; p < panels; p++) dense_pass<M>(g, row, panel + p);
#endif
    for (; p + P <= panels; p += P) gemm_pass<lane, M, P>(g, row, panel + p);
    if constexpr (P > 2)
      for (; p + 2 <= panels; p += 2) gemm_pass<lane, M, 2>(g, row, panel + p);
    if constexpr (P > 1)
      for (; p < panels; p++) gemm_pass<lane, M, 1>(g, row, panel + p);
  });
}

template <Lane lane>
static void packed_vectors(const Gemm& g, int rows, int row, int begin, int end) {
  with_rows<kGemmRows>(rows, [&](auto height) {
    with_broadcast([&](auto broadcast) {
      constexpr int M = height.value, N = packed_width(M);
      int n = begin;
      for (; n + N <= end; n += N) packed_pass<lane, broadcast.value, M, N>(g, row, n);
      if constexpr (N > 1)
        for (; n < end; n++) packed_pass<lane, broadcast.value, M, 1>(g, row, n);
    });
  });
}

// The first packed vector at or past a panel, in whole passes.
static VGF_INLINE int packed_at(const ColumnPlan& plan, int panel) {
  constexpr int kPass = 4;  // a multiple of every packed_width
  int n = 0;
  while (n < plan.packed && plan.pack[n].from < panel * kPer) n += kPass;
  return n < plan.packed ? n : plan.packed;
}

template <Lane lane>
static void gemm_span(const Gemm& g) {
  const bool packs = g.plan && g.plan->pays;
  const int begin = packs ? packed_at(*g.plan, g.begin) : g.begin, end = packs ? packed_at(*g.plan, g.end) : g.end;
  // Rows in passes of near-equal height; columns outside, so that a panel stays in L1 for all passes.
  const int passes = (g.rows + kGemmRows - 1) / kGemmRows;
  const int step = passes == 1 ? end - begin : 1;
  for (int column = begin; column < end; column += step)
    for (int pass = 0; pass < passes; pass++) {
      const int row = g.rows * pass / passes, rows = g.rows * (pass + 1) / passes - row;
      if (packs)
        packed_vectors<lane>(g, rows, row, column, column + step);
      else
        gemm_panels_of<lane>(g, rows, row, column, step);
    }
}

// A sum of thousands of terms, one after the other, rounds more than a library's, which adds up sums of fewer: so do these.
// Spans are of units, not of those that are on, so what is left out changes no bit. (Of bfloat16 the factors round more.)
// f(product over some of the list, from which place in it on)
template <class F>
static VGF_INLINE void in_spans(const Gemm& g, F f) {
  constexpr int kSpan = 512;
  const Active& k = g.k;
  if (k.count == 0 || k.unit[k.count - 1] < kSpan) return f(g, 0);
  Gemm span = g;
  for (int first = 0, bound = kSpan; first < k.count; bound += kSpan) {
    int end = first;
    while (end < k.count && k.unit[end] < bound) end++;
    span.k = {end - first, k.unit + first, nullptr};
    f(span, first);
    span.adds = true;
    span.init = nullptr;
    first = end;
  }
}

template <Lane lane>
static void gemm(const Gemm& g) {
  if (lane == Lane::single)
    in_spans(g, [](const Gemm& span, int) { gemm_span<lane>(span); });
  else
    gemm_span<lane>(g);
}

}  // namespace vgf::cpu::VGF_ISA
