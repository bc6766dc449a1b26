// csrc/cuda/ptx/cluster.cuh on the emulator.
#pragma once

#include "../emulator.hpp"

namespace vgf::cuda::ptx {

inline unsigned cluster_rank() { return emulator::current->block->rank; }
inline unsigned cluster_blocks() { return static_cast<unsigned>(emulator::cluster.size()); }
inline void sync_cluster() { emulator::sync_cluster(); }

}  // namespace vgf::cuda::ptx
