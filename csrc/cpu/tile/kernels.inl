// Instantiates the micro-kernels for the instruction set VGF_ISA, whose vector type `V` is already included.
#include "../kernels.hpp"
#include "pass.inl"
#if defined(VGF_PACKS_COLUMNS)
#include "columns.inl"
#endif
#include "gemm.inl"
#if defined(VGF_HAS_BF16_PRODUCTS)
#include "gemm_bf16.inl"
#endif
#if defined(VGF_GATHERS)
#include "gathered.inl"
#endif
#include "hidden.inl"
#include "pack.inl"
#include "pairwise.inl"
#if defined(VGF_PULLS)
#include "pull.inl"
#endif

#define VGF_STRING_(x) #x
#define VGF_STRING(x) VGF_STRING_(x)

namespace vgf::cpu::VGF_ISA {

#if defined(VGF_PULLS)
constexpr auto kPull = pull;
#else
constexpr void (*kPull)(const Pull&) = nullptr;
#endif

#if !defined(VGF_HAS_BF16_PRODUCTS)
constexpr Bf16Products kBf16Products{};
#endif

#if defined(VGF_GATHERS)
constexpr auto kGathered = gathered;
#else
constexpr void (*kGathered)(const Gemm&) = nullptr;
#endif

#if defined(VGF_PACKS_COLUMNS)
constexpr auto kPlanColumns = plan_columns;
constexpr auto kUnpackColumns = unpack_columns;
#else
constexpr void (*kPlanColumns)(const Active&, int, ColumnPlan&) = nullptr;
constexpr void (*kUnpackColumns)(const ColumnPlan&, int, float*, long) = nullptr;
#endif

extern const Kernels kKernels;
const Kernels kKernels = {
    VGF_STRING(VGF_ISA), gemm<Lane::single>, kGathered,       kPull, kPlanColumns, kUnpackColumns,
    kBf16Products,       hidden_forward,     hidden_backward, head,  distances,    bracket,
    pairwise,            adam,               pack_panel};

}  // namespace vgf::cpu::VGF_ISA
