// Entry points of the CPU engine. Raw pointers to contiguous float32; the caller has checked every size.
// All functions are safe to call from several threads at once, and results do not depend on `threads`.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vgf/types.hpp"

namespace vgf::cpu {

// The instruction set in use; throws std::runtime_error where VGF_CPU_ISA names one that cannot run.
const char* isa();
// What this build and machine can run, fastest first.
std::vector<std::string> supported_isas();

// 64-bit fingerprint of (pointer, bytes) buffers. Every step is a bijection of the running hash, so a single
// changed word always changes it.
std::uint64_t fingerprint(const std::vector<std::pair<const void*, std::size_t>>& buffers, int threads);

class PackedMlp;  // an immutable copy of an MLP's weights in the engine's layout
// bf16: products between hidden layers take bfloat16 weights and activations and sum in float32; the first and last
// layer, norms, kernel and update stay float32.
std::shared_ptr<const PackedMlp> pack(const MlpSpec&, const std::vector<LayerWeights>&, bool gradient, Precision,
                                      int threads);
// The same in memory of the caller: packed_bytes(), which pack_into() fills and packed_at() then reads, given the
// same network, gradient and precision.
std::size_t packed_bytes(const MlpSpec&, bool gradient, Precision);
void pack_into(float* memory, const MlpSpec&, const std::vector<LayerWeights>&, bool gradient, Precision, int threads);
std::shared_ptr<const PackedMlp> packed_at(const float* memory, const MlpSpec&, bool gradient, Precision);
// For a call of few particles, where copying all weights takes longer than it gains, float32: forward products read the
// caller's matrices where they can, so these must outlive it. The rest is packed into memory that the thread keeps.
// Often: forward products will be so many that it pays to look through the weights first, so that units can be left out.
std::shared_ptr<const PackedMlp> borrow(const MlpSpec&, const std::vector<LayerWeights>&, bool gradient, bool often,
                                        int threads);

// q [E, B, N]
void value(const PackedMlp& critic, const float* obs, const float* actions, float* q, Sizes, int threads);
// q [E, B, N], dq [B, N, A]
void value_and_grad(const PackedMlp& critic, const float* obs, const float* actions, float* q, float* dq, Sizes,
                    Aggregate, int threads);
// The same of every critic on its own: dq [E, B, N, A]
void jacobian(const PackedMlp& critic, const float* obs, const float* actions, float* q, float* dq, Sizes, int threads);
// phi [B, N, A]
void direction(const PackedMlp& critic, const float* obs, const float* particles, float* phi, Sizes,
               const FlowOptions&, int threads);
// out [B, N, A], or [L+1, B, N, A] with trajectory
void flow(const PackedMlp& critic, const float* obs, const float* particles, float* out, bool trajectory, Sizes,
          const FlowOptions&, int threads);
// out [B, N, A]
void sample(const PackedMlp& policy, const float* obs, const float* noise, float* out, Sizes, int euler_steps, Clip,
            int threads);
// out [B, A]
void act(const PackedMlp& critic, const PackedMlp& policy, const float* obs, const float* noise, float* out, Sizes,
         int euler_steps, const FlowOptions&, const Selection&, int threads);
// out [B]
void td_target(const PackedMlp& critic, const PackedMlp& target_critic, const PackedMlp& policy, const float* next_obs,
               const float* noise, float* out, Sizes, int euler_steps, const FlowOptions&, const Target&, int threads);

// One step (numbered from 1) of transport from the caller's gradient; moments [B, N, A] are updated in place.
void update(const float* particles, const float* dq, float* first, float* second, float* out, int step, Sizes,
            const FlowOptions&, int threads);

}  // namespace vgf::cpu
