// Which columns of a product are computed side by side, and how they get to their places afterwards.
//
// Cost model: a few instructions a wanted column to plan, a permutation a vector and row to unpack; 2% of the product.
#pragma once

namespace vgf::cpu::VGF_ISA {

static void plan_columns(const Active& wanted, int panels, ColumnPlan& plan) {
  plan.all = panels * kPanel / V::kWidth;
  plan.packed = 0;
  const int most = static_cast<int>(kPackingPays * plan.all);
  plan.pays = plan.all <= kMaxPacked && wanted.count <= most * V::kWidth;
  if (!plan.pays) return;
  for (int v = 0; v < plan.all; v++) {
    plan.unpack[v].from = 0;
    for (int place = 0; place < V::kWidth; place++) plan.unpack[v].select[place] = V::kWidth;  // the first zero
  }
  for (int i = 0; i < wanted.count; plan.packed++) {
    if (plan.packed == most) {
      plan.pays = false;
      return;
    }
    ColumnPlan::Draw& draw = plan.pack[plan.packed];
    const int* unit = wanted.unit + i;
    const int left = wanted.count - i < V::kWidth ? wanted.count - i : V::kWidth;
    draw.from = unit[0] / V::kWidth;
    const int first = draw.from * V::kWidth, second = first + V::kWidth, end = second + V::kWidth;
    int of_first = 0, taken = 0;
    for (int place = 0; place < left; place++) {
      of_first += unit[place] < second;
      taken += unit[place] < end;
    }
    for (int place = 0; place < V::kWidth; place++) draw.select[place] = place < taken ? unit[place] - first : 0;
    // The wanted columns of one vector stand side by side among the packed ones.
    const int at = plan.packed * V::kWidth;
    ColumnPlan::Draw* back = plan.unpack + draw.from;
    if (i == 0 || unit[-1] < first) back->from = at;
    for (int place = 0; place < of_first; place++) back->select[unit[place] - first] = at + place - back->from;
    if (taken > of_first) back[1].from = at + of_first;
    for (int place = of_first; place < taken; place++) back[1].select[unit[place] - second] = place - of_first;
    i += taken;
  }
}

// In place, from the right: a column is never left of where it was packed.
static void unpack_columns(const ColumnPlan& plan, int rows, float* c, long c_stride) {
  for (int v = plan.all - 1; v >= 0; v--) {
    const V::Select select = V::selection(plan.unpack[v].select);
    for (int r = 0; r < rows; r++) {
      float* row = c + r * c_stride;
      permute(V::load(row + plan.unpack[v].from), V(0.0f), select).store(row + v * V::kWidth);
    }
  }
}

}  // namespace vgf::cpu::VGF_ISA
