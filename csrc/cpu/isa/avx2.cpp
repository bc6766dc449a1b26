#define VGF_ISA avx2
#include "vec_avx2.hpp"
#include "../tile/kernels.inl"
