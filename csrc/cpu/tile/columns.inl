// Which columns of a product are computed side by side, and how they get to their places afterwards.
//
// Cost model: a few instructions a wanted column to plan, 1% of the product; a permutation a vector and row to unpack.
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

}  // namespace vgf::cpu::VGF_ISA
