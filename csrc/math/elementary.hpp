// exp, tanh, sigmoid and erf to float32 accuracy (about 2 ulp), written once for scalars and vectors.
// Coefficients: tanh, erf and erfc after Cephes (S. L. Moshier).
#pragma once

#include "scalar.hpp"

namespace vgf::math {

template <class V>
VGF_INLINE V round_even(V x) {  // adding 1.5 * 2^23 leaves no fraction bits; good for |x| < 2^22
  return (x + V(12582912.0f)) - V(12582912.0f);
}

// sum * x^n + ... ; highest coefficient first.
template <class V, class... Rest>
VGF_INLINE V polynomial(V x, V sum, Rest... rest) {
  ((sum = fma(sum, x, V(rest))), ...);
  return sum;
}

template <class V>
VGF_INLINE V exp(V x) {
  x = min(V(88.37f), max(V(-87.3365447504f), x));
  V n = round_even(x * V(1.44269504088896341f));
  V r = fma(n, V(-0.693359375f), x);
  r = fma(n, V(2.12194440e-4f), r);
  V p = polynomial(r, V(1.9875691500e-4f), 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                        1.6666665459e-1f, 5.0000001201e-1f);
  return fma(p, r * r, r + V(1.0f)) * pow2(n);
}

// exp(-x) of x >= 0, the kernel of a scaled squared distance. Zero where exp stops at 1e-38, which times a distance of 1e30
// would not be nothing.
template <class V>
VGF_INLINE V rbf(V x) {
  return if_greater(x, V(87.3365447504f), V(0.0f), exp(V(0.0f) - x));
}

template <class V>
VGF_INLINE V sigmoid(V x) {
  return V(1.0f) / (V(1.0f) + exp(V(0.0f) - x));
}

template <class V>
VGF_INLINE V tanh(V x) {
  V square = x * x;
  V small = polynomial(square, V(-5.70498872745e-3f), 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                            -3.33332819422e-1f);
  small = fma(small * square, x, x);
  V large = V(1.0f) - V(2.0f) / (exp(x + x) + V(1.0f));
  return if_greater(V(0.625f), abs(x), small, large);
}

// erf(x), given also exp(-x^2), which the callers have at hand.
template <class V>
VGF_INLINE V erf(V x, V exp_minus_square) {
  V square = x * x;
  V small = x * polynomial(square, V(7.853861353153693e-5f), -8.010193625184903e-4f, 5.188327685732524e-3f,
                                -2.685381193529856e-2f, 1.128358514861418e-1f, -3.761262582423300e-1f,
                                1.128379165726710f);
  V a = abs(x);
  V inverse = V(1.0f) / max(V(1.0f), a);
  V y = inverse * inverse;
  V middle = polynomial(y, V(2.326819970068386e-2f), -1.387039388740657e-1f, 3.687424674597105e-1f,
                             -5.824733027278666e-1f, 6.210004621745983e-1f, -4.944515323274145e-1f,
                             3.404879937665872e-1f, -2.741127028184656e-1f, 5.638259427386472e-1f);
  V tail = polynomial(y, V(-1.047766399936249e+1f), 1.297719955372516e+1f, -7.495518717768503f,
                           2.921019019210786f, -1.015265279202700f, 4.218463358204948e-1f, -2.820767439740514e-1f,
                           5.641895067754075e-1f);
  V large = V(1.0f) - exp_minus_square * inverse * if_greater(V(2.0f), a, middle, tail);
  large = if_greater(V(0.0f), x, V(0.0f) - large, large);
  return if_greater(V(1.0f), a, small, large);
}

}  // namespace vgf::math
