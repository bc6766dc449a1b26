// Entry points of the CUDA engine. Raw device pointers to contiguous float32; the caller has checked every size.
//
// Work is enqueued on the caller's stream of the current device and nothing else happens: no allocation, no
// synchronisation, no global state, so calls may be captured in graphs and made from several threads and devices. Every
// function that computes takes a Workspace: with null memory it only returns the bytes that it needs (256-byte aligned;
// private to the call until its work is done), else it enqueues the work. Errors of the CUDA runtime become
// std::runtime_error naming the call; a network that the engine does not take is std::invalid_argument.
#pragma once

#include <string>
#include <vector>

#include "vgf/types.hpp"

namespace vgf::cuda {

using Stream = void*;  // cudaStream_t

struct Device {
  std::string name;
  int major, minor;  // compute capability
};
// The devices of this machine; empty without a driver. A driver older than what this was compiled with is an error.
std::vector<Device> devices();
// The driver's CUDA version, 1000 major + 10 minor; 0 without a driver.
int driver_version();

struct Workspace {
  void* memory = nullptr;
  std::size_t bytes = 0;
  Stream stream = nullptr;
};

// A number that the host knows or, with `at`, one that lies in device memory and is read when the work runs: a captured
// call then counts anew at every replay. There a negative number counts as none.
struct StepCount {
  int value;
  const int* at;
  StepCount(int value = 0, const int* at = nullptr) : value(value), at(at) {}
};
// FlowOptions whose num_steps may lie on the device: where that is one launch, whatever the number.
struct Options : FlowOptions {
  const int* num_steps_at;
  Options(const FlowOptions& options, const int* num_steps_at = nullptr)
      : FlowOptions(options), num_steps_at(num_steps_at) {}
};
// The most interacting particles of a state that are moved in one launch.
int most_in_a_launch(Precision);

// A packed network: an MLP, and device memory (16-byte aligned) that `pack` fills. A critic has one output; a policy
// takes the time besides observations and actions. The memory's contents are ready in stream order after `pack`.
struct Network {
  MlpSpec spec;
  int observations;
  bool critic;
  bool gradient;  // also what value_and_grad, direction and flow need
  Precision precision;
  void* packed;
};
std::size_t packed_bytes(const Network&);
// weights: E members' layers, on the device.
void pack(const Network&, const std::vector<LayerWeights>& weights, Stream);

// Networks of one call have one precision. q [E, B, N]
std::size_t value(const Network& critic, const float* obs, const float* actions, float* q, Sizes, Workspace);
// q [E, B, N], dq [B, N, A]; jacobian [E, B, N, A] or null
std::size_t value_and_grad(const Network& critic, const float* obs, const float* actions, float* q, float* dq,
                           float* jacobian, Sizes, Aggregate, Workspace);
// phi [B, N, A]
std::size_t direction(const Network& critic, const float* obs, const float* particles, float* phi, Sizes,
                      const FlowOptions&, Workspace);
// out [B, N, A], or [L+1, B, N, A] with trajectory
std::size_t flow(const Network& critic, const float* obs, const float* particles, float* out, bool trajectory, Sizes,
                 const Options&, Workspace);
// out [B, N, A]
std::size_t sample(const Network& policy, const float* obs, const float* noise, float* out, Sizes,
                   StepCount euler_steps, Clip, Workspace);
// out [B, A]
std::size_t act(const Network& critic, const Network& policy, const float* obs, const float* noise, float* out, Sizes,
                StepCount euler_steps, const Options&, const Selection&, Workspace);
// out [B]
std::size_t td_target(const Network& critic, const Network& target_critic, const Network& policy, const float* next_obs,
                      const float* noise, float* out, Sizes, StepCount euler_steps, const Options&, const Target&,
                      Workspace);

// One step (numbered from 1) of transport from the caller's gradient; moments [B, N, A] are updated in place.
std::size_t update(const float* particles, const float* dq, float* first, float* second, float* out, StepCount step,
                   Sizes, const FlowOptions&, Workspace);

}  // namespace vgf::cuda
