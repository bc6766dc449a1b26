// csrc/cuda/ptx/async.cuh on the emulator. A copy is done when it is started or when it is waited for: a kernel that is
// right gives the same result both ways.
#pragma once

#include <stdexcept>

#include "../emulator.hpp"

namespace vgf::cuda::ptx {

inline void copy16(void* shared, const void* global) {
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 || reinterpret_cast<std::uintptr_t>(global) % 16)
    throw std::runtime_error("emulator: cp.async of 16 bytes is not aligned");
  if (emulator::copies_are_late)
    emulator::current->copies.back().push_back({shared, global});
  else
    std::memcpy(shared, global, 16);
}
inline void commit_copies() { emulator::current->copies.emplace_back(); }
template <int Pending>
inline void wait_copies() {
  auto& groups = emulator::current->copies;  // the last one is open
  while (groups.size() > Pending + 1) {
    for (const emulator::Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, 16);
    groups.erase(groups.begin());
  }
}

}  // namespace vgf::cuda::ptx
