#define VGF_ISA scalar
#include "vec_scalar.hpp"
#include "../tile/kernels.inl"
