// What the machine is: its cache, and the instruction set that runs, the fastest it has or the one VGF_CPU_ISA names.
#include <cstdlib>
#include <stdexcept>

#if VGF_X86
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.hpp"
#include "vgf/cpu.hpp"

namespace vgf::cpu {

namespace scalar {
extern const Kernels kKernels;
}
#if VGF_X86
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx512bf16 {
extern const Kernels kKernels;
}
namespace avx512amx {
extern const Bf16Products kProducts;
}
#elif VGF_ARM64
namespace neon {
extern const Kernels kKernels;
}
#endif

namespace {

#if VGF_X86
// Whether the processor has AMX tiles of bfloat16, and the system lets this process use them.
bool has_amx() {
#if defined(VGF_EMULATE_AMX)
  return true;
#elif defined(__linux__)
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kTileState = 18, kRequest = 0x1023;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kAmxBf16) || !(d & kAmxTile)) return false;
  return syscall(SYS_arch_prctl, kRequest, kTileState) == 0;
#else
  return false;
#endif
}
#endif

// Fastest first.
std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> found;
#if VGF_X86
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (wide) found.push_back(&avx512::kKernels);
  if (wide && __builtin_cpu_supports("avx512bf16")) {
    // Zen multiplies pairs at twice the rate of float32, Intel's cores since Sapphire Rapids at half of it.
    const bool fast = __builtin_cpu_is("amd");
    found.insert(fast ? found.begin() : found.end(), &avx512bf16::kKernels);
    if (has_amx()) {
      static const Kernels tiles = [] {
        Kernels k = avx512bf16::kKernels;
        k.name = "avx512amx";
        k.bf16 = avx512amx::kProducts;
        return k;
      }();
      found.insert(found.begin(), &tiles);
    }
  }
  if (fma) found.push_back(&avx2::kKernels);
#elif VGF_ARM64
  found.push_back(&neon::kKernels);
#endif
  found.push_back(&scalar::kKernels);
  return found;
}

const Kernels& choose() {
  const auto found = runnable();
  const char* forced = std::getenv("VGF_CPU_ISA");
  if (!forced || !*forced) return *found.front();
  std::string names;
  for (const Kernels* k : found) {
    if (std::string(forced) == k->name) return *k;
    names += (names.empty() ? "" : ", ") + std::string(k->name);
  }
  throw std::runtime_error("VGF_CPU_ISA: expected one of " + names + " (what this machine runs), got \"" + forced +
                           "\"; unset it to use the fastest");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

bool skipping() {
  static const bool on = [] {
    const char* dense = std::getenv("VGF_CPU_DENSE");
    if (!dense || !*dense || std::string(dense) == "0") return true;
    if (std::string(dense) == "1") return false;
    throw std::runtime_error(std::string("VGF_CPU_DENSE: expected 0 or 1, got \"") + dense + "\"");
  }();
  return on;
}

long cache_bytes() {
  static const long bytes = [] {
    constexpr long kUsual = 1 << 20;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return found > 0 ? found : kUsual;
#else
    return kUsual;
#endif
  }();
  return bytes;
}

const char* isa() { return kernels().name; }

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Kernels* k : runnable()) names.push_back(k->name);
  return names;
}

}  // namespace vgf::cpu
