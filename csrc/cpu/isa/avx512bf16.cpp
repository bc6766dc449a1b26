// AVX-512 with vdpbf16ps (Zen 4 and later: 2 a cycle; Cooper Lake and later: 1): only the bfloat16 products differ.
#define VGF_ISA avx512bf16
#include "vec_avx512.hpp"
#include "../kernels.hpp"
#include "../tile/gemm.inl"
#include "../tile/gemm_rows16.inl"

namespace vgf::cpu::avx512bf16 {

extern void (*const kGemmPairs)(const Gemm&);
extern void (*const kGemmRows16)(const Gemm&);
void (*const kGemmPairs)(const Gemm&) = gemm<Pair>;
void (*const kGemmRows16)(const Gemm&) = gemm_rows16;

}  // namespace vgf::cpu::avx512bf16
