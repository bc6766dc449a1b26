// Norm and activation of a tile, forward and backward, between two products.
//
// Cost model: a few dozen instructions per 16 values against 10 x 512 multiply-adds for each of them in the products:
// 2 to 4% for relu, more for activations with an exponential. Rows stay rows on the way from a product to the next: a
// transposition of 16 x 16 would cost as much as all the rest for relu.
#pragma once

#include <type_traits>

#include "../../math/activations.hpp"
#include "fill.inl"

namespace vgf::cpu::VGF_ISA {

// 1 for the first kPanel entries, then 0: kMask + kPanel - n has ones in the first n places.
alignas(64) static const float kMask[2 * kPanel] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// Calls f(column) for every whole vector of [0, padded width).
template <class F>
static VGF_INLINE void for_columns(int width, F f) {
  for (int c = 0; c < whole_panels(width); c += V::kWidth) f(c);
}

constexpr int kSums = 4;  // running sums side by side, to hide the latency of an addition

static VGF_INLINE V total(const V (&sum)[kSums]) { return (sum[0] + sum[1]) + (sum[2] + sum[3]); }

// Calls f(column, i) for every vector of [0, width), a multiple of the vector's: i is the running sum that it goes to.
template <class F>
static VGF_INLINE void for_sums(int width, F f) {
  int c = 0;
  for (; c + kSums * V::kWidth <= width; c += kSums * V::kWidth)
#pragma GCC unroll 4
    for (int i = 0; i < kSums; i++) f(c + i * V::kWidth, i);
  for (; c < width; c += V::kWidth) f(c, 0);
}

// The sum of f(column) over [0, width).
template <class F>
static VGF_INLINE V sum_columns(int width, F f) {
  V sum[kSums] = {V(0.0f), V(0.0f), V(0.0f), V(0.0f)};
  for_sums(width, [&](int c, int i) { sum[i] = sum[i] + f(c); });
  return total(sum);
}

// Mean and 1/std of the first `width` of z, in two passes; columns past them hold anything finite.
static VGF_INLINE void moments(const float* z, int width, float eps, float* mean, float* rstd) {
  const int whole = width / kPanel * kPanel;
  const float* mask = kMask + kPanel - (width - whole);
  V sum = sum_columns(whole, [&](int c) { return V::load(z + c); });
  for (int c = whole; c < width; c += V::kWidth) sum = fma(V::load(mask + c - whole), V::load(z + c), sum);
  const float m = sum_lanes(sum) / width;
  V square = sum_columns(whole, [&](int c) {
    V d = V::load(z + c) - V(m);
    return d * d;
  });
  for (int c = whole; c < width; c += V::kWidth) {
    V d = V::load(mask + c - whole) * (V::load(z + c) - V(m));
    square = fma(d, d, square);
  }
  *mean = m;
  *rstd = 1.0f / __builtin_sqrtf(sum_lanes(square) / width + eps);
}

template <class Act>
static void forward(const HiddenForward& h) {
  constexpr bool lists = std::is_same_v<Act, math::Relu>;
  const Filled to{h.rows, h.width, h.form, h.out, h.active, h.work, h.stride};
  if (h.norm == Norm::none) {
    fill<lists>(to, [&](int c) { return [&h, c](int r) { return Act::apply(V::load(h.z + r * h.stride + c)); }; });
  } else if (h.norm == Norm::pre) {
    for (int r = 0; r < h.rows; r++) moments(h.z + r * h.stride, h.width, h.eps, h.mean + r, h.rstd + r);
    fill<lists>(to, [&](int c) {
      return [&h, c, scale = V::load(h.scale + c), bias = V::load(h.bias + c)](int r) {
        float* z = h.z + r * h.stride + c;
        const V normalised = (V::load(z) - V(h.mean[r])) * V(h.rstd[r]);
        normalised.store(z);
        return Act::apply(fma(normalised, scale, bias));
      };
    });
  } else {
    for (int r = 0; r < h.rows; r++) {
      float* y = h.work + r * h.stride;
      for_columns(h.width, [&](int c) { Act::apply(V::load(h.z + r * h.stride + c)).store(y + c); });
      moments(y, h.width, h.eps, h.mean + r, h.rstd + r);
    }
    fill<false>(to, [&](int c) {
      return [&h, c, scale = V::load(h.scale + c), bias = V::load(h.bias + c)](int r) {
        return fma((V::load(h.work + r * h.stride + c) - V(h.mean[r])) * V(h.rstd[r]), scale, bias);
      };
    });
  }
}

// Layer norm backward: d = rstd (g - mean(g) - y mean(g y)), y the normalised values, g = dy * scale.
// The padding adds nothing to the means, because scale is zero there.
template <class Act>
static void backward(const HiddenBackward& h) {
  const Filled to{h.rows, h.width, h.form, h.out, nullptr, nullptr, 0};
  const auto dy = [&](int r, int c) {
    const float* row = h.dy + r * h.dy_stride;
#if defined(VGF_PACKS_COLUMNS)
    if (h.plan) return unpacked(*h.plan, row, c / V::kWidth);
#endif
    return V::load(row + c);
  };
  const auto z = [&](int r, int c) { return V::load(h.z + r * h.stride + c); };
  if (h.norm == Norm::none) {
    fill<false>(to, [&](int c) { return [&, c](int r) { return dy(r, c) * Act::slope(z(r, c)); }; });
    return;
  }
  const bool pre = h.norm == Norm::pre;
  const auto normalised = [&](int r, int c) {
    return pre ? z(r, c) : (Act::apply(z(r, c)) - V(h.mean[r])) * V(h.rstd[r]);
  };
  float mean_g[kTileRows], mean_gy[kTileRows];
  for (int r = 0; r < h.rows; r++) {
    V sum_g[kSums] = {V(0.0f), V(0.0f), V(0.0f), V(0.0f)}, sum_gy[kSums] = {V(0.0f), V(0.0f), V(0.0f), V(0.0f)};
    for_sums(whole_panels(h.width), [&](int c, int i) {
      V scale = V::load(h.scale + c), y = normalised(r, c), g = dy(r, c) * scale;
      if (pre) g = g * Act::slope(fma(y, scale, V::load(h.bias + c)));
      g.store(h.work + r * h.stride + c);
      sum_g[i] = sum_g[i] + g;
      sum_gy[i] = fma(g, y, sum_gy[i]);
    });
    mean_g[r] = sum_lanes(total(sum_g)) / h.width;
    mean_gy[r] = sum_lanes(total(sum_gy)) / h.width;
  }
  fill<false>(to, [&](int c) {
    return [&, c](int r) {
      const V g = V::load(h.work + r * h.stride + c);
      const V d = V(h.rstd[r]) * (g - V(mean_g[r]) - normalised(r, c) * V(mean_gy[r]));
      return pre ? d : d * Act::slope(z(r, c));
    };
  });
}

template <class F>
static void with_activation(Activation activation, F f) {
  switch (activation) {
    case Activation::relu: return f(math::Relu{});
    case Activation::gelu: return f(math::Gelu{});
    case Activation::gelu_erf: return f(math::GeluErf{});
    case Activation::silu: return f(math::Silu{});
    case Activation::mish: return f(math::Mish{});
    case Activation::tanh: return f(math::Tanh{});
    case Activation::elu: return f(math::Elu{});
  }
}

static void hidden_forward(const HiddenForward& h) {
  with_activation(h.activation, [&](auto act) { forward<decltype(act)>(h); });
}

static void hidden_backward(const HiddenBackward& h) {
  with_activation(h.activation, [&](auto act) { backward<decltype(act)>(h); });
}

static void head(const float* a, int rows, int depth, const float* w, float b, float* out) {
  for (int r = 0; r < rows; r++)
    out[r] = b + sum_lanes(sum_columns(whole_panels(depth), [&](int c) {
               return V::load(a + blocked(c) + r * kPanel) * V::load(w + c);
             }));
}

}  // namespace vgf::cpu::VGF_ISA
