// All that the engine asks of the CUDA runtime. Errors become std::runtime_error naming the call.
#pragma once

#include <ptx/launch.hpp>

#include "pack.hpp"
#include "pairs.hpp"
#include "schedule.hpp"
#include "vgf/cuda.hpp"

namespace vgf::cuda {

// The current device.
Machine machine();
void clear(void* memory, std::size_t bytes, Stream);
void copy(void* to, const void* from, std::size_t bytes, Stream);  // both on the device

// The kernels, each in a .cu of its own. M: rows of a tile.
template <Precision>
Kernel<Program> tile_kernel_in(int M);
template <>
Kernel<Program> tile_kernel_in<Precision::fp32>(int M);
template <>
Kernel<Program> tile_kernel_in<Precision::tf32>(int M);
template <>
Kernel<Program> tile_kernel_in<Precision::bf16>(int M);
template <Precision>
Kernel<Program> hopper_tile_kernel_in();
template <>
Kernel<Program> hopper_tile_kernel_in<Precision::fp32>();
template <>
Kernel<Program> hopper_tile_kernel_in<Precision::tf32>();
template <>
Kernel<Program> hopper_tile_kernel_in<Precision::bf16>();
Kernel<Program> hopper_latency_kernel_of(int M);
Kernel<PackJobs> pack_kernel_in(Precision);
// Where they take shared memory, they say how much.
Kernel<Pairs> count_kernel_of(int& shared_bytes);
Kernel<Pairs> interact_kernel_of(int dims, int& shared_bytes);
Kernel<Pairs> through_kernel_of(int& shared_bytes);
Kernel<Step> step_kernel_of();
Kernel<Judging> judge_kernel_of();

}  // namespace vgf::cuda
