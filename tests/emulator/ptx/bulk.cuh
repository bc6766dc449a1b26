// csrc/cuda/ptx/bulk.cuh on the emulator. A copy or store is done when it is started, or when nothing else can go on.
#pragma once

#include <stdexcept>

#include "../emulator.hpp"

namespace vgf::cuda::ptx {

using Barrier = std::uint64_t;

// The same place in the shared memory of another block of the cluster.
template <class T>
T* in_block(T* shared, unsigned rank) {
  const auto offset = reinterpret_cast<unsigned char*>(shared) - emulator::current->block->shared;
  return reinterpret_cast<T*>(emulator::cluster.at(rank).shared + offset);
}

inline void begin_barrier(Barrier* barrier, int arrivals) { emulator::begin_barrier(barrier, arrivals); }
inline void publish_barriers() {}
inline void arrive_expecting(Barrier* barrier, int bytes) {
  emulator::expect_bytes(barrier, bytes);
  emulator::arrive(barrier);
}
using Remote = Barrier*;
inline void arrive_at(Remote barriers, int which) { emulator::arrive(barriers + which); }
inline void arrive_releasing(Barrier* barrier, unsigned rank) {
  emulator::arrive(in_block(barrier, rank), emulator::races::Scope::cluster);
}
inline void wait_acquiring(Barrier* barrier, unsigned parity) {
  emulator::wait_for(barrier, parity, emulator::races::Scope::cluster);
}
inline void arrive(Barrier* barrier) { emulator::arrive(barrier); }
inline void wait_for(Barrier* barrier, unsigned parity) { emulator::wait_for(barrier, parity); }

inline void copy_to_cluster(void* shared, const void* global, int bytes, Barrier* barrier, std::uint16_t blocks) {
  if ((reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global) | bytes) % 16)
    throw std::runtime_error("emulator: cp.async.bulk is not aligned to 16 bytes");
  for (unsigned rank = 0; rank < emulator::cluster.size(); rank++)
    if (blocks >> rank & 1) emulator::copy_telling(in_block(shared, rank), global, bytes, in_block(barrier, rank));
}

inline void copy_to_block(void* shared, const void* global, int bytes, Barrier* barrier) {
  copy_to_cluster(shared, global, bytes, barrier, static_cast<std::uint16_t>(1 << emulator::current->block->rank));
}

template <int Count>
inline void store_to(void* shared, const std::uint32_t (&word)[Count], Barrier* barrier, unsigned rank) {
  // An H100 was seen to stop with an illegal instruction.
  if (emulator::cluster.size() < 2) throw std::runtime_error("emulator: st.async in a block without a cluster");
  emulator::store_telling(in_block(static_cast<unsigned char*>(shared), rank), word, 4 * Count, in_block(barrier, rank));
}

}  // namespace vgf::cuda::ptx
