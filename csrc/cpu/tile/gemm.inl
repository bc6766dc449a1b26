// The product of a tile with packed weights, over the units that are switched on.
//
// Cost model, a pass of M rows x P panels: per k one load a weight vector and one broadcast a row feed M * P *
// (16 / width) multiply-adds. AVX-512, M = 10, P = 2: 12 loads and 20 fma, so the two fma ports are the limit
// (10 cycles); weights stream at 128 bytes per 10 cycles, which L2 and a fast L3 sustain.
//
// Leaving out k costs nothing: the loop follows an index list. Leaving out columns packs the wanted ones side by side:
// an output vector takes up to a vector's width of wanted columns from two neighbouring column vectors, by one
// two-source permutation a vector and k. Between 50% and 66% of columns wanted, three vectors become two.
#pragma once

// Inlined into its callers, an inner loop would share their general registers and spill its own.
#define VGF_ALONE __attribute__((noinline))

namespace vgf::cpu::VGF_ISA {

constexpr int kPer = kPanel / V::kWidth;
constexpr int kMaxPacked = 128;  // column vectors; wider layers keep all their columns

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
    for (int n = 0; n < N; n++) sum[m][n].store(c + m * g.c_stride + n * V::kWidth);
}

// What one lane holds: a float32; a pair of bfloat16 multiplied and summed at once; or a pair of bfloat16 widened and
// multiplied one after the other, with two rows of `a`.
enum class Lane { single, pair, widened };

// Floats of `a` that one k takes.
template <Lane lane>
constexpr long kTaken = lane == Lane::widened ? 2 * kRowStride : kRowStride;

template <Lane lane, int M, int N>
static VGF_INLINE void accumulate(const float* a, const V (&b)[N], V (&sum)[M][N]) {
  if constexpr (lane == Lane::widened) {
    V half[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) half[n] = low_half(b[n]);
    accumulate<Lane::single>(a, half, sum);
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) half[n] = high_half(b[n]);
    accumulate<Lane::single>(a + kRowStride, half, sum);
  } else {
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      V x(a[m]);
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

template <Lane lane, int M, int P>
static VGF_ALONE void gemm_pass(const Gemm& g, int row, int panel) {
  constexpr int N = P * kPer;
  const float* w[P];
  for (int p = 0; p < P; p++) w[p] = g.w + (panel + p) * g.panel_stride;
  V sum[M][N];
  start(g, row, panel * kPer, sum);
  for (int i = 0; i < g.k.count; i++) {
    const long k = g.k.unit[i];
    V b[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) b[n] = V::load(w[n / kPer] + k * kPanel + n % kPer * V::kWidth);
    accumulate<lane>(g.a + k * kTaken<lane> + row, b, sum);
  }
  finish(g, row, panel * kPer, sum);
}

// An output vector of a product that leaves out columns.
struct Packing {
  int vector;                // the first of the two column vectors it takes from
  int select[V::kWidth];     // which of their 2 * width columns stands in each place
};

template <Lane lane, int M, int N>
static VGF_ALONE void packed_pass(const Gemm& g, int row, const Packing* packing, int at) {
  const float *low[N], *high[N];
  V::Select select[N];
  for (int n = 0; n < N; n++) {
    low[n] = column_vector(g, packing[n].vector);
    // the last column vector has no neighbour; nothing is taken from the second source then
    const bool last = packing[n].vector + 1 == g.panels * kPer;
    high[n] = last ? low[n] : column_vector(g, packing[n].vector + 1);
    select[n] = V::selection(packing[n].select);
  }
  V sum[M][N];
#pragma GCC unroll 16
  for (int m = 0; m < M; m++)
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) sum[m][n] = V(0.0f);
  for (int i = 0; i < g.k.count; i++) {
    const long k = g.k.unit[i];
    V b[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) b[n] = permute(V::load(low[n] + k * kPanel), V::load(high[n] + k * kPanel), select[n]);
    accumulate<lane>(g.a + k * kTaken<lane> + row, b, sum);
  }
  finish(g, row, at, sum);
}

template <int M>
struct Rows {
  static constexpr int value = M;
};

// f(Rows<rows>), rows in [1, M].
template <int M, class F>
static VGF_INLINE void with_rows(int rows, F f) {
  if constexpr (M > 1) {
    if (rows < M) return with_rows<M - 1>(rows, f);
  }
  f(Rows<M>{});
}

template <Lane lane>
static void gemm_panels_of(const Gemm& g, int rows, int row, int panel, int panels) {
  with_rows<kGemmRows>(rows, [&](auto height) {
    constexpr int M = height.value, P = gemm_panels(M);
    int p = 0;
    for (; p + P <= panels; p += P) gemm_pass<lane, M, P>(g, row, panel + p);
    if constexpr (P > 2)
      for (; p + 2 <= panels; p += 2) gemm_pass<lane, M, 2>(g, row, panel + p);
    if constexpr (P > 1)
      for (; p < panels; p++) gemm_pass<lane, M, 1>(g, row, panel + p);
  });
}

template <Lane lane>
static void packed_vectors(const Gemm& g, int rows, int row, const Packing* packing, int count) {
  with_rows<kGemmRows>(rows, [&](auto height) {
    constexpr int M = height.value, N = packed_width(M);
    int n = 0;
    for (; n + N <= count; n += N) packed_pass<lane, M, N>(g, row, packing + n, n);
    if constexpr (N > 1)
      for (; n < count; n++) packed_pass<lane, M, 1>(g, row, packing + n, n);
  });
}

// Spreads packed columns to their places, one row in place from the right: a place is never left of its source.
static VGF_INLINE void spread(const Packing* spreading, int vectors, float* row) {
  for (int v = vectors - 1; v >= 0; v--)
    permute(V::load(row + spreading[v].vector), V(0.0f), V::selection(spreading[v].select)).store(row + v * V::kWidth);
}

// False where too many columns are wanted for packing to pay.
template <Lane lane>
static bool gemm_packed(const Gemm& g) {
  const Active& columns = *g.columns;
  const int all = g.panels * kPer;
  if (all > kMaxPacked) return false;
  Packing packing[kMaxPacked], spreading[kMaxPacked];  // of the latter, `vector` is where a row's source starts
  for (int v = 0; v < all; v++) {
    spreading[v].vector = 0;
    for (int slot = 0; slot < V::kWidth; slot++) spreading[v].select[slot] = V::kWidth;  // the first zero
  }
  const int limit = static_cast<int>(kPackingPays * all);
  const auto column = [&](int i) { return columns.unit[i] - g.first_column; };
  int vectors = 0;
  for (int i = 0; i < columns.count; vectors++) {
    if (vectors == limit) return false;
    Packing& p = packing[vectors];
    p.vector = column(i) / V::kWidth;
    const int begin = p.vector * V::kWidth;
    int slot = 0;
    for (; slot < V::kWidth && i < columns.count && column(i) < begin + 2 * V::kWidth; slot++, i++) {
      p.select[slot] = column(i) - begin;
      // The wanted columns of one vector stand side by side in the packed row.
      Packing& to = spreading[column(i) / V::kWidth];
      const int place = vectors * V::kWidth + slot;
      if (i == 0 || column(i - 1) / V::kWidth != column(i) / V::kWidth) to.vector = place;
      to.select[column(i) % V::kWidth] = place - to.vector;
    }
    for (; slot < V::kWidth; slot++) p.select[slot] = 0;
  }
  const int passes = (g.rows + kGemmRows - 1) / kGemmRows;
  for (int pass = 0; pass < passes; pass++) {
    const int row = g.rows * pass / passes, end = g.rows * (pass + 1) / passes;
    packed_vectors<lane>(g, end - row, row, packing, vectors);
  }
  for (int r = 0; r < g.rows; r++) spread(spreading, all, g.c + r * g.c_stride);
  return true;
}

template <Lane lane>
static void gemm(const Gemm& g) {
  if (g.columns && gemm_packed<lane>(g)) return;
  // Rows in passes of near-equal height; panels outside, so that a panel stays in L1 for all passes.
  const int passes = (g.rows + kGemmRows - 1) / kGemmRows;
  const int step = passes == 1 ? g.panels : 1;
  for (int panel = 0; panel < g.panels; panel += step)
    for (int pass = 0; pass < passes; pass++) {
      const int row = g.rows * pass / passes, end = g.rows * (pass + 1) / passes;
      gemm_panels_of<lane>(g, end - row, row, panel, step);
    }
}

}  // namespace vgf::cpu::VGF_ISA
