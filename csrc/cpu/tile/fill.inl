// How what a hidden layer computes is written down, in the form that the next product takes (Operand).
//
// Cost model: a store a vector where units stay float32. In pairs, a conversion and a store for two vectors; where a list
// leaves units out, the rows of a part wait in registers for the list of their panel, then a compression and a store each,
// and a load, half a conversion and half a store when the rows are complete. Gathered, a permutation a vector, and for
// the rows of a part some 30 instructions a vector to turn them: 1% of the product.
#pragma once

// Inlined into their callers, which gains 1 to 2%. Not under ThreadSanitizer: with GCC 12, large functions of this
// instrumentation counted bits of another mask, and one crashed the compiler; other builds show nothing of the kind.
#if defined(__SANITIZE_THREAD__)
#define VGF_FILL VGF_ALONE
#else
#define VGF_FILL VGF_INLINE
#endif

namespace vgf::cpu::VGF_ISA {

static VGF_INLINE int whole_panels(int width) { return (width + kPanel - 1) / kPanel * kPanel; }

// Lists units that are not zero in every row, panel by panel.
class Lister {
 public:
  VGF_INLINE void add(const V (&sum)[kPer], int first, Active& active) {
    unsigned on = 0;
    for (int v = 0; v < kPer; v++) on |= add_vector(sum[v], first + v * V::kWidth, active) << v * V::kWidth;
    active.on[first / kPanel] = static_cast<std::uint16_t>(on);
  }
  // The bits of those listed. The caller sets active.on.
  VGF_INLINE unsigned add_vector(V sum, int first, Active& active) {
    const unsigned bits = list_nonzero(sum, first, active.unit + count_);
    count_ += __builtin_popcount(bits);
    return bits;
  }
#if defined(VGF_HAS_LIST_BITS)
  VGF_INLINE void add_bits(unsigned on, int first, Active& active) {
    count_ += list_bits(on, first, active.unit + count_);
    active.on[first / kPanel] = static_cast<std::uint16_t>(on);
  }
#endif
  // Padding is zero but for a row that is not finite (0 * inf), and belongs to no unit.
  VGF_INLINE void finish(int width, Active& active) {
    while (count_ > 0 && active.unit[count_ - 1] >= width) count_--;
    if (width % kPanel) active.on[width / kPanel] &= (1u << width % kPanel) - 1;
    active.count = count_;
  }
  int count() const { return count_; }

 private:
  int count_ = 0;
};

// Where numbers go. The functions below take each of them once, from f(column)(row) -> V. Units that are not zero in
// every row are listed in `active`, where it is given; no value may be negative then, so that a sum over rows tells (NaN
// counts as active).
struct Filled {
  int rows, width;
  Operand form;
  float* out;
  ActiveUnits* active;
  float* work;  // row-major [rows][stride]
  long stride;
};

template <bool lists, bool rounds, class F>
static VGF_FILL void fill_single(const Filled& to, F f) {
  Lister whole, part[kMaxParts];
  const int n = parts(to.rows);
  for (int c = 0; c < whole_panels(to.width); c += kPanel) {
    V all[kPer], sum[kMaxParts][kPer];
    for (int v = 0; v < kPer; v++) {
      const auto number = f(c + v * V::kWidth);
      float* at = to.out + blocked(c) + v * V::kWidth;
      all[v] = V(0.0f);
      for (int p = 0; p < n; p++) {
        sum[p][v] = V(0.0f);
        for (int r = part_begin(to.rows, p); r < part_begin(to.rows, p + 1); r++) {
          const V y = number(r);
          (rounds ? rounded(y) : y).store(at + r * kPanel);
          sum[p][v] = sum[p][v] + y;
        }
        all[v] = all[v] + sum[p][v];
      }
    }
    if (!lists || !to.active) continue;
    for (int p = 0; p < n; p++) part[p].add(sum[p], c, to.active->part[p]);
    whole.add(all, c, to.active->whole);
  }
  if (!lists || !to.active) return;
  for (int p = 0; p < n; p++) part[p].finish(to.width, to.active->part[p]);
  whole.finish(to.width, to.active->whole);
}

#if defined(VGF_HAS_LIST_BITS)
// f(Constant<rows>, first row, list) for every part, which lists its units; then lists the tile's.
template <class F>
static VGF_INLINE void for_parts(const Filled& to, F f) {
  const int n = parts(to.rows);
  for (int p = 0; p < n; p++) {
    const int begin = part_begin(to.rows, p);
    with_rows<kPartRows>(part_begin(to.rows, p + 1) - begin,
                         [&](auto height) __attribute__((always_inline)) { f(height, begin, to.active->part[p]); });
  }
  Lister whole;
  for (int c = 0; c < whole_panels(to.width); c += kPanel) {
    unsigned on = 0;
    for (int p = 0; p < n; p++) on |= to.active->part[p].on[c / kPanel];
    whole.add_bits(on, c, to.active->whole);
  }
  whole.finish(to.width, to.active->whole);
}
#endif

#if defined(__AVX512BF16__)
// Of the lists only the tile's: no part of its rows is taken on its own.
template <bool lists, class F>
static VGF_FILL void fill_pairs(const Filled& to, F f) {
  Lister whole;
  const int end = whole_panels(to.width);
  for (int c = 0; c < end; c += 2 * kPanel) {
    const bool both = c + kPanel < end;
    const auto first = f(c), second = f(both ? c + kPanel : c);
    V sum[2][1] = {{V(0.0f)}, {V(0.0f)}};
    for (int r = 0; r < to.rows; r++) {
      const V x = first(r), y = both ? second(r) : V(0.0f);
      neighbours(first_lanes(x, to.width - c), first_lanes(y, to.width - c - kPanel))
          .store(to.out + r * kPanel + blocked(c / 2));
      sum[0][0] = sum[0][0] + x;
      sum[1][0] = sum[1][0] + y;
    }
    if (!lists || !to.active) continue;
    whole.add(sum[0], c, to.active->whole);
    if (both) whole.add(sum[1], c + kPanel, to.active->whole);
  }
  if (lists && to.active) whole.finish(to.width, to.active->whole);
}

// M rows from `begin` on, a part of the tile: one panel of units after the other, then the pairs.
template <int M, class F>
static VGF_INLINE void fill_part(const Filled& to, int begin, Active& active, F f) {
  float* work = to.work + begin * to.stride;
  Lister lister;
  for (int c = 0; c < whole_panels(to.width); c += kPanel) {
    const auto number = f(c);
    V y[kPartRows], sum[1] = {V(0.0f)};
#pragma GCC unroll 8
    for (int r = 0; r < M; r++) {
      y[r] = number(begin + r);
      sum[0] = sum[0] + y[r];
    }
    const int at = lister.count();
    lister.add(sum, c, active);
#pragma GCC unroll 8
    for (int r = 0; r < M; r++) compress(y[r], active.on[c / kPanel], work + r * to.stride + at);
  }
  lister.finish(to.width, active);
  for (int r = 0; r < M; r++)
    for (int unit = 0; unit < active.count; unit += 2 * kPanel) {
      const float* row = work + r * to.stride + unit;
      neighbours(first_lanes(V::load(row), active.count - unit),
                 first_lanes(V::load(row + kPanel), active.count - unit - kPanel))
          .store(to.out + (begin + r) * kPanel + blocked(unit / 2));
    }
}

template <class F>
static VGF_FILL void fill_active_pairs(const Filled& to, F f) {
  for_parts(to, [&](auto height, int begin, Active& active) __attribute__((always_inline)) {
    fill_part<height.value>(to, begin, active, f);
  });
}
#endif

#if defined(VGF_GATHERS)
// M rows from `begin` on, a part of the tile.
template <bool rounds, int M, class F>
static VGF_FILL void gather_part(const Filled& to, int begin, Active& active, F f) {
  float* out = to.out + static_cast<long>(begin) * whole_panels(to.width);
  Lister lister;
  for (int c = 0; c < whole_panels(to.width); c += kPanel) {
    unsigned on = 0;
    for (int v = 0; v < kPer; v++) {
      const int first = c + v * V::kWidth, at = lister.count();
      const auto number = f(first);
      V y[M], sum(0.0f);
#pragma GCC unroll 8
      for (int r = 0; r < M; r++) {
        y[r] = number(begin + r);
        sum = sum + y[r];
        if (rounds) y[r] = rounded(y[r]);
      }
      const unsigned bits = lister.add_vector(sum, first, active);
      gather(y, bits, out + at * M);
      on |= bits << v * V::kWidth;
    }
    active.on[c / kPanel] = static_cast<std::uint16_t>(on);
  }
  lister.finish(to.width, active);
}

template <bool rounds, class F>
static VGF_FILL void fill_gathered(const Filled& to, F f) {
  for_parts(to, [&](auto height, int begin, Active& active) __attribute__((always_inline)) {
    gather_part<rounds, height.value>(to, begin, active, f);
  });
}
#endif

// Lists: whether the numbers may have active units.
template <bool lists, class F>
static VGF_INLINE void fill(const Filled& to, F f) {
  switch (to.form) {
    case Operand::single: return fill_single<lists, false>(to, f);
    case Operand::rounded: return fill_single<lists, true>(to, f);
#if defined(__AVX512BF16__)
    case Operand::pairs: return fill_pairs<lists>(to, f);
    case Operand::active_pairs:
      if constexpr (lists) fill_active_pairs(to, f);
      return;
#endif
#if defined(VGF_GATHERS)
    case Operand::gathered:
      if constexpr (lists) fill_gathered<false>(to, f);
      return;
    case Operand::rounded_gathered:
      if constexpr (lists) fill_gathered<true>(to, f);
      return;
#endif
    default: return;  // no product here takes others
  }
}

}  // namespace vgf::cpu::VGF_ISA
