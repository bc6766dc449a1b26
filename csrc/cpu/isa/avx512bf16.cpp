// AVX-512 with vdpbf16ps (Zen 4 and later: 2 a cycle; Cooper Lake and later: 1): only the bfloat16 products differ.
#define VGF_ISA avx512bf16
#include "vec_avx512.hpp"
#include "../kernels.hpp"
#include "../tile/gemm.inl"
#include "../tile/gemm_bf16.inl"

namespace vgf::cpu::avx512bf16 {

extern const Bf16Products kProducts;
const Bf16Products kProducts = kBf16Products;

}  // namespace vgf::cpu::avx512bf16
