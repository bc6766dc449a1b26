// The wanted columns of a product, computed side by side, and how they get to their places afterwards.
//
// A packed vector takes up to a vector's width of wanted columns from two neighbouring column vectors. Between 50% and 66% of
// columns wanted, three vectors become two. The plan is made once for all columns of a layer: made slice by slice, every
// slice would round up to whole passes.
//
// Cost model: a two-source permutation a packed vector and k; a few instructions a wanted column to plan, 1% of the product; a
// permutation a vector and row to unpack.
#pragma once

namespace vgf::cpu::VGF_ISA {

static void plan_columns(const Active& wanted, int panels, ColumnPlan& plan) {
  constexpr int W = V::kWidth;
  plan.all = panels * kPanel / W;
  plan.packed = 0;
  const int most = static_cast<int>(kPackingPays * plan.all);
  plan.pays = plan.all <= kMaxPacked && wanted.count <= most * W;
  if (!plan.pays) return;
  int count[kMaxPacked + 1];  // of wanted columns in each vector
  for (int v = 0; v < plan.all; v++) {
    const unsigned bits = (wanted.on[v * W / kPanel] >> v * W % kPanel) & ((1u << W) - 1);
    count[v] = __builtin_popcount(bits);
    plan.unpack[v].from = 0;
    ranks(bits, plan.unpack[v].select);
  }
  count[plan.all] = 0;
  int before = 0;  // columns of vector v in the packed vector before
  for (int v = 0, i = 0; i < wanted.count; v++) {
    const int first = count[v] - before;
    if (first == 0) {
      before = 0;
      continue;
    }
    if (plan.packed == most) {
      plan.pays = false;
      return;
    }
    const int taken = first + count[v + 1] < W ? first + count[v + 1] : W;
    ColumnPlan::Draw& draw = plan.pack[plan.packed];
    draw.from = v;
    for (int place = 0; place < W; place++) draw.select[place] = place < taken ? wanted.unit[i + place] - v * W : 0;
    // The wanted columns of one vector stand side by side among the packed ones.
    const int at = plan.packed++ * W;
    if (before == 0) plan.unpack[v].from = at;
    if (taken > first) plan.unpack[v + 1].from = at + first;
    before = taken - first;
    i += taken;
  }
}

// Column vector v of a row whose wanted columns lie packed; the others are zero.
static VGF_INLINE V unpacked(const ColumnPlan& plan, const float* row, int v) {
  const ColumnPlan::Draw& draw = plan.unpack[v];
  return permute(V::load(row + draw.from), V(0.0f), V::selection(draw.select));
}

// In place, from the right: a column is never left of where it was packed.
static void unpack_columns(const ColumnPlan& plan, int rows, float* c, long c_stride) {
  for (int r = 0; r < rows; r++)
    for (int v = plan.all - 1; v >= 0; v--) unpacked(plan, c + r * c_stride, v).store(c + r * c_stride + v * V::kWidth);
}

// Where the column vector `vector` of the weights starts.
static VGF_INLINE const float* column_vector(const Gemm& g, int vector) {
  return g.w + vector / kPer * g.panel_stride + vector % kPer * V::kWidth;
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
    const long row_at = static_cast<long>(k) * kPanel;
    fetch.line();
    V b[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) b[n] = permute(V::load(low[n] + row_at), V::load(high[n] + row_at), select[n]);
    accumulate<lane, broadcast>(a + place<lane>(k), b, sum);
  }
  fetch.finish();
  finish(g, row, at, sum);
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

constexpr int kPass = 4;  // packed vectors of whole passes: a multiple of every packed_width

// The first packed vector at or past a panel, in whole passes.
static VGF_INLINE int packed_at(const ColumnPlan& plan, int panel) {
  int n = 0;
  while (n < plan.packed && plan.pack[n].from < panel * kPer) n += kPass;
  return n < plan.packed ? n : plan.packed;
}

}  // namespace vgf::cpu::VGF_ISA
