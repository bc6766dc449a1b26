// Activations and their derivatives: `apply` gives act(z), `slope` gives act'(z). NaN passes through `apply`.
//
// exp(-87) is the least that there is, and 1 / exp(88): no zero. So where one of them stands for nothing, what it is multiplied with
// is kept within +-100, where float32 knows no difference any more.
#pragma once

#include "elementary.hpp"

namespace vgf::math {

constexpr float kFar = 100.0f;
template <class V>
VGF_INLINE V not_below(V z) {
  return max(V(-kFar), z);
}
template <class V>
VGF_INLINE V within(V z) {
  return min(V(kFar), not_below(z));
}

struct Relu {
  template <class V>
  static VGF_INLINE V apply(V z) {
    return max(V(0.0f), z);
  }
  template <class V>
  static VGF_INLINE V slope(V z) {
    return if_greater(z, V(0.0f), V(1.0f), V(0.0f));
  }
};

struct Tanh {
  template <class V>
  static VGF_INLINE V apply(V z) {
    return tanh(z);
  }
  template <class V>
  static VGF_INLINE V slope(V z) {
    V t = tanh(z);
    return fma(V(0.0f) - t, t, V(1.0f));
  }
};

// expm1(z) = 2 t / (1 - t) with t = tanh(z / 2) keeps full accuracy near zero.
struct Elu {
  template <class V>
  static VGF_INLINE V apply(V z) {
    V t = tanh(V(0.5f) * min(V(0.0f), z));
    return if_greater(z, V(0.0f), z, (t + t) / (V(1.0f) - t));
  }
  template <class V>
  static VGF_INLINE V slope(V z) {
    return if_greater(z, V(0.0f), V(1.0f), exp(min(V(0.0f), z)));
  }
};

struct Silu {
  template <class V>
  static VGF_INLINE V apply(V z) {
    return not_below(z) * sigmoid(z);
  }
  template <class V>
  static VGF_INLINE V slope(V z) {
    z = within(z);
    V s = sigmoid(z);
    return s * fma(z, V(1.0f) - s, V(1.0f));
  }
};

// tanh(softplus(z)) = n / (n + 2) with e = exp(z), n = e (e + 2); past z = 20 it is 1 in float32.
struct Mish {
  template <class V>
  static VGF_INLINE V apply(V z) {
    V e = exp(min(V(20.0f), z));
    V n = e * (e + V(2.0f));
    return not_below(z) * (n / (n + V(2.0f)));
  }
  template <class V>
  static VGF_INLINE V slope(V z) {
    z = min(V(20.0f), not_below(z));
    V e = exp(z);
    V n = e * (e + V(2.0f));
    V d = V(1.0f) / (n + V(2.0f));
    return fma(z * V(4.0f) * e * (e + V(1.0f)), d * d, n * d);
  }
};

// 0.5 (1 + tanh u) = sigmoid(2 u), without the cancellation at large negative z.
struct Gelu {
  static constexpr float kScale = 1.5957691216057308f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  template <class V>
  static VGF_INLINE V apply(V z) {
    return not_below(z) * sigmoid(V(kScale) * z * fma(V(kCubic) * z, z, V(1.0f)));
  }
  template <class V>
  static VGF_INLINE V slope(V z) {
    z = within(z);
    V square = z * z;
    V s = sigmoid(V(kScale) * z * fma(V(kCubic), square, V(1.0f)));
    V inner = V(kScale) * fma(V(3.0f * kCubic), square, V(1.0f));
    return fma(z * s * (V(1.0f) - s), inner, s);
  }
};

struct GeluErf {
  template <class V>
  static VGF_INLINE V apply(V z) {
    V x = V(0.70710678118654752f) * z;
    return V(0.5f) * z * (V(1.0f) + erf(x, exp(V(0.0f) - x * x)));
  }
  template <class V>
  static VGF_INLINE V slope(V z) {
    z = within(z);
    V x = V(0.70710678118654752f) * z;
    V e = exp(V(0.0f) - x * x);
    return fma(V(0.3989422804014327f) * z, e, V(0.5f) * (V(1.0f) + erf(x, e)));
  }
};

}  // namespace vgf::math
