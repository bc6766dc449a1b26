// csrc/cuda/ptx/async.cuh on the emulator. A copy is done when it is started or when it is waited for: a kernel that is
// right gives the same result both ways.
#pragma once

#include "../emulator.hpp"

namespace vgf::cuda::ptx {

inline void copy16(void* shared, const void* global) { emulator::start_copy(shared, global); }
inline void commit_copies() { emulator::commit_copies(); }
template <int Pending>
inline void wait_copies() {
  emulator::wait_copies(Pending);
}

}  // namespace vgf::cuda::ptx
