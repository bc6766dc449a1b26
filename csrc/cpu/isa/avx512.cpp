#define VGF_ISA avx512
#include "vec_avx512.hpp"
#include "../tile/kernels.inl"
