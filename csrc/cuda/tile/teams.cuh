// Who does what is done for a state or a tile between two passes: all kThreads, or a warp, which need not wait for others.
#pragma once

#include "../numbers.cuh"

namespace vgf::cuda {

struct OfBlock {
  static constexpr bool kIsWarp = false;
  static constexpr int kSize = kThreads;
  static __device__ int rank() { return ptx::thread(); }
  static __device__ int warp() { return ptx::thread() / kLanes; }
  static __device__ void sync() { ptx::sync_block(); }
};
struct OfWarp {
  static constexpr bool kIsWarp = true;
  static constexpr int kSize = kLanes;
  static __device__ int rank() { return ptx::thread() % kLanes; }
  static __device__ int warp() { return 0; }
  static __device__ void sync() { ptx::sync_warp(); }
};
constexpr int kMostOfAWarp = 19;  // particles of a state that a warp does alone: at most 12 distances a lane

}  // namespace vgf::cuda
