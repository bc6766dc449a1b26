// AVX-512 with vdpbf16ps (Zen 4 and later: 2 a cycle; Cooper Lake and later: 1).
#define VGF_ISA avx512bf16
#include "vec_avx512.hpp"
#include "../tile/kernels.inl"
