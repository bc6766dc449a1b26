// Every 64-bit Arm processor has these.
#define VGF_ISA neon
#include "vec_neon.hpp"
#include "../tile/kernels.inl"
